//! A cluster of three members in one program: start it, print the leader, stop the leader and wait for the
//! next one.
//!
//! `cargo run -p helios-node --example quick_start`

mod local;

use helios_node::prelude::*;

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let mut cluster = Vec::new();
    for config in local::three(dir.path())? {
        let node = ClusterCoordinator::new(config).await?;
        node.start().await?;
        cluster.push(node);
    }
    for node in &cluster {
        node.wait_leader(|_| true).await?;
    }

    let state = cluster[0].get_state().await;
    println!("Leader: {:?}", state.leader);
    println!("Term: {}", state.term);
    println!("Nodes: {}", state.nodes.len());
    assert_eq!(state.nodes.len(), 3);

    cluster[1].put("greeting", "hello").await?;
    assert_eq!(cluster[2].get(b"greeting").await?.as_deref(), Some(&b"hello"[..]));

    let metrics = cluster[0].get_metrics();
    println!("Consensus: {:?}", metrics.consensus_metrics);
    println!("Health: {:?}", metrics.health_metrics);

    // Failover drill: stop the leader.
    let place = cluster.iter().position(|node| node.is_leader()).ok_or("no leader")?;
    let old = cluster.remove(place);
    let old_name = old.wait_leader(|_| true).await?;
    old.stop().await;
    let new_name = cluster[0].wait_leader(|leader| leader != old_name).await?;
    println!("Failover complete. New leader: {new_name}");
    assert_eq!(cluster[0].get(b"greeting").await?.as_deref(), Some(&b"hello"[..]));

    for node in &cluster {
        node.stop().await;
    }
    Ok(())
}
