//! gRPC channels to other members, one per address, created on first use.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use helios_proto::v1::ErrorCode;
use tonic::transport::Channel;

use crate::error::Error;
use crate::peer::Dialer;

/// Limit of cached channels, above the size of any cluster; at the limit all of them are dropped.
const MAX_CHANNELS: usize = 64;

pub struct Channels {
    dialer: Dialer,
    open: Mutex<HashMap<String, Channel>>,
}

impl Channels {
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, open: Mutex::default() }
    }

    /// Returns the channel to `addr` (host:port), which connects on first use and reconnects automatically.
    ///
    /// # Errors
    /// `PeerUnreachable` if `addr` is malformed.
    pub fn get(&self, addr: &str) -> Result<Channel, Error> {
        let mut channels = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(addr) {
            return Ok(channel.clone());
        }
        let channel = self.dialer.connect_lazy(addr).map_err(|error| {
            Error::new(ErrorCode::PeerUnreachable, format!("{addr} is not a valid member address: {error}"))
        })?;
        if channels.len() >= MAX_CHANNELS {
            channels.clear();
        }
        channels.insert(addr.to_owned(), channel.clone());
        Ok(channel)
    }
}
