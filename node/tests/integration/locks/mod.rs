//! Access control of the ports: TLS certificates, users and roles.

mod clients;
mod peers;
mod prefixes;
mod users;

use crate::common::{Authority, Cluster, Leaf, Mounted};

/// A cluster of three members, each with its own mount of one Secret.
pub struct Locked {
    pub cluster: Cluster,
    mounts: Vec<Mounted>,
}

impl Locked {
    /// Returns a cluster that is not started yet.
    fn new(authority: &Authority, leaf: &Leaf) -> Self {
        let mut cluster = Cluster::fixed(3);
        let mut mounts = Vec::new();
        for index in 0..3 {
            let mut mount = Mounted::new(&cluster[index].directory().join("peer-tls"));
            mount.put_certificates(leaf, &[authority]);
            cluster[index].config_mut().push_str(&format!("tls: {{peer: {}}}\n", mount.section()));
            cluster[index].ask_with(authority.client(Some(leaf)));
            mounts.push(mount);
        }
        Self { cluster, mounts }
    }

    pub async fn started(authority: &Authority, leaf: &Leaf) -> Self {
        let mut locked = Self::new(authority, leaf);
        locked.cluster.start_all();
        locked.cluster.wait_ready().await;
        locked
    }

    fn put(&mut self, leaf: &Leaf, authorities: &[&Authority]) {
        self.mounts.iter_mut().for_each(|mount| mount.put_certificates(leaf, authorities));
    }
}
