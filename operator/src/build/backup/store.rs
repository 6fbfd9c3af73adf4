//! A HeliosBackupStore as arguments, environment and volumes of a pod.

use helios_crds::{HeliosBackupStore, HeliosBackupStoreSpec, S3Spec};
use k8s_openapi::api::core::v1::{
    EnvFromSource, PersistentVolumeClaimVolumeSource, SecretEnvSource, Volume, VolumeMount,
};

use super::pod::{Parts, mount, secret_volume};
use crate::security::certificates::AUTHORITY;

const KEY_DIR: &str = "/etc/helios-backup/keys";
const CREDENTIALS_DIR: &str = "/etc/helios-backup/credentials";
const CA_DIR: &str = "/etc/helios-backup/ca";
const VOLUME_DIR: &str = "/backup";

/// URL of the store, as `heliosd` takes it in the pods of the operator: paths of files are those of the pod.
pub fn url(store: &HeliosBackupStore) -> String {
    let HeliosBackupStoreSpec { s3, gcs, azure, credentials, .. } = &store.spec;
    let at = |scheme: &str, bucket: &str, prefix: &Option<String>| match prefix {
        Some(prefix) => format!("{scheme}://{bucket}/{prefix}"),
        None => format!("{scheme}://{bucket}"),
    };
    if let Some(s3) = s3 {
        let options = s3_options(s3, credentials.is_some());
        let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
        return at("s3", &s3.bucket, &s3.prefix) + &query;
    }
    if let Some(gcs) = gcs {
        return at("gs", &gcs.bucket, &gcs.prefix);
    }
    if let Some(azure) = azure {
        return format!("{}?account={}", at("az", &azure.container, &azure.prefix), azure.account);
    }
    format!("file://{VOLUME_DIR}")
}

fn s3_options(s3: &S3Spec, has_credentials: bool) -> Vec<String> {
    let endpoint = s3.endpoint.as_ref();
    let path_style = s3.path_style.or(endpoint.map(|_| true));
    let options = [
        endpoint.map(|endpoint| format!("endpoint={endpoint}")),
        endpoint.filter(|url| url.starts_with("http://")).map(|_| "allowHttp=true".to_owned()),
        s3.region.as_ref().map(|region| format!("region={region}")),
        path_style.map(|path_style| format!("pathStyle={path_style}")),
        s3.ca_secret.as_ref().map(|_| format!("caFile={CA_DIR}/{AUTHORITY}")),
        // Read for each request, so that a rotated Secret needs no restart.
        has_credentials.then(|| format!("credentials={CREDENTIALS_DIR}")),
    ];
    options.into_iter().flatten().collect()
}

/// TCP ports that a pod needs to use the store.
pub(super) fn ports(store: &HeliosBackupStore) -> Vec<i32> {
    let HeliosBackupStoreSpec { s3, volume, credentials, .. } = &store.spec;
    if volume.is_some() {
        return Vec::new();
    }
    let endpoint = s3.as_ref().and_then(|s3| s3.endpoint.as_deref()).unwrap_or("https://");
    let port = endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let default = if endpoint.starts_with("http://") { 80 } else { 443 };
    // By the identity of the pod: the metadata services of the providers, and their token services.
    let identity: &[i32] = if credentials.is_some() { &[] } else { &[80, 443, 988] };
    let mut ports: Vec<_> = [port.unwrap_or(default)].into_iter().chain(identity.iter().copied()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Secrets that have to exist, each with the field that names it.
pub fn secrets(store: &HeliosBackupStore) -> Vec<(&'static str, &str)> {
    let HeliosBackupStoreSpec { s3, credentials, encryption, .. } = &store.spec;
    let ca = s3.as_ref().and_then(|s3| s3.ca_secret.as_deref()).map(|name| ("spec.s3.caSecret", name));
    let credentials = credentials.as_ref().map(|it| ("spec.credentials.secretName", &*it.secret_name));
    let key = encryption.as_ref().map(|it| ("spec.encryption.keySecret", &*it.key_secret));
    [credentials, key, ca].into_iter().flatten().collect()
}

/// Adds to `parts` what a pod needs to use the store.
pub(super) fn add(parts: &mut Parts, store: &HeliosBackupStore) {
    let HeliosBackupStoreSpec { s3, volume, credentials, encryption, service_account_name, .. } = &store.spec;
    parts.args.extend(["--store".to_owned(), url(store)]);
    if let Some(name) = service_account_name {
        parts.service_account = name.clone();
    }
    if let Some(encryption) = encryption {
        parts.args.extend(["--key-dir".to_owned(), KEY_DIR.to_owned()]);
        parts.secret("keys", KEY_DIR, &encryption.key_secret, &[]);
    }
    if let Some(ca) = s3.as_ref().and_then(|s3| s3.ca_secret.as_ref()) {
        parts.secret("store-ca", CA_DIR, ca, &[AUTHORITY]);
    }
    match credentials {
        Some(credentials) if s3.is_some() => {
            parts.volumes.push(secret_volume("credentials", &credentials.secret_name, &[]));
            parts.mounts.push(mount("credentials", CREDENTIALS_DIR, Some(true)));
        }
        Some(credentials) => parts.env_from.push(EnvFromSource {
            secret_ref: Some(SecretEnvSource {
                name: credentials.secret_name.clone(),
                ..SecretEnvSource::default()
            }),
            ..EnvFromSource::default()
        }),
        None => {}
    }
    if let Some(volume) = volume {
        parts.volumes.push(Volume {
            name: "backup".to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: volume.claim_name.clone(),
                ..PersistentVolumeClaimVolumeSource::default()
            }),
            ..Volume::default()
        });
        parts
            .mounts
            .push(VolumeMount { sub_path: volume.sub_path.clone(), ..mount("backup", VOLUME_DIR, None) });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn store(spec: serde_json::Value) -> HeliosBackupStore {
        HeliosBackupStore::new("store", serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn url_has_the_options_of_the_store() {
        for (spec, wanted) in [
            (json!({"s3": {"bucket": "acme"}}), "s3://acme"),
            (
                json!({"s3": {"bucket": "acme", "prefix": "a/b", "region": "eu-west-1"}, "credentials": {"secretName": "x"}}),
                "s3://acme/a/b?region=eu-west-1&credentials=/etc/helios-backup/credentials",
            ),
            (
                json!({"s3": {"bucket": "acme", "endpoint": "http://weed:8333"}}),
                "s3://acme?endpoint=http://weed:8333&allowHttp=true&pathStyle=true",
            ),
            (
                json!({"s3": {"bucket": "acme", "endpoint": "https://s3.example", "pathStyle": false, "caSecret": "ca"}}),
                "s3://acme?endpoint=https://s3.example&pathStyle=false&caFile=/etc/helios-backup/ca/ca.crt",
            ),
            (json!({"gcs": {"bucket": "acme", "prefix": "p"}}), "gs://acme/p"),
            (json!({"azure": {"container": "box", "account": "acme"}}), "az://box?account=acme"),
            (json!({"volume": {"claimName": "c", "subPath": "d"}}), "file:///backup"),
        ] {
            assert_eq!(url(&store(spec)), wanted);
        }
    }

    #[test]
    fn ports_are_those_of_the_endpoint_and_of_the_identity() {
        let credentials = json!({"secretName": "x"});
        for (spec, wanted) in [
            (json!({"s3": {"bucket": "acme"}, "credentials": credentials}), vec![443]),
            (
                json!({"s3": {"bucket": "acme", "endpoint": "http://weed:8333"}, "credentials": credentials}),
                vec![8333],
            ),
            (
                json!({"s3": {"bucket": "acme", "endpoint": "http://weed"}, "credentials": credentials}),
                vec![80],
            ),
            (json!({"gcs": {"bucket": "acme"}}), vec![80, 443, 988]),
            (json!({"volume": {"claimName": "c"}}), vec![]),
        ] {
            assert_eq!(ports(&store(spec)), wanted);
        }
    }
}
