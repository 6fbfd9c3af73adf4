//! LINSERT and LREM as builds before log format 7 execute them: they visit the whole list. Entries with an earlier
//! budget are charged for that on every member.

use std::collections::BTreeSet;

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;

use super::{End, List, integer};
use crate::command::Outcome;
use crate::txn::Txn;

/// Inserts `element` before (`behind` is 0) or after (1) the first element that is equal to `pivot`.
pub fn linsert(txn: &mut Txn<'_>, mut list: List, behind: usize, pivot: &Bytes, element: &Bytes) -> Outcome {
    let old = list.slice(txn, 0..list.len())?;
    let Some(at) = old.iter().position(|other| other == pivot) else { return Ok(Answer::Integer(-1)) };
    let mut new = old.clone();
    new.insert(at + behind, element.clone());
    list.replace(txn, &old, &new);
    list.save(txn);
    integer(new.len())
}

pub fn lrem(txn: &mut Txn<'_>, mut list: List, count: i64, element: &Bytes) -> Outcome {
    let old = list.slice(txn, 0..list.len())?;
    let mut matches: Vec<usize> = (0..old.len()).filter(|position| old[*position] == *element).collect();
    if count < 0 {
        matches.reverse();
    }
    if count != 0 {
        matches.truncate(count.unsigned_abs() as usize);
    }
    if matches.is_empty() {
        return integer(0);
    }
    let removed: BTreeSet<_> = matches.iter().copied().collect();
    let kept = old.iter().enumerate().filter(|(position, _)| !removed.contains(position));
    let new: Vec<_> = kept.map(|(_, element)| element.clone()).collect();
    list.replace(txn, &old, &new);
    list.save(txn);
    integer(removed.len())
}

impl List {
    /// Replaces the elements `old` by `new`; writes only the positions that change.
    fn replace(&mut self, txn: &mut Txn<'_>, old: &[Bytes], new: &[Bytes]) {
        let same_tail = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
        let same_head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let grown = new.len() as i64 - old.len() as i64;
        let keeps_tail = same_tail > same_head;
        if keeps_tail {
            (0..old.len().saturating_sub(new.len())).for_each(|_| self.drop_end(txn, End::Left));
            self.0.first = if grown > 0 { self.0.first.wrapping_sub(grown) } else { self.0.first };
        } else {
            (0..old.len().saturating_sub(new.len())).for_each(|_| self.drop_end(txn, End::Right));
        }
        self.0.count = new.len() as u64;
        let changed = if keeps_tail { 0..new.len() - same_tail.min(new.len()) } else { same_head..new.len() };
        for position in changed {
            self.set(txn, position, new[position].clone());
        }
    }
}
