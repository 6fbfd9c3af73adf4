//! gRPC channels to other members, one per address, made when first needed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use helios_proto::v1::ErrorCode;
use tonic::transport::Channel;

use crate::error::Error;
use crate::peer::Dialer;

/// More addresses than any cluster has members: old ones are dropped together at this bound.
const MAX_CHANNELS: usize = 64;

pub struct Channels {
    dialer: Dialer,
    open: Mutex<HashMap<String, Channel>>,
}

impl Channels {
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, open: Mutex::default() }
    }

    /// The channel to `addr` (host:port); it connects, and connects again, by itself.
    pub fn get(&self, addr: &str) -> Result<Channel, Error> {
        let mut channels = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(addr) {
            return Ok(channel.clone());
        }
        let channel = self.dialer.connect_lazy(addr).map_err(|error| {
            Error::new(ErrorCode::PeerUnreachable, format!("{addr} is no address of a member: {error}"))
        })?;
        if channels.len() >= MAX_CHANNELS {
            channels.clear();
        }
        channels.insert(addr.to_owned(), channel.clone());
        Ok(channel)
    }
}
