//! Ports that are reserved for one test across all test processes of the machine.

use std::fs::File;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// First port, below the system's ports for outgoing connections.
const FIRST: u16 = 20_000;
const BLOCK: u16 = 40;
const BLOCKS: u16 = 250;
const PORTS_PER_NODE: u16 = 5;
/// Offsets from the default ports, in steps: far enough from a cluster that a user runs, near enough for the
/// node to derive its other ports.
const STEPS: std::ops::Range<u16> = 10..24;
const NODES_PER_STEP: u16 = 4;

/// Ports for several nodes, reserved until dropped.
pub struct Ports {
    nodes: Vec<NodePorts>,
    _lock: File,
}

#[derive(Debug, Clone, Copy)]
pub struct NodePorts {
    pub client: u16,
    pub peer: u16,
    pub grpc: u16,
    pub metrics: u16,
    pub gateway: u16,
}

impl Ports {
    pub fn take() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id() % u32::from(BLOCKS)) as u16;
        let candidates = (0..2 * BLOCKS).map(|_| {
            let block = (start + NEXT.fetch_add(1, Ordering::Relaxed) % BLOCKS) % BLOCKS;
            let node = |index| NodePorts::in_a_row(FIRST + block * BLOCK + index * PORTS_PER_NODE);
            (0..BLOCK / PORTS_PER_NODE).map(node).collect()
        });
        Self::first_free(candidates)
    }

    /// Returns the default ports of several nodes on one host, all shifted by the same offset.
    pub fn near_default() -> Self {
        let candidates = STEPS.map(|step| {
            let offset = step * NODES_PER_STEP;
            (offset..offset + NODES_PER_STEP).map(NodePorts::default_and).collect()
        });
        Self::first_free(candidates)
    }

    fn first_free(candidates: impl Iterator<Item = Vec<NodePorts>>) -> Self {
        let dir = std::env::temp_dir().join("helios-test-ports");
        std::fs::create_dir_all(&dir).unwrap();
        for nodes in candidates {
            let path = dir.join(nodes[0].client.to_string());
            let lock = File::options().create(true).truncate(false).write(true).open(path).unwrap();
            if lock.try_lock().is_ok() && nodes.iter().all(NodePorts::are_free) {
                return Self { nodes, _lock: lock };
            }
        }
        panic!("no free ports left for tests");
    }

    pub fn node(&self, index: usize) -> NodePorts {
        self.nodes[index]
    }
}

impl NodePorts {
    fn in_a_row(first: u16) -> Self {
        Self { client: first, peer: first + 1, grpc: first + 2, metrics: first + 3, gateway: first + 4 }
    }

    fn default_and(offset: u16) -> Self {
        Self {
            client: 6379 + offset,
            peer: 7000 + offset,
            grpc: 50051 + offset,
            metrics: 9090 + offset,
            gateway: 8443 + offset,
        }
    }

    pub fn all(&self) -> [u16; 5] {
        [self.client, self.peer, self.grpc, self.metrics, self.gateway]
    }

    fn are_free(&self) -> bool {
        self.all().into_iter().all(is_free)
    }
}

pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
