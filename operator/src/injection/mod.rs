//! Injection of the sidecar into pods that ask for it by the label [`INJECT_LABEL`](helios_crds::INJECT_LABEL).
//!
//! The webhook runs in a separate Deployment and may read HeliosClients, nothing else: `patch` decides on one pod (pure),
//! `serve` answers the API server. The operator keeps the certificate of the webhook (`certificate` decides, `keep`
//! writes) and evicts pods that were created without the container (`watchdog`).

pub mod certificate;
pub mod keep;
pub mod patch;
pub mod serve;
pub mod watchdog;
