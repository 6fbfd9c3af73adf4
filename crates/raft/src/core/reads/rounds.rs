//! ReadIndex batching: one round serves every reader that waited when it began (docs/design/node.md, section 2).
//!
//! Pure bookkeeping. Every round carries a context never used before, because the raft core
//! ignores a repeated one and would answer with the old index (etcd #20418 is that bug).

use std::time::{Duration, Instant};

use crate::faults;

/// Readers that may wait for a round at once; more are refused as overload.
const MAX_WAITING: usize = 65_536;

pub struct ReadRounds<W> {
    prefix: [u8; 16],
    counter: u64,
    waiting: Vec<W>,
    round: Option<Round<W>>,
}

struct Round<W> {
    context: [u8; 24],
    waiters: Vec<W>,
    started: Instant,
}

impl<W> ReadRounds<W> {
    /// `boot_nonce` differs at every start of the process.
    pub fn new(member_id: u64, boot_nonce: u64) -> Self {
        let mut prefix = [0; 16];
        prefix[..8].copy_from_slice(&member_id.to_be_bytes());
        prefix[8..].copy_from_slice(&boot_nonce.to_be_bytes());
        Self { prefix, counter: 0, waiting: Vec::new(), round: None }
    }

    /// Gives the waiter back when too many wait already.
    pub fn push(&mut self, waiter: W) -> Result<(), W> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(waiter);
        }
        self.waiting.push(waiter);
        Ok(())
    }

    /// Starts a round when readers wait and none is under way; returns its context.
    pub fn start_round(&mut self, now: Instant) -> Option<[u8; 24]> {
        if self.waiting.is_empty() || self.round.is_some() {
            return None;
        }
        self.counter = faults::next_round(self.counter);
        let mut context = [0; 24];
        context[..16].copy_from_slice(&self.prefix);
        context[16..].copy_from_slice(&self.counter.to_be_bytes());
        self.round = Some(Round { context, waiters: std::mem::take(&mut self.waiting), started: now });
        Some(context)
    }

    /// When the round with this context was about to be sent; `None` for one given up before.
    pub fn sent(&self, context: &[u8]) -> Option<Instant> {
        self.round.as_ref().filter(|round| round.context == context).map(|round| round.started)
    }

    /// The readers of the round with this context; none for a round given up before.
    pub fn finish_round(&mut self, context: &[u8]) -> Vec<W> {
        match self.round.take_if(|round| round.context == context) {
            Some(round) => round.waiters,
            None => Vec::new(),
        }
    }

    /// Readers of an unanswered round wait again, for one with a new context.
    pub fn give_up_round(&mut self) {
        if let Some(round) = self.round.take() {
            let later = std::mem::replace(&mut self.waiting, round.waiters);
            self.waiting.extend(later);
        }
    }

    pub fn round_older_than(&self, age: Duration, now: Instant) -> bool {
        self.round.as_ref().is_some_and(|round| now.duration_since(round.started) > age)
    }

    /// Drops the waiters that `keep` is false for.
    pub fn retain(&mut self, keep: impl Fn(&W) -> bool) {
        self.waiting.retain(&keep);
        if let Some(round) = &mut self.round {
            round.waiters.retain(&keep);
        }
    }

    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.round.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_serves_the_readers_that_waited_when_it_began() {
        let now = Instant::now();
        let mut reads = ReadRounds::new(1, 42);
        reads.push('a').unwrap();
        reads.push('b').unwrap();
        let first = reads.start_round(now).unwrap();
        reads.push('c').unwrap();
        assert!(reads.start_round(now).is_none());
        assert_eq!(reads.finish_round(&first), ['a', 'b']);
        let second = reads.start_round(now).unwrap();
        assert_ne!(first, second);
        assert_eq!(reads.finish_round(&second), ['c']);
        assert!(reads.is_idle());
    }

    #[test]
    fn abandoned_round_never_answers_and_its_context_is_not_reused() {
        let now = Instant::now();
        let mut reads = ReadRounds::new(1, 42);
        reads.push('a').unwrap();
        let first = reads.start_round(now).unwrap();
        reads.push('b').unwrap();
        reads.give_up_round();
        let second = reads.start_round(now).unwrap();
        assert_ne!(first, second);
        assert!(reads.finish_round(&first).is_empty());
        assert_eq!(reads.finish_round(&second), ['a', 'b']);
    }

    #[test]
    fn contexts_differ_between_boots_and_members() {
        let context = |member, nonce| {
            let mut reads = ReadRounds::new(member, nonce);
            reads.push(()).unwrap();
            reads.start_round(Instant::now()).unwrap()
        };
        assert_ne!(context(1, 1), context(1, 2));
        assert_ne!(context(1, 1), context(2, 1));
    }
}
