//! Free ports on loopback.

use std::net::TcpListener;

use anyhow::{Result, ensure};

/// Range below the system's ports for outgoing connections, so that a killed member finds its port free
/// again.
const RANGE: std::ops::Range<u16> = 30_100..32_700;

/// Free ports, each handed out at most once.
pub struct Ports(Box<dyn Iterator<Item = u16>>);

impl Ports {
    pub fn new() -> Self {
        let start = std::process::id() as usize * 64 % RANGE.len();
        let all = RANGE.cycle().skip(start).take(RANGE.len());
        Self(Box::new(all.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())))
    }

    pub fn take<const COUNT: usize>(&mut self) -> Result<[u16; COUNT]> {
        let ports: Vec<_> = self.0.by_ref().take(COUNT).collect();
        ensure!(ports.len() == COUNT, "no port from {} to {} is free", RANGE.start, RANGE.end);
        Ok(std::array::from_fn(|index| ports[index]))
    }
}
