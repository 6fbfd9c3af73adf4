//! TLS of the ports: the certificates that a node presents and requires ([`Material`], reloaded when its files change),
//! and the acceptance of a connection before the service behind its port gets it ([`Acceptor`]).

mod acceptor;
mod material;
mod slots;
mod stream;

use std::sync::Arc;

use helios_config::{ConfigError, Settings};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use acceptor::{Acceptor, Protocol, accept};
pub use material::{Material, Side};
pub use slots::Slots;
pub use stream::{Caller, Stream};

/// The certificates of both sides of a node; `None`: that side is without TLS.
#[derive(Clone, Default)]
pub struct Certificates {
    pub peer: Option<Arc<Material>>,
    pub client: Option<Arc<Material>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct For {
    r#for: &'static str,
}

impl Certificates {
    /// Loads the certificates that the settings name.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn load(settings: &Settings) -> Result<Self, ConfigError> {
        let load = |files: &Option<_>, side| {
            files.clone().map(|files| Material::load(files, side).map(Arc::new)).transpose()
        };
        Ok(Self {
            peer: load(&settings.peer_tls, Side::Peer)?,
            client: load(&settings.client_tls, Side::Client)?,
        })
    }

    fn sides(&self) -> impl Iterator<Item = &Arc<Material>> {
        self.peer.iter().chain(&self.client)
    }

    /// Reloads the files when they change, until `stop`, and keeps the gauge of their expiry current.
    pub fn watch(&self, registry: &mut Registry, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let expiry = Family::<For, Gauge>::default();
        registry.register(
            "cert_expiry_timestamp_seconds",
            "Expiry of the certificate that this node presents, seconds since 1970",
            expiry.clone(),
        );
        for side in self.sides() {
            let gauge = expiry.get_or_create(&For { r#for: side.side().name() }).clone();
            tasks.spawn(Arc::clone(side).watch(gauge, stop.clone()));
        }
    }
}
