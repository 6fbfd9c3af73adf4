//! Access to the API server, and the lookup of the clusters that a command is about.

use std::collections::BTreeMap;
use std::time::Duration;

use helios_crds::{CLUSTER_LABEL, HeliosCluster, TlsMode};
use helios_proto::tls::ClientTls;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};

use crate::args::{Target, Which};
use crate::error::{Error, innermost};
use crate::lock::{Lock, User};
use crate::place::Place;

pub const PEER_PORT: u16 = 7000;
pub const CLIENT_PORT: u16 = 6379;
pub const METRICS_PORT: u16 = 9090;
/// Name of the database's container in a member's pod.
pub const CONTAINER: &str = "heliosd";

/// Looks up objects in one namespace.
pub struct Finder {
    pub client: Client,
    pub namespace: String,
    /// Timeout of one answer.
    pub limit: Duration,
    /// TLS settings given by the flags.
    lock: Option<Lock>,
}

impl Finder {
    /// # Errors
    /// When there is no kubeconfig or it is invalid.
    pub async fn connect(target: &Target) -> Result<Self, Error> {
        // Fails only if a provider is installed already, and then there is one.
        _ = rustls::crypto::ring::default_provider().install_default();
        let options = KubeConfigOptions { context: target.context.clone(), ..KubeConfigOptions::default() };
        let no = |error: &dyn std::error::Error| Error::NoKubernetes(innermost(error));
        let mut config = match &target.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| no(&error))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| no(&error))?
            }
            None if target.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| no(&error))?
            }
            None => Config::infer().await.map_err(|error| no(&error))?,
        };
        config.connect_timeout = Some(target.request_timeout);
        let namespace = target.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| no(&error))?;
        let lock = target.certificates.lock()?;
        Ok(Self { client, namespace, limit: target.request_timeout, lock })
    }

    pub fn clusters(&self) -> Api<HeliosCluster> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Returns all clusters of the namespace.
    ///
    /// # Errors
    /// When the API server does not list them.
    pub async fn all(&self) -> Result<Vec<HeliosCluster>, Error> {
        let what = format!("HeliosClusters in {}", self.namespace);
        let list = self.clusters().list(&ListParams::default()).await.map_err(Error::kube("list", what))?;
        Ok(list.items)
    }

    /// Returns the cluster that `which` names, or the only one.
    ///
    /// # Errors
    /// When there is none, or several and none is named.
    pub async fn one(&self, which: &Which) -> Result<HeliosCluster, Error> {
        if let Some(name) = &which.cluster {
            return match self.named(name).await? {
                Some(cluster) => Ok(cluster),
                None => Err(self.not_found(Some(name), &self.all().await?)),
            };
        }
        let mut all = self.all().await?;
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            (last, _) => {
                all.extend(last);
                Err(self.not_found(None, &all))
            }
        }
    }

    /// # Errors
    /// When the API server does not answer.
    pub async fn named(&self, name: &str) -> Result<Option<HeliosCluster>, Error> {
        self.clusters().get_opt(name).await.map_err(Error::kube("read HeliosCluster", name))
    }

    /// Returns the cluster that has the member `name`.
    ///
    /// # Errors
    /// When no cluster has such a member.
    pub async fn of_member(&self, name: &str) -> Result<HeliosCluster, Error> {
        let mut all = self.all().await?;
        let of = |cluster: &HeliosCluster| members(cluster).any(|member| member == name);
        match all.iter().position(of) {
            Some(at) => Ok(all.swap_remove(at)),
            None => {
                let known: Vec<_> = all.iter().flat_map(members).collect();
                let known = if known.is_empty() {
                    "there is none".to_owned()
                } else {
                    format!("there are {}", known.join(", "))
                };
                Err(Error::Impossible(format!(
                    "no member {name:?} in {}; {known}; -n names another namespace",
                    self.namespace
                )))
            }
        }
    }

    fn not_found(&self, asked: Option<&str>, all: &[HeliosCluster]) -> Error {
        let names: Vec<_> = all.iter().map(ResourceExt::name_any).collect();
        let (namespace, names) = (&self.namespace, names.join(", "));
        Error::Impossible(match (asked, all) {
            (_, []) => format!(
                "there is no HeliosCluster in namespace {namespace}; -n names another, `kubectl get hc --all-namespaces` lists all"
            ),
            (Some(asked), _) => {
                format!("there is no HeliosCluster {asked:?} in {namespace}; there are {names}")
            }
            (None, _) => format!("{namespace} has several HeliosClusters; name one of {names}"),
        })
    }

    /// Returns the pods of `cluster`.
    ///
    /// # Errors
    /// When the API server does not list them.
    pub async fn pods_of(&self, cluster: &str) -> Result<Vec<Pod>, Error> {
        let mine = ListParams::default().labels(&format!("{CLUSTER_LABEL}={cluster}"));
        let list = self.pods().list(&mine).await.map_err(Error::kube("list pods of", cluster))?;
        Ok(list.items)
    }

    /// Returns the volume claims of `cluster`.
    ///
    /// # Errors
    /// When the API server does not list them.
    pub async fn volumes_of(&self, cluster: &str) -> Result<Vec<PersistentVolumeClaim>, Error> {
        let mine = ListParams::default().labels(&format!("{CLUSTER_LABEL}={cluster}"));
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &self.namespace);
        let list = api.list(&mine).await.map_err(Error::kube("list volumes of", cluster))?;
        Ok(list.items)
    }

    /// Returns a port of the pod `name` of `cluster`, with the TLS settings `lock`.
    pub fn place(&self, cluster: &str, name: &str, port: u16, lock: &Lock) -> Place {
        // The name in the member's certificate, which does not depend on the pod's address.
        let host = format!("{name}.{cluster}-peers.{}.svc", self.namespace);
        Place::pod(self.pods(), name, port, host, lock.clone())
    }

    /// Returns the TLS settings for members of `cluster`: those of the flags, else the certificate in its
    /// Secret.
    ///
    /// # Errors
    /// When the content of the Secret cannot be used.
    pub async fn lock(&self, cluster: &HeliosCluster) -> Result<Lock, Error> {
        if let Some(lock) = &self.lock {
            return Ok(lock.clone());
        }
        let name = match (cluster.spec.tls.mode, &cluster.spec.tls.secret_name) {
            (TlsMode::Off, _) => return Ok(Lock::default()),
            (TlsMode::Secret, Some(own)) => own.clone(),
            _ => format!("{}-peer-tls", cluster.name_any()),
        };
        let data = match self.secret(&name).await {
            Ok(Some(data)) => data,
            Ok(None) => return Ok(Lock::default()),
            Err(denied) => return Ok(Lock { tls: None, advice: Some(denied) }),
        };
        let file = |key: &str| data.get(key).map_or(&[][..], |bytes| bytes.0.as_slice());
        // Once there is an admin certificate, members reject their own certificate for management.
        let (certificate, key) = match file("admin.crt").is_empty() {
            true => (file("tls.crt"), file("tls.key")),
            false => (file("admin.crt"), file("admin.key")),
        };
        let tls = ClientTls::from_pem(file("ca.crt"), Some((certificate, key)));
        let tls = tls.map_err(|error| Error::Impossible(format!("Secret {name} {error}")))?;
        Ok(Lock { tls: Some(tls), advice: None })
    }

    /// Returns the user in the cluster's Secret, where there is one that may be read.
    pub async fn user(&self, cluster: &str) -> User {
        let data = self.secret(&format!("{cluster}-auth")).await.ok().flatten().unwrap_or_default();
        let text = |key: &str| data.get(key).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        User { name: text("username"), password: text("password") }
    }

    /// Returns the data of the Secret; `None` when there is none. The error text is the remedy.
    async fn secret(&self, name: &str) -> Result<Option<BTreeMap<String, ByteString>>, String> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        match api.get_opt(name).await {
            Ok(found) => Ok(found.map(|secret| secret.data.unwrap_or_default())),
            Err(error) => Err(format!(
                "its certificate is in Secret {name} of {}, which cannot be read ({}): ask for the right to get \
                 secrets, or give --cacert, --cert and --key",
                self.namespace,
                innermost(&error)
            )),
        }
    }
}

/// Returns the members' names in the status.
pub fn members(cluster: &HeliosCluster) -> impl Iterator<Item = String> + use<> {
    let members = cluster.status.as_ref().map(|status| status.members.clone()).unwrap_or_default();
    members.into_iter().map(|member| member.name)
}
