//! File descriptors: how many the process may have, and how many of them each port's connections may take. What the log,
//! the state and the links to other members need is set apart.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For files, links to other members, watches of the configuration, and connections on their way in.
const RESERVED: u64 = 192;
/// Of the peer port: two from each member, and what they, the operator and `heliosctl` ask.
pub const PEER: usize = 128;
/// Of the metrics port, where a probe is short.
pub const METRICS: usize = 64;
pub const MAX_GRPC: usize = 4_096;
pub const MAX_GATEWAY: usize = 1_024;
/// A port has so many in any case.
const LEAST: usize = 8;

/// Connections that each port may have at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    pub client: usize,
    pub grpc: usize,
    pub gateway: usize,
    pub peer: usize,
    pub metrics: usize,
}

/// Raises the limit of open files of this process as far as it may be.
///
/// # Errors
/// The limit that it has stays.
pub fn raise_limit() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Files that this process may have open.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// For a node that may have `descriptors` of them, and is to serve `wanted` Redis clients.
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
    fn ports_never_take_more_descriptors_than_there_are_beside_the_reserve() {
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
