//! The queue of future events. Events of the same time are executed in the order in which they were planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use helios_storage::wal::Base;
use raft::eraftpb::Message;

use crate::network::{Parcel, Sender};
use crate::plan::Micros;

/// Index of a machine in the world.
pub type Slot = usize;

/// Number of one run of a process. Events that were planned for an earlier run are ignored.
pub type Run = u64;

#[derive(Debug)]
pub enum Event {
    Tick(Slot, Run),
    /// The Raft thread handles its inputs and the results of its workers.
    Turn(Slot, Run),
    LogWriter(Slot, Run),
    Applier(Slot, Run),
    /// Entries are read back from the log.
    LogReader(Slot, Run),
    Checkpoint(Slot, Run),
    /// The Raft thread receives the results of a checkpoint or a snapshot.
    Built(Slot, Run),
    Deliver {
        to: Slot,
        from: Sender,
        message: Box<Message>,
    },
    DeliverSnapshot(Box<Parcel>),
    /// The sender of a snapshot is notified whether it arrived.
    SnapshotSent {
        slot: Slot,
        run: Run,
        to: u64,
        ok: bool,
    },
    /// A member is notified that its connection from member `from` ended.
    LinkLost {
        slot: Slot,
        run: Run,
        from: u64,
    },
    Client(usize),
    Nemesis,
    /// The keeper reconciles the membership, as the operator does.
    Keeper,
    Start(Slot),
    /// A member whose state is lost asks another one for it.
    Repair {
        slot: Slot,
        min: Base,
    },
}

struct Planned {
    at: Micros,
    number: u64,
    event: Event,
}

#[derive(Default)]
pub struct Events {
    planned: BinaryHeap<Reverse<Planned>>,
    next: u64,
}

impl Events {
    pub fn plan(&mut self, at: Micros, event: Event) {
        self.planned.push(Reverse(Planned { at, number: self.next, event }));
        self.next += 1;
    }

    pub fn pop(&mut self) -> Option<(Micros, Event)> {
        self.planned.pop().map(|Reverse(Planned { at, event, .. })| (at, event))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Planned {}
