//! A model of the commands: a plain map that drops a key at the moment it expires.

use std::collections::BTreeMap;

use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Command, Set};

use super::*;

#[derive(Default)]
pub struct Model {
    clock_ms: u64,
    keys: BTreeMap<Bytes, (Bytes, Option<u64>)>,
}

impl Model {
    pub fn of(log: &[Command]) -> Self {
        let mut model = Self::default();
        for command in log {
            model.apply(command);
        }
        model
    }

    pub fn pairs(&self) -> Vec<(Bytes, Bytes, Option<u64>)> {
        self.keys.iter().map(|(key, (data, at_ms))| (key.clone(), data.clone(), *at_ms)).collect()
    }

    /// Applies a command. `None` if the answer is an error or depends on which keys are not purged yet.
    pub fn apply(&mut self, command: &Command) -> Option<Answer> {
        self.pass(command.now_ms);
        let answer = self.execute(command.op.as_ref()?);
        self.forget_expired();
        answer
    }

    /// Applies an entry that only advances the clock.
    pub fn pass(&mut self, now_ms: u64) {
        self.clock_ms = self.clock_ms.max(now_ms);
        self.forget_expired();
    }

    fn forget_expired(&mut self) {
        let clock_ms = self.clock_ms;
        self.keys.retain(|_, (_, at_ms)| at_ms.is_none_or(|at_ms| at_ms > clock_ms));
    }

    fn execute(&mut self, op: &Op) -> Option<Answer> {
        Some(match op {
            Op::Set(op) => return Some(self.set(op)),
            Op::Delete(op) => {
                int(op.keys.iter().filter(|&key| self.keys.remove(key).is_some()).count() as i64)
            }
            Op::Expire(op) => {
                let Some((_, at_ms)) = self.keys.get_mut(&op.key) else { return Some(int(0)) };
                // No expiry compares as later than any time.
                let current_ms = at_ms.unwrap_or(u64::MAX);
                let is_met = match op.condition {
                    0 => true,
                    1 => at_ms.is_none(),
                    2 => at_ms.is_some(),
                    3 => op.at_ms > current_ms,
                    _ => op.at_ms < current_ms,
                };
                if is_met {
                    *at_ms = Some(op.at_ms);
                }
                int(is_met.into())
            }
            Op::Persist(op) => {
                int(self.keys.get_mut(&op.key).is_some_and(|(_, at_ms)| at_ms.take().is_some()).into())
            }
            Op::MultiSet(op) => {
                if op.if_none_exist && op.pairs.iter().any(|pair| self.keys.contains_key(&pair.key)) {
                    return Some(int(0));
                }
                for pair in &op.pairs {
                    self.keys.insert(pair.key.clone(), (pair.value.clone(), None));
                }
                if op.if_none_exist { int(1) } else { done() }
            }
            Op::Increment(op) => {
                let (data, at_ms) = self.keys.get(&op.key).cloned().unwrap_or((bytes("0"), None));
                let current: i64 = std::str::from_utf8(&data).ok()?.parse().ok()?;
                if current.to_string().as_bytes() != data {
                    return None;
                }
                let sum = current.checked_add(op.delta)?;
                self.keys.insert(op.key.clone(), (bytes(&sum.to_string()), at_ms));
                int(sum)
            }
            Op::FlushAll(_) => {
                self.keys.clear();
                done()
            }
            Op::PurgeExpired(_)
            | Op::RegisterMember(_)
            | Op::SkipEntry(_)
            | Op::Apply(_)
            | Op::Call(_)
            | Op::Transaction(_) => {
                return None;
            }
        })
    }

    fn set(&mut self, op: &Set) -> Answer {
        let old = self.keys.get(&op.key).cloned();
        let is_met = op.condition == 0 || (op.condition == 1) == old.is_none();
        if is_met {
            let kept_ms = old.as_ref().and_then(|old| old.1).filter(|_| op.keep_ttl);
            self.keys.insert(op.key.clone(), (op.value.clone(), op.expire_at_ms.or(kept_ms)));
        }
        match (op.return_previous, is_met) {
            (true, _) => old.map_or(nil(), |(data, _)| Answer::Bytes(data)),
            (false, true) => done(),
            (false, false) => nil(),
        }
    }
}
