//! File descriptors: the limit of the process, and the share of it that the connections of each port may use. A reserve
//! is set apart for the log, the state and the links to other members.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors reserved for files, links to other members, watches of the configuration, and connections that are
/// being accepted.
const RESERVED: u64 = 192;
/// Connection limit of the peer port: two from each member, and the calls of members, operator and `heliosctl`.
pub const PEER: usize = 128;
/// Connection limit of the metrics port, where probes are short.
pub const METRICS: usize = 64;
pub const MAX_GRPC: usize = 4_096;
pub const MAX_GATEWAY: usize = 1_024;
/// Minimum of a port's connection limit.
const LEAST: usize = 8;

/// Connection limit of each port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    pub client: usize,
    pub grpc: usize,
    pub gateway: usize,
    pub peer: usize,
    pub metrics: usize,
}

/// Raises the soft limit of open files of this process to the hard limit.
///
/// # Errors
/// The limit cannot be raised; it is unchanged.
pub fn raise_limit() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Returns the number of files that this process may open.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Divides `descriptors` among the ports of a node that is to serve `wanted` Redis clients.
pub fn shares(descriptors: u64, wanted: usize) -> Shares {
    let left = descriptors.saturating_sub(RESERVED + (PEER + METRICS) as u64);
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    let share = |of: usize, most: usize| (left / of).clamp(LEAST, most);
    let (grpc, gateway) = (share(4, MAX_GRPC), share(8, MAX_GATEWAY));
    let client = left.saturating_sub(grpc + gateway).max(LEAST);
    Shares { client: client.min(wanted), grpc, gateway, peer: PEER, metrics: METRICS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_all_ports_and_the_reserve_fit_the_descriptor_limit() {
        for descriptors in [1_024, 4_096, 65_536, 1 << 20] {
            let Shares { client, grpc, gateway, peer, metrics } = shares(descriptors, 10_000);
            let taken = (client + grpc + gateway + peer + metrics) as u64;
            assert!(taken + RESERVED <= descriptors, "{taken} of {descriptors}");
        }
        assert_eq!(shares(1 << 20, 10_000).client, 10_000);
        assert_eq!(shares(u64::MAX, 10_000).client, 10_000);
        let few = shares(1_024, 10_000);
        assert!((300..640).contains(&few.client), "{few:?}");
        assert!(shares(64, 10_000).client >= LEAST);
    }
}
