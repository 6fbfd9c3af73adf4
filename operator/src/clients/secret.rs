//! The Secret `<client>-helios` of an application. Pure.

use std::collections::BTreeMap;

use helios_crds::{CLIENT_LABEL, HeliosClient, Reason};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use super::password::Passwords;
use super::plan::user;
use crate::names::{FIELD_MANAGER, GRPC_PORT};
use crate::observe::secrets::data;
use crate::security::certificates::AUTHORITY;
use crate::security::users::{Needed, uri};

/// Annotation: when the present password was written.
pub const ROTATED_AT: &str = "heliosdb.io/rotated-at";
const USER: &str = "user";
const PASSWORD: &str = "password";
const NEXT_PASSWORD: &str = "next-password";
const URI: &str = "uri";
const HOST: &str = "host";
const PORT: &str = "port";
/// gRPC client ports that a sidecar of mode Replica follows.
const FOLLOW: &str = "follow";
/// Entries that the operator writes; others are a user's.
const OWN: [&str; 8] = [USER, PASSWORD, NEXT_PASSWORD, URI, HOST, PORT, FOLLOW, AUTHORITY];

/// The passwords in the Secret that was found under the name.
///
/// # Errors
/// It is not the HeliosClient's.
pub fn passwords(client: &HeliosClient, found: Option<&Secret>) -> Result<Passwords, (Reason, String)> {
    let Some(found) = found else { return Ok(Passwords::default()) };
    let is_ours = found
        .owner_references()
        .iter()
        .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == client.metadata.uid.as_ref());
    if !is_ours {
        let message = format!(
            "Secret {} is not of this HeliosClient; delete it, or rename the HeliosClient",
            found.name_any()
        );
        return Err((Reason::NameTaken, message));
    }
    let entries = data(found);
    let text = |name: &str| entries.get(name).filter(|text| !text.is_empty()).cloned();
    let rotated_at = found.annotations().get(ROTATED_AT).and_then(|text| text.parse().ok());
    Ok(Passwords { present: text(PASSWORD), next: text(NEXT_PASSWORD), rotated_at })
}

/// The Secret with these passwords, from the one that was found; `None` if that is as desired.
pub fn secret(
    client: &HeliosClient,
    found: Option<&Secret>,
    passwords: &Passwords,
    needed: &Needed,
) -> Option<Secret> {
    let mut secret = found.cloned().unwrap_or_else(|| Secret {
        metadata: ObjectMeta {
            name: Some(helios_crds::client_secret(&client.name_any())),
            namespace: client.namespace(),
            owner_references: client.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    });
    let labels =
        [(CLIENT_LABEL, client.name_any()), ("app.kubernetes.io/managed-by", FIELD_MANAGER.to_owned())];
    secret.labels_mut().extend(labels.map(|(name, value)| (name.to_owned(), value)));
    if let Some(at) = passwords.rotated_at {
        secret.annotations_mut().insert(ROTATED_AT.to_owned(), at.to_string());
    }
    let held = secret.data.get_or_insert_default();
    held.retain(|name, _| !OWN.contains(&name.as_str()));
    held.extend(
        entries(&user(client), passwords, needed)
            .into_iter()
            .map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))),
    );
    (found != Some(&secret)).then_some(secret)
}

/// Without a password that all members accept there is no `password` and no `uri`: a pod that refers to them waits.
fn entries(user: &str, passwords: &Passwords, needed: &Needed) -> BTreeMap<&'static str, String> {
    let mut entries = BTreeMap::from([
        (USER, user.to_owned()),
        (HOST, needed.host.clone()),
        (PORT, needed.port.to_string()),
        // A leader answers with the addresses of followers (GoTo), and serves the stream itself if there is none.
        (FOLLOW, format!("{}:{GRPC_PORT},{}:{GRPC_PORT}", needed.read_host, needed.host)),
    ]);
    entries.extend(needed.authority.clone().map(|pem| (AUTHORITY, pem)));
    entries.extend(passwords.next.clone().map(|next| (NEXT_PASSWORD, next)));
    if let Some(password) = &passwords.present {
        let uri = uri(needed.authority.is_some(), user, password, &needed.host, needed.port);
        entries.extend([(PASSWORD, password.clone()), (URI, uri)]);
    }
    entries
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn client() -> HeliosClient {
        let mut client =
            HeliosClient::new("cart", serde_json::from_value(json!({"cluster": {"name": "demo"}})).unwrap());
        client.metadata.namespace = Some("shop".to_owned());
        client.metadata.uid = Some("1".to_owned());
        client
    }

    fn needed() -> Needed {
        Needed {
            host: "demo.data.svc".to_owned(),
            port: 6379,
            read_host: "demo-read.data.svc".to_owned(),
            authority: Some("PEM".to_owned()),
            backup_user: false,
        }
    }

    #[test]
    fn secret_has_a_password_only_when_members_accept_it() {
        let client = client();
        let next = Passwords { next: Some("n".to_owned()), ..Passwords::default() };
        let first = secret(&client, None, &next, &needed()).unwrap();
        assert_eq!(
            data(&first).keys().collect::<Vec<_>>(),
            ["ca.crt", "follow", "host", "next-password", "port", "user"]
        );
        assert_eq!(passwords(&client, Some(&first)), Ok(next.clone()));
        assert_eq!(secret(&client, Some(&first), &next, &needed()), None, "as desired");
        let published =
            Passwords { present: Some("n".to_owned()), next: None, rotated_at: Some(Timestamp::UNIX_EPOCH) };
        let second = secret(&client, Some(&first), &published, &needed()).unwrap();
        assert_eq!(data(&second)["follow"], "demo-read.data.svc:50051,demo.data.svc:50051");
        assert_eq!(data(&second)["uri"], "rediss://shop.cart:n@demo.data.svc:6379");
        assert!(!data(&second).contains_key("next-password"));
        assert_eq!(passwords(&client, Some(&second)), Ok(published));
        let owner = &second.owner_references()[0];
        assert_eq!((owner.kind.as_str(), owner.controller), ("HeliosClient", Some(true)));
        assert_eq!(second.type_.as_deref(), Some("Opaque"));
    }

    #[test]
    fn secret_of_another_owner_is_not_used() {
        let foreign = Secret {
            metadata: ObjectMeta { name: Some("cart-helios".to_owned()), ..ObjectMeta::default() },
            ..Secret::default()
        };
        assert_eq!(passwords(&client(), Some(&foreign)).unwrap_err().0, Reason::NameTaken);
    }

    #[test]
    fn entries_of_a_user_stay_in_the_secret() {
        let client = client();
        let held = Passwords { present: Some("p".to_owned()), ..Passwords::default() };
        let mut found = secret(&client, None, &held, &needed()).unwrap();
        found.data.get_or_insert_default().insert("note".to_owned(), ByteString(b"mine".to_vec()));
        let plain = Needed { authority: None, ..needed() };
        let changed = secret(&client, Some(&found), &held, &plain).unwrap();
        let entries = data(&changed);
        assert_eq!(
            (entries["note"].as_str(), entries["uri"].as_str()),
            ("mine", "redis://shop.cart:p@demo.data.svc:6379")
        );
        assert!(!entries.contains_key("ca.crt"));
    }
}
