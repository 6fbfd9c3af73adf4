//! Authentication by the header `authorization` of HTTP and gRPC (RFC 7617, RFC 6750).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use helios_config::Secret;
use helios_proto::Error;
use helios_proto::v1::ErrorCode;

use super::{Access, Client, Identity};
use crate::rejections::Rejections;

/// Returns the verdict of `judge` on a request with this header, after the delay for failed attempts of the address, as
/// for Redis clients. A header with which this connection authenticated before is not delayed.
///
/// # Errors
/// Those of `judge`, and `Overloaded` if too many attempts wait.
pub async fn admit_in_turn(
    access: &Access,
    port: &'static str,
    client: &Client,
    rejections: &Rejections,
    header: Option<&str>,
    judge: impl FnOnce() -> Result<Identity, Error>,
) -> Result<Identity, Error> {
    let attempt = header.filter(|header| credentials(header).is_some());
    if let Some(header) = attempt
        && !client.has_proven(header)
    {
        access.turn(client.address.ip()).await.inspect_err(|_| rejections.count("auth_throttled"))?;
    }
    let found = judge();
    match (&found, attempt) {
        (Ok(_), attempt) => client.remember(attempt),
        (Err(error), Some(_)) if error.code == ErrorCode::Unauthenticated => {
            client.remember(None);
            access.failed(port, client.address, rejections);
        }
        (Err(error), _) => {
            let reason =
                if error.code == ErrorCode::ProtectedMode { "protected_mode" } else { "unauthenticated" };
            rejections.count(reason);
        }
    }
    found
}

/// Authenticates the user or token in the header. `token` is `gateway.token`, the one in the configuration itself.
///
/// # Errors
/// `Unauthenticated`; the message says what to send and repeats nothing of what was sent.
pub fn admitted(access: &Access, token: Option<&Secret>, header: Option<&str>) -> Result<Identity, Error> {
    let refused = |message: &str| Error::new(ErrorCode::Unauthenticated, message);
    let has_token = token.is_some() || access.has_token();
    let Some(header) = header else {
        return Err(refused(match (has_token, access.is_open()) {
            (true, true) => "send the gateway's token: Authorization: Bearer <gateway.token>",
            (true, false) => {
                "send the gateway's token, Authorization: Bearer <gateway.token>, or a user, Basic <user:password>"
            }
            (false, _) => "authenticate: Authorization: Basic <user:password in base64>",
        }));
    };
    let found = match credentials(header) {
        Some(Credentials::Token(given)) => {
            let known = token.is_some_and(|token| token.matches(given.as_bytes()));
            if known { Some(super::admin()) } else { access.by_token(given.as_bytes()) }
        }
        Some(Credentials::User { name, password }) => access.authenticate(name.as_bytes(), &password),
        None => {
            return Err(refused(
                "the header Authorization has to be Bearer <token> or Basic <user:password in base64>",
            ));
        }
    };
    found.ok_or_else(|| refused("wrong token (gateway.token), or wrong user or password"))
}

#[derive(PartialEq, Eq)]
enum Credentials {
    Token(String),
    User { name: String, password: Vec<u8> },
}

/// Parses the header; `None` if it is malformed or of another scheme.
fn credentials(header: &str) -> Option<Credentials> {
    let (scheme, given) = header.split_once(' ')?;
    let given = given.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Credentials::Token(given.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = STANDARD.decode(given).ok()?;
    let colon = text.iter().position(|byte| *byte == b':')?;
    let name = String::from_utf8(text[..colon].to_vec()).ok()?;
    Some(Credentials::User { name, password: text[colon + 1..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_parsed_from_bearer_and_basic_headers_only() {
        let user =
            |name: &str, password: &str| Credentials::User { name: name.into(), password: password.into() };
        for (header, expected) in [
            ("Bearer open sesame", Some(Credentials::Token("open sesame".into()))),
            ("bearer t", Some(Credentials::Token("t".into()))),
            // curl -u app:se:cret
            ("Basic YXBwOnNlOmNyZXQ=", Some(user("app", "se:cret"))),
            ("basic YXBwOg==", Some(user("app", ""))),
            ("Basic YXBw", None),
            ("Basic !", None),
            ("Digest x", None),
            ("Bearer", None),
            ("", None),
        ] {
            assert!(credentials(header) == expected, "{header}");
        }
    }
}
