//! Authorization of gateway requests: by token or user, or, if neither is configured, for programs on this host. Pure.

use std::net::IpAddr;

use helios_config::Secret;
use helios_proto::v1::ErrorCode;
use helios_service::auth::{Access, Identity, admitted};
use warp::http::HeaderMap;
use warp::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};

use crate::error::Error;

/// Authenticates a request.
///
/// A browser on this host reaches a gateway on loopback on behalf of any page that it shows. So a request from another
/// site's page is refused, and without a token also one with another host name than this host's (DNS rebinding).
pub fn check(
    headers: &HeaderMap,
    token: Option<&Secret>,
    access: &Access,
    from: IpAddr,
) -> Result<Identity, Error> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(HOST).unwrap_or_default();
    if let Some(origin) = text(ORIGIN)
        && origin.split_once("://").map(|(_, site)| site) != Some(host)
    {
        return Err(refused(format!("pages of {origin} may not use this gateway")));
    }
    match access.anyone() {
        Some(anyone) if token.is_none() && !access.has_token() => {
            access.check_host(from)?;
            match is_this_host(host) {
                true => Ok(anyone),
                false => Err(refused(format!(
                    "host {host:?}: without a token the gateway answers as localhost only"
                ))),
            }
        }
        _ => admitted(access, token, text(AUTHORIZATION)),
    }
}

fn is_this_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn refused(message: String) -> Error {
    Error::new(ErrorCode::Unauthenticated, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use helios_service::auth::AccessOptions;
    use helios_service::auth::Role;

    const NEAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn check(headers: &HeaderMap, token: Option<&Secret>) -> Result<Identity, Error> {
        super::check(headers, token, &Access::default(), NEAR)
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_gateway_with_a_token_requires_it() {
        let token = Secret::new("open sesame");
        let with = |authorization: &str| {
            check(&headers(&[("host", "db.example:8443"), ("authorization", authorization)]), Some(&token))
        };
        assert!(with("Bearer open sesame").is_ok());
        assert!(with("bearer open sesame").is_ok());
        for wrong in ["Bearer open", "Bearer ", "Bearer", "Basic open sesame", "open sesame"] {
            assert_eq!(with(wrong).unwrap_err().code, ErrorCode::Unauthenticated, "{wrong}");
        }
        assert!(check(&headers(&[("host", "localhost")]), Some(&token)).is_err());
    }

    #[test]
    fn without_a_token_only_this_host_is_served() {
        let at = |host: &str| check(&headers(&[("host", host)]), None);
        for near in ["localhost", "LOCALHOST:8443", "127.0.0.1:8443", "127.8.9.1", "[::1]:8443", "[::1]"] {
            assert!(at(near).is_ok(), "{near}");
        }
        for far in ["", "evil.example", "evil.example:8443", "10.0.0.1:8443", "localhost.evil.example"] {
            assert!(at(far).is_err(), "{far}");
        }
    }

    #[test]
    fn protected_mode_refuses_other_hosts_whatever_host_header_they_send() {
        let access = Access::load(AccessOptions { protected_mode: true, ..Default::default() }).unwrap();
        let from = |from: &str, token: Option<&Secret>| {
            let headers = headers(&[("host", "localhost"), ("authorization", "Bearer t")]);
            super::check(&headers, token, &access, from.parse().unwrap()).map_err(|error| error.code)
        };
        assert!(from("127.0.0.1", None).is_ok() && from("::1", None).is_ok());
        assert_eq!(from("192.0.2.1", None).unwrap_err(), ErrorCode::ProtectedMode);
        assert!(from("192.0.2.1", Some(&Secret::new("t"))).is_ok(), "the token authenticates");
    }

    #[test]
    fn a_request_of_another_sites_page_is_refused_with_or_without_a_token() {
        let token = Secret::new("t");
        let from = |origin: &str| {
            headers(&[("host", "localhost:8443"), ("origin", origin), ("authorization", "Bearer t")])
        };
        assert!(check(&from("http://localhost:8443"), Some(&token)).is_ok());
        assert!(check(&from("http://localhost:8443"), None).is_ok());
        for other in ["http://evil.example", "null", "http://localhost:8444"] {
            assert!(check(&from(other), Some(&token)).is_err(), "{other}");
            assert!(check(&from(other), None).is_err(), "{other}");
        }
    }

    #[test]
    fn password_and_token_both_authenticate() {
        let (access, token) =
            (Access::load(AccessOptions::with_password("secret")).unwrap(), Secret::new("t"));
        let with = |authorization: &str, token: Option<&Secret>| {
            let headers = headers(&[("host", "db.example"), ("authorization", authorization)]);
            super::check(&headers, token, &access, NEAR).map(|identity| identity.role())
        };
        // default:secret
        let right = "Basic ZGVmYXVsdDpzZWNyZXQ=";
        assert_eq!(with(right, None), Ok(Role::Admin));
        assert_eq!(with(right, Some(&token)), Ok(Role::Admin));
        assert_eq!(with("Bearer t", Some(&token)), Ok(Role::Admin));
        for (wrong, token) in
            [("Bearer t", None), ("Basic ZGVmYXVsdDpzZWNyZQ==", None), ("Bearer secret", Some(&token))]
        {
            assert_eq!(with(wrong, token).unwrap_err().code, ErrorCode::Unauthenticated, "{wrong}");
        }
        assert!(super::check(&headers(&[("host", "localhost")]), None, &access, NEAR).is_err());
    }
}
