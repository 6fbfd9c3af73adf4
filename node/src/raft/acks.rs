//! How many voters hold an entry on disk: what an acknowledgement above majority, and `WAIT`, wait
//! for (node.md, section 4). The commit rule knows nothing of it.

/// What the leader knows of the voters' disks, in its own term. Learners never count. A follower's
/// match means synced, since it answers an append only then.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durable {
    /// The leader's own last synced entry; `None` where it is no voter.
    pub own: Option<u64>,
    /// Of each other voter, its match.
    pub others: Vec<u64>,
    /// Voters that were not heard of lately.
    pub silent: Vec<u64>,
}

impl Durable {
    /// Voters beside the leader that hold entry `index` on disk.
    pub fn replicas(&self, index: u64) -> u64 {
        self.others.iter().filter(|matched| **matched >= index).count() as u64
    }

    /// Voters that hold entry `index` on disk.
    pub fn holders(&self, index: u64) -> u64 {
        self.replicas(index) + u64::from(self.own.is_some_and(|own| own >= index))
    }

    pub fn voters(&self) -> u64 {
        self.others.len() as u64 + u64::from(self.own.is_some())
    }

    /// Whether the `k`-th largest match of the voters is at least `index`.
    pub fn held_by(&self, k: u64, index: u64) -> bool {
        self.holders(index) >= k
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_counts_only_what_its_own_disk_holds() {
        let durable = Durable { own: Some(4), others: vec![7, 5], silent: vec![] };
        assert_eq!((durable.replicas(5), durable.holders(5)), (2, 2));
        assert!(!durable.held_by(3, 5));
        assert!(durable.held_by(3, 4));
    }

    #[test]
    fn nobody_leads_nobody_holds() {
        assert!(!Durable::default().held_by(1, 1));
    }
}
