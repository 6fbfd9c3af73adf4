//! Redaction of secrets from the report. Secrets themselves are never read; this masks those that slip into
//! other places: environment, annotations, configuration, logs.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

const MASK: &str = "<redacted>";
/// Annotation with kubectl's copy of everything that was applied, including secrets of earlier specs.
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

static RULES: LazyLock<[(Regex, &'static str); 5]> = LazyLock::new(|| {
    let rule = |pattern: &str| Regex::new(pattern).expect("the tests of this module use every pattern");
    [
        // Keys and certificates' keys, on one line or several.
        (
            rule(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)"),
            "<redacted>",
        ),
        // Tokens of Kubernetes and most other JSON web tokens.
        (rule(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?"), "<redacted>"),
        // scheme://user:password@host
        (rule(r"([a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/@]+@"), "$1:<redacted>@"),
        // Authorization header of HTTP, and bearer tokens elsewhere.
        (
            rule(
                r#"(?i)\b(authorization\\?["']?\s*[:=]\s*\\?["']?(?:(?:bearer|basic)\s)?|bearer\s)\s*[A-Za-z0-9+/=._~-]{8,}"#,
            ),
            "$1<redacted>",
        ),
        // name: value, name=value, "name":"value", also with the quotes escaped as in JSON within JSON.
        (
            rule(
                r#"(?i)((?:\b|_)(?:password|passwd|passphrase|requirepass|masterauth|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|client[_-]key[_-]?data)\b\\?["']?[ \t]*[:=][ \t]*)(\\?["'])?(?:[^\s"',;}\\]+)"#,
            ),
            "$1$2<redacted>",
        ),
    ]
});

/// Returns text of any kind (logs, configuration files, events) with its secrets masked.
pub fn text(text: &str) -> String {
    let mut text = Cow::Borrowed(text);
    for (pattern, replacement) in RULES.iter() {
        if let Cow::Owned(changed) = pattern.replace_all(&text, *replacement) {
            text = Cow::Owned(changed);
        }
    }
    text.into_owned()
}

/// Redacts a Kubernetes object: removes bookkeeping, masks the values of fields and variables with a secret's
/// name, and masks all other strings by [`text`].
pub fn object(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            fields.remove(APPLIED);
            let variable = fields.get("name").and_then(Value::as_str).is_some_and(is_secret);
            for (name, field) in fields.iter_mut() {
                let hidden = is_secret(name) || (variable && name == "value");
                match field {
                    Value::String(text) if hidden && !text.is_empty() => *text = MASK.to_owned(),
                    other => object(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(object),
        Value::String(found) => *found = text(found),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether a variable or field of this name holds a secret itself, not the name of one.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    const ENDINGS: [&str; 9] = [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "api_key",
        "apikey",
        "private_key",
        "access_key",
    ];
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_in_text_are_masked() {
        for secret in [
            "password: hunter2hunter2",
            "PASSWORD=hunter2hunter2",
            r#"{"password":"hunter2hunter2"}"#,
            r#"{"line":"{\"token\":\"hunter2hunter2\"}"}"#,
            "HELIOS_AUTH_PASSWORD=hunter2hunter2 started",
            "helios_token: 'hunter2hunter2'",
            "dial redis://:hunter2hunter2@demo:6379",
            "dial redis://app:hunter2hunter2@demo:6379",
            "Authorization: Bearer hunter2hunter2",
            "authorization=hunter2hunter2",
            "x eyJhbGciOiJSUzI1NiJ9.hunter2hunter2.abc y",
            "-----BEGIN EC PRIVATE KEY-----\nhunter2hunter2\n-----END EC PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\nhunter2hunter2",
            "apiKey: hunter2hunter2",
        ] {
            let masked = text(secret);
            assert!(!masked.contains("hunter2"), "{secret:?} became {masked:?}");
            assert!(masked.contains(MASK), "{masked:?}");
        }
    }

    #[test]
    fn text_without_secrets_is_unchanged() {
        for plain in [
            "automountServiceAccountToken: false",
            "secretName: demo-auth",
            "member demo-1 is 40 entries behind",
            "keys=12 term=4 leader=demo-0",
            "- serviceAccountToken:\n    expirationSeconds: 3607",
            "http://demo-0.demo-peers.default.svc:7000",
        ] {
            assert_eq!(text(plain), plain);
        }
    }

    #[test]
    fn objects_lose_only_secrets_and_bookkeeping() {
        let mut pod = json!({
            "metadata": {
                "name": "demo-0",
                "managedFields": [{"manager": "x"}],
                "annotations": {APPLIED: "{\"password\":\"hunter2\"}", "note": "password=hunter2 here"},
            },
            "spec": {"automountServiceAccountToken": false, "containers": [{"env": [
                {"name": "REDIS_PASSWORD", "value": "hunter2"},
                {"name": "LOG", "value": "info"},
                {"name": "OTHER_TOKEN", "valueFrom": {"secretKeyRef": {"name": "demo-auth", "key": "token"}}},
            ]}]},
        });
        object(&mut pod);
        assert_eq!(
            pod,
            json!({
                "metadata": {"name": "demo-0", "annotations": {"note": "password=<redacted> here"}},
                "spec": {"automountServiceAccountToken": false, "containers": [{"env": [
                    {"name": "REDIS_PASSWORD", "value": "<redacted>"},
                    {"name": "LOG", "value": "info"},
                    {"name": "OTHER_TOKEN", "valueFrom": {"secretKeyRef": {"name": "demo-auth", "key": "token"}}},
                ]}]},
            })
        );
    }
}
