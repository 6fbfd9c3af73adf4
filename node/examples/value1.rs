//! The article's scenario: the leader appends "Value1", the other two members have it at the same index, and
//! when the leader stops, the next leader appends "Value2".
//!
//! `cargo run -p helios-node --example value1`

mod local;

use helios_node::prelude::*;

/// All values with their log indexes.
#[derive(Default)]
struct Values(Vec<(u64, String)>);

impl StateMachine for Values {
    /// Log index of a value.
    type Query = u64;
    type Answer = Option<String>;

    fn apply(&mut self, entry: LogEntry<'_>) -> Result<Vec<u8>, String> {
        let value =
            String::from_utf8(entry.data.to_vec()).map_err(|_| "a value must be a text".to_owned())?;
        self.0.push((entry.index, value));
        Ok(Vec::new())
    }

    fn snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.0 = serde_json::from_slice(snapshot).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn query(&self, index: &u64) -> Option<String> {
        self.0.iter().find(|(at, _)| at == index).map(|(_, value)| value.clone())
    }
}

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let mut nodes = Vec::new();
    for config in local::three(dir.path())? {
        let node = ClusterCoordinator::with_machine(config, Values::default()).await?;
        node.start().await?;
        nodes.push(node);
    }
    let first = nodes[0].wait_leader(|_| true).await?;
    println!("{first} leads");

    let appended = leader(&nodes).await?.apply("append", "Value1").await?;
    println!("Value1 is at index {} of term {}", appended.index, appended.term);
    for node in &nodes {
        assert_eq!(node.read(&appended.index).await?.as_deref(), Some("Value1"));
    }

    let place = nodes.iter().position(|node| node.is_leader()).ok_or("no leader")?;
    nodes.remove(place).stop().await;
    let second = nodes[0].wait_leader(|leader| leader != first).await?;
    println!("{first} was stopped, {second} leads");
    let next = leader(&nodes).await?.apply("append", "Value2").await?;
    assert!(next.index > appended.index && next.term > appended.term);
    for node in &nodes {
        assert_eq!(node.read(&appended.index).await?.as_deref(), Some("Value1"));
        assert_eq!(node.read(&next.index).await?.as_deref(), Some("Value2"));
    }
    for node in &nodes {
        node.stop().await;
    }
    Ok(())
}

type Node = ClusterCoordinator<Values>;

/// Returns the leader, once all members agree on it.
async fn leader(nodes: &[Node]) -> Result<&Node, Box<dyn std::error::Error>> {
    let name = nodes[0].wait_leader(|_| true).await?;
    for node in nodes {
        node.wait_leader(|leader| leader == name).await?;
    }
    Ok(nodes.iter().find(|node| node.is_leader()).ok_or("no leader")?)
}
