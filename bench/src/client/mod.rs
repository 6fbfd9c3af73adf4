//! Client of each system: one request at a time, with as little CPU time as possible, because it shares the
//! cores with the servers that it measures.

mod grpc;
mod resp;

use std::fmt;

use anyhow::Result;
use bytes::Bytes;

pub use grpc::{Etcd, Helios};
pub use resp::Resp;

/// Protocol of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Redis,
    /// gRPC key-value service of heliosd.
    HeliosGrpc,
    Etcd,
}

pub enum Client {
    Resp(Resp),
    Helios(Helios),
    Etcd(Etcd),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Write,
    Read,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Write => "write",
            Self::Read => "read",
        })
    }
}

impl Client {
    pub async fn connect(protocol: Protocol, port: u16) -> Result<Self> {
        Ok(match protocol {
            Protocol::Redis => Self::Resp(Resp::connect(port).await?),
            Protocol::HeliosGrpc => Self::Helios(Helios::connect(port).await?),
            Protocol::Etcd => Self::Etcd(Etcd::connect(port).await?),
        })
    }

    /// Connects `count` clients. gRPC clients share `connections` connections, if that is fewer; each Redis
    /// client has its own connection, because it waits for each reply.
    pub async fn connect_many(
        protocol: Protocol,
        port: u16,
        count: usize,
        connections: usize,
    ) -> Result<Vec<Self>> {
        let mut clients: Vec<Self> = Vec::with_capacity(count);
        for index in 0..count {
            let shared = index.checked_sub(connections).and_then(|first| clients[first].share());
            clients.push(match shared {
                Some(client) => client,
                None => Self::connect(protocol, port).await?,
            });
        }
        Ok(clients)
    }

    /// Returns another client on the same connection, if the protocol can multiplex.
    fn share(&self) -> Option<Self> {
        match self {
            Self::Resp(_) => None,
            Self::Helios(client) => Some(Self::Helios(client.clone())),
            Self::Etcd(client) => Some(Self::Etcd(client.clone())),
        }
    }

    pub async fn set(&mut self, key: &[u8], value: &Bytes) -> Result<()> {
        match self {
            Self::Resp(client) => client.set(key, value).await,
            Self::Helios(client) => client.set(key, value).await,
            Self::Etcd(client) => client.set(key, value).await,
        }
    }

    /// Returns whether the key exists; a linearizable read on systems with replicas.
    pub async fn get(&mut self, key: &[u8]) -> Result<bool> {
        match self {
            Self::Resp(client) => client.get(key).await,
            Self::Helios(client) => client.get(key).await,
            Self::Etcd(client) => client.get(key).await,
        }
    }
}
