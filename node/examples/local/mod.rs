//! Three members on this machine, for the examples.

use std::net::TcpListener;
use std::path::Path;

use helios_node::prelude::ClusterConfig;

/// Returns configurations of `node1`, `node2` and `node3`, with free ports and data below `dir`.
pub fn three(dir: &Path) -> std::io::Result<Vec<ClusterConfig>> {
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpListener::bind("127.0.0.1:0")?);
    }
    let addresses = held.iter().map(|port| port.local_addr().map(|at| at.to_string()));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    let config = |index: usize| ClusterConfig {
        node_id: format!("node{}", index + 1),
        listen_addr: addresses[index].clone(),
        peer_addrs: (0..3)
            .filter(|other| *other != index)
            .map(|other| format!("node{}={}", other + 1, addresses[other]))
            .collect(),
        data_dir: dir.join(format!("node{}", index + 1)),
        // Small segments, because preallocating 64 MiB segments is slow on a laptop.
        segment_bytes: 4 << 20,
        ..ClusterConfig::default()
    };
    Ok((0..3).map(config).collect())
}
