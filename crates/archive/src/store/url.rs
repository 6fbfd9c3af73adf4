//! Stores by URL.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use url::Url;

use super::Store;
use crate::{ArchiveError, Result};

const SCHEMES: &str = "s3, gs, az or file";

pub(super) fn open(url: &Url) -> Result<Store> {
    #[cfg_attr(not(feature = "remote"), expect(unused_mut, reason = "only remote stores have options"))]
    let mut options = Options::of(url)?;
    let store = match url.scheme() {
        "file" => directory(url)?,
        #[cfg(feature = "remote")]
        "s3" => Store::new(remote::s3(host(url)?, &mut options)?, prefix(url)),
        #[cfg(feature = "remote")]
        "gs" => Store::new(remote::google(host(url)?)?, prefix(url)),
        #[cfg(feature = "remote")]
        "az" => Store::new(remote::azure(host(url)?, &mut options)?, prefix(url)),
        other => {
            return Err(ArchiveError::Invalid(format!("a store is one of {SCHEMES}, {other:?} is none")));
        }
    };
    options.finish()?;
    Ok(store)
}

fn directory(url: &Url) -> Result<Store> {
    let no_path = || ArchiveError::Invalid(format!("{url} names no directory; write file:///dir"));
    let path = url.to_file_path().map_err(|()| no_path())?;
    std::fs::create_dir_all(&path)
        .map_err(|e| ArchiveError::Invalid(format!("cannot create the directory {}: {e}", path.display())))?;
    let local = LocalFileSystem::new_with_prefix(&path);
    let local = local.map_err(|e| ArchiveError::Invalid(format!("cannot open {}: {e}", path.display())))?;
    Ok(Store::new(Arc::new(local.with_fsync(true)), ""))
}

#[cfg(feature = "remote")]
fn host(url: &Url) -> Result<&str> {
    url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| {
        ArchiveError::Invalid(format!("{url} names no bucket; write {}://bucket/prefix", url.scheme()))
    })
}

#[cfg(feature = "remote")]
fn prefix(url: &Url) -> &str {
    url.path().trim_matches('/')
}

/// Options in the query of a URL, each of which has to be used.
struct Options(BTreeMap<String, String>);

impl Options {
    fn of(url: &Url) -> Result<Self> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ArchiveError::Invalid(
                "a store's URL has no user and no password: URLs are shown in status and logs".to_owned(),
            ));
        }
        let pairs = url.query_pairs();
        Ok(Self(pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect()))
    }

    #[cfg(feature = "remote")]
    fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    #[cfg(feature = "remote")]
    fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        let parse = |value: String| {
            value
                .parse()
                .map_err(|_| ArchiveError::Invalid(format!("{key} has to be true or false, not {value:?}")))
        };
        self.take(key).map(parse).transpose()
    }

    fn finish(self) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(ArchiveError::Invalid(format!("a store of this scheme has no option {key:?}"))),
        }
    }
}

#[cfg(feature = "remote")]
mod remote {
    use std::path::PathBuf;
    use std::time::Duration;

    use async_trait::async_trait;
    use object_store::aws::{AmazonS3Builder, AwsCredential};
    use object_store::azure::MicrosoftAzureBuilder;
    use object_store::gcp::GoogleCloudStorageBuilder;
    use object_store::{
        BackoffConfig, Certificate, ClientOptions, CredentialProvider, ObjectStore, RetryConfig,
    };

    use super::*;

    pub fn s3(bucket: &str, options: &mut Options) -> Result<Arc<dyn ObjectStore>> {
        let mut client = ClientOptions::new();
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retries());
        if let Some(endpoint) = options.take("endpoint") {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = options.take("region") {
            builder = builder.with_region(region);
        }
        if let Some(path_style) = options.flag("pathStyle")? {
            builder = builder.with_virtual_hosted_style_request(!path_style);
        }
        if let Some(allowed) = options.flag("allowHttp")? {
            client = client.with_allow_http(allowed);
        }
        if let Some(file) = options.take("caFile") {
            for certificate in certificates(&file)? {
                client = client.with_root_certificate(certificate);
            }
        }
        if let Some(directory) = options.take("credentials") {
            builder = builder.with_credentials(Arc::new(Files(directory.into())));
        }
        provider();
        built(builder.with_client_options(client).build())
    }

    pub fn google(bucket: &str) -> Result<Arc<dyn ObjectStore>> {
        provider();
        let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
        built(builder.with_retry(retries()).build())
    }

    pub fn azure(container: &str, options: &mut Options) -> Result<Arc<dyn ObjectStore>> {
        provider();
        let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(container);
        if let Some(account) = options.take("account") {
            builder = builder.with_account(account);
        }
        built(builder.with_retry(retries()).build())
    }

    fn built<T: ObjectStore>(store: object_store::Result<T>) -> Result<Arc<dyn ObjectStore>> {
        let store = store
            .map_err(|e| ArchiveError::Invalid(format!("the store's settings are not complete: {e}")))?;
        Ok(Arc::new(store))
    }

    /// Short: the archiver has its own backoff, and shows the error meanwhile.
    fn retries() -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: 3,
            retry_timeout: Duration::from_secs(20),
        }
    }

    fn certificates(file: &str) -> Result<Vec<Certificate>> {
        let bad = |e: &dyn std::fmt::Display| ArchiveError::Invalid(format!("caFile {file}: {e}"));
        let pem = std::fs::read(file).map_err(|e| bad(&e))?;
        Certificate::from_pem_bundle(&pem).map_err(|e| bad(&e))
    }

    /// The HTTP client brings no provider, so that a process has one only.
    fn provider() {
        // It fails when the process has one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }

    /// Credentials in files, which are read for every request: a rotated Secret is used at once.
    #[derive(Debug)]
    struct Files(PathBuf);

    #[async_trait]
    impl CredentialProvider for Files {
        type Credential = AwsCredential;

        async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
            let read =
                |name: &str| std::fs::read_to_string(self.0.join(name)).map(|text| text.trim().to_owned());
            let required = |name: &str| {
                read(name).map_err(|e| object_store::Error::Unauthenticated {
                    path: self.0.join(name).display().to_string(),
                    source: Box::new(e),
                })
            };
            Ok(Arc::new(AwsCredential {
                key_id: required("AWS_ACCESS_KEY_ID")?,
                secret_key: required("AWS_SECRET_ACCESS_KEY")?,
                token: read("AWS_SESSION_TOKEN").ok().filter(|token| !token.is_empty()),
            }))
        }
    }
}
