//! Clients of the key-value services of etcd and heliosd.

use anyhow::Result;
use bytes::Bytes;
use helios_proto::v1 as helios;
use tonic::transport::{Channel, Endpoint};

/// Generated from `proto/etcd.proto`.
#[allow(clippy::all)]
mod etcd {
    tonic::include_proto!("etcdserverpb");
}

#[derive(Clone)]
pub struct Etcd(etcd::kv_client::KvClient<Channel>);

#[derive(Clone)]
pub struct Helios(helios::kv_client::KvClient<Channel>);

async fn channel(port: u16) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.connect().await?)
}

impl Etcd {
    pub async fn connect(port: u16) -> Result<Self> {
        Ok(Self(etcd::kv_client::KvClient::new(channel(port).await?)))
    }

    pub async fn set(&mut self, key: &[u8], value: &Bytes) -> Result<()> {
        let request = etcd::PutRequest { key: Bytes::copy_from_slice(key), value: value.clone() };
        self.0.put(request).await?;
        Ok(())
    }

    pub async fn get(&mut self, key: &[u8]) -> Result<bool> {
        let request = etcd::RangeRequest { key: Bytes::copy_from_slice(key) };
        Ok(!self.0.range(request).await?.into_inner().kvs.is_empty())
    }
}

impl Helios {
    pub async fn connect(port: u16) -> Result<Self> {
        Ok(Self(helios::kv_client::KvClient::new(channel(port).await?)))
    }

    pub async fn set(&mut self, key: &[u8], value: &Bytes) -> Result<()> {
        let request = helios::PutRequest {
            key: Bytes::copy_from_slice(key),
            value: value.clone(),
            ..helios::PutRequest::default()
        };
        self.0.put(request).await?;
        Ok(())
    }

    pub async fn get(&mut self, key: &[u8]) -> Result<bool> {
        let request =
            helios::GetRequest { key: Bytes::copy_from_slice(key), ..helios::GetRequest::default() };
        Ok(self.0.get(request).await?.into_inner().entry.is_some())
    }
}
