//! A custom state machine: a store with JSON commands, on a single member. It survives a restart, because the
//! log and the snapshots hold all commands.
//!
//! `cargo run -p helios-node --example state_machine`

use std::collections::BTreeMap;

use helios_node::prelude::*;
use serde::Deserialize;

#[derive(Default)]
struct KvStore(BTreeMap<String, String>);

/// A command, e.g. `{"op":"set","key":"config","value":"v2"}` or `{"op":"delete","key":"config"}`; another op
/// is an error.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Command {
    Set { key: String, value: String },
    Delete { key: String },
}

impl StateMachine for KvStore {
    type Query = str;
    type Answer = Option<String>;

    fn apply(&mut self, entry: LogEntry<'_>) -> Result<Vec<u8>, String> {
        match serde_json::from_slice(entry.data).map_err(|error| error.to_string())? {
            Command::Set { key, value } => drop(self.0.insert(key, value)),
            Command::Delete { key } => drop(self.0.remove(&key)),
        }
        Ok(Vec::new())
    }

    fn snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.0 = serde_json::from_slice(snapshot).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn query(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }
}

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let config = ClusterConfig {
        node_id: "node1".into(),
        listen_addr: "127.0.0.1:0".into(),
        data_dir: dir.path().join("data"),
        segment_bytes: 4 << 20,
        ..ClusterConfig::default()
    };
    let node = ClusterCoordinator::with_machine(config.clone(), KvStore::default()).await?;
    node.start().await?;
    node.wait_leader(|_| true).await?;
    node.apply("json", r#"{"op":"set","key":"config","value":"v1"}"#).await?;
    node.apply("json", r#"{"op":"set","key":"config","value":"v2"}"#).await?;
    println!("config: {:?}", node.read("config").await?);
    let refused = node.apply("json", r#"{"op":"rename","key":"config"}"#).await;
    println!("rename: {}", refused.err().ok_or("an unknown op was accepted")?);
    node.stop().await;
    drop(node);

    let again = ClusterCoordinator::with_machine(config, KvStore::default()).await?;
    again.start().await?;
    again.wait_leader(|_| true).await?;
    assert_eq!(again.read("config").await?.as_deref(), Some("v2"));
    println!("after a restart: {:?}", again.read("config").await?);
    again.stop().await;
    Ok(())
}
