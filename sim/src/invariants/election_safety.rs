//! Election Safety (Raft paper, figure 3 and 5.2): at most one leader is elected in a term.

use std::collections::BTreeMap;

use super::violated;
use crate::Violation;

#[derive(Default)]
pub struct ElectionSafety {
    /// Leader of each term.
    leaders: BTreeMap<u64, u64>,
}

impl ElectionSafety {
    pub fn on_leader(&mut self, member: u64, term: u64) -> Result<(), Violation> {
        match *self.leaders.entry(term).or_insert(member) {
            leader if leader == member => Ok(()),
            leader => {
                Err(violated("election safety", format!("{leader} and {member} both lead in term {term}")))
            }
        }
    }

    pub fn leader(&self, term: u64) -> Option<u64> {
        self.leaders.get(&term).copied()
    }

    pub fn forget_from(&mut self, term: u64) {
        self.leaders.retain(|led, _| *led < term);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_leader_of_a_term_is_a_violation() {
        let mut safety = ElectionSafety::default();
        safety.on_leader(1, 5).unwrap();
        safety.on_leader(1, 5).unwrap();
        safety.on_leader(2, 6).unwrap();
        assert!(safety.on_leader(2, 5).unwrap_err().0.contains("1 and 2 both lead in term 5"));
        safety.forget_from(5);
        safety.on_leader(2, 5).unwrap();
    }
}
