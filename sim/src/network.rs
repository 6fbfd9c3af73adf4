//! Links between machines: delays, losses and cuts, and the handshake of the node's own links at both ends.

use std::ops::Range;
use std::path::Path;

use helios_proto::Error;
use helios_proto::v1::{ErrorCode, Handshake, Membership};
use helios_raft::simulation::{Input, handshake, membership};
use helios_raft::{Prefix, SnapshotId, Snapshots};
use helios_state::StateError;
use helios_storage::wal::Base;
use raft::eraftpb::{Message, MessageType};
use rand::Rng;

use crate::Violation;
use crate::events::{Event, Run, Slot};
use crate::machine::{CLUSTER, Machine, Process};
use crate::plan::{MILLIS, Micros};
use crate::world::World;

/// Bytes of a chunk of a snapshot transfer; a file has several.
const CHUNK_BYTES: usize = 512;
/// Time on its link of a message that later ones overtake.
const LATE: Range<Micros> = 5 * MILLIS..250 * MILLIS;

/// Sender of a message, as it identified itself when it sent it.
#[derive(Debug, Clone)]
pub struct Sender {
    pub slot: Slot,
    pub run: Run,
    pub member: u64,
    pub disk_id: String,
    pub boot_epoch: u64,
    /// Disk that it expects at the receiver; empty: any.
    pub to_disk_id: String,
    pub to_boot_epoch: u64,
    pub incarnation: u64,
}

/// A snapshot in transit.
#[derive(Debug)]
pub struct Parcel {
    pub to: Slot,
    pub from: Sender,
    pub message: Message,
    pub id: SnapshotId,
    pub file: Vec<u8>,
}

impl World {
    /// Sends the messages of a core to the machines that its own membership has for the peers.
    pub fn send(&mut self, from: Slot, messages: Vec<Message>) -> Result<(), Violation> {
        for message in messages {
            self.invariants.on_send(&message)?;
            let Some((to, sender)) = self.route(from, message.to) else { continue };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(to, sender, message);
                continue;
            }
            if self.lost(from, to) {
                continue;
            }
            let copies = 1 + u32::from(self.random.random_ratio(self.plan.duplication, 1_000));
            for _ in 0..copies {
                let at = self.now + self.time_on_wire();
                let event = Event::Deliver { to, from: sender.clone(), message: Box::new(message.clone()) };
                self.events.plan(at, event);
            }
        }
        Ok(())
    }

    fn route(&self, from: Slot, to: u64) -> Option<(Slot, Sender)> {
        let machine = &self.machines[from];
        let process = machine.process.as_ref()?;
        let known = process.store.membership();
        let (slot, to_disk_id, to_boot_epoch) = match membership::member(&known, to) {
            Some(record) => {
                let is_it = |machine: &Machine| machine.name == record.name;
                (self.machines.iter().position(is_it)?, record.disk_id.clone(), record.boot_epoch)
            }
            None => (*process.callers.get(&to)?, String::new(), 0),
        };
        let sender = Sender {
            slot: from,
            run: process.run,
            member: machine.marker.member?,
            disk_id: machine.marker.disk_id.clone(),
            boot_epoch: machine.marker.boot_epoch,
            to_disk_id,
            to_boot_epoch,
            incarnation: machine.marker.incarnation,
        };
        Some((slot, sender))
    }

    /// Ends all connections from a machine and notifies the machines at the other ends.
    pub fn break_links(&mut self, from: Slot) {
        let Some(member) = self.machines[from].marker.member else { return };
        for slot in (0..self.machines.len()).filter(|slot| *slot != from) {
            let Some(run) = self.machines[slot].process.as_ref().map(|process| process.run) else { continue };
            let at = self.now + self.random.random_range(self.plan.wire.clone());
            self.events.plan(at, Event::LinkLost { slot, run, from: member });
        }
    }

    fn time_on_wire(&mut self) -> Micros {
        let is_late = self.random.random_ratio(self.plan.late, 1_000);
        self.random.random_range(if is_late { LATE } else { self.plan.wire.clone() })
    }

    fn lost(&mut self, from: Slot, to: Slot) -> bool {
        self.cuts.contains(&(from, to)) || self.random.random_ratio(self.plan.loss, 1_000)
    }

    fn send_snapshot(&mut self, to: Slot, from: Sender, message: Message) {
        let index = message.get_snapshot().get_metadata().index;
        let machine = &self.machines[from.slot];
        let sending = |process: &Process| process.snapshots.begin_sending(message.to, index);
        let Some(path) = machine.process.as_ref().and_then(sending) else {
            self.input(from.slot, Input::SnapshotGone(message.to));
            return;
        };
        let read = |process: &Process| {
            let meta = process.snapshots.read(&path).ok()?;
            Some((SnapshotId::from(&meta), read_all(&process.snapshots, &path)?))
        };
        let file = machine.process.as_ref().and_then(read);
        let at = self.now + self.random.random_range(1_000..60_000);
        match file {
            Some((id, file)) if !self.lost(from.slot, to) => {
                let parcel = Parcel { to, from, message, id, file };
                self.events.plan(at, Event::DeliverSnapshot(Box::new(parcel)));
            }
            _ => self.report_snapshot(at, &from, message.to, false),
        }
    }

    fn report_snapshot(&mut self, at: u64, from: &Sender, to: u64, ok: bool) {
        self.events.plan(at, Event::SnapshotSent { slot: from.slot, run: from.run, to, ok });
    }

    pub fn deliver(&mut self, to: Slot, from: &Sender, message: Message) -> Result<(), Violation> {
        if self.cuts.contains(&(from.slot, to)) || !self.admit(to, from, message.to)? {
            return Ok(());
        }
        let of = &message;
        self.fingerprint.note((of.from, of.to, of.msg_type, of.term, of.index, of.commit));
        if let Some(process) = &mut self.machines[to].process {
            process.callers.insert(from.member, from.slot);
        }
        self.input(to, Input::Messages(vec![message]));
        Ok(())
    }

    /// Receives a snapshot as `peer/snapshot.rs` does: it is complete, verified and durable before Raft gets the
    /// message. Some streams break, and the next one continues from the bytes that arrived.
    pub fn deliver_snapshot(&mut self, parcel: Parcel) -> Result<(), Violation> {
        let Parcel { to, from, message, id, file } = parcel;
        let member = message.to;
        let ok = !self.cuts.contains(&(from.slot, to))
            && self.admit(to, &from, member)?
            && self.receive_snapshot(to, &id, &file);
        if ok {
            self.input(to, Input::Messages(vec![message]));
            self.report.snapshots_installed += 1;
        }
        let at = self.now + self.random.random_range(self.plan.wire.clone());
        self.report_snapshot(at, &from, member, ok);
        Ok(())
    }

    /// Fetches the state of another member, as `node/src/repair.rs` does, and starts the member with it. Tries again later
    /// if no member has a snapshot at `min` or above, or the stream breaks.
    pub fn repair_state(&mut self, slot: Slot, min: Base) -> Result<(), Violation> {
        let machine = &self.machines[slot];
        if !machine.awaits_repair || machine.broken.is_some() || machine.marker.removed {
            return Ok(());
        }
        let Some(member) = machine.marker.member else { return Ok(()) };
        let others = (0..self.plan.machines).filter(|other| {
            *other != slot && self.machines[*other].process.is_some() && !self.cuts.contains(&(*other, slot))
        });
        let others: Vec<Slot> = others.collect();
        let other = others.get(self.random.random_range(0..others.len().max(1))).copied();
        if let Some(other) = other {
            match self.offered(other, member, min.index) {
                Some((id, file)) if self.fetch_snapshot(slot, &id, &file) => {
                    self.report.repairs += 1;
                    self.machines[slot].repaired();
                    return self.start(slot, None);
                }
                Some(_) => {}
                None => {
                    self.input(other, Input::Committed(min));
                    self.input(other, Input::BuildSnapshot);
                }
            }
        }
        self.plan_repair(slot, min);
        Ok(())
    }

    pub fn plan_repair(&mut self, slot: Slot, min: Base) {
        let at = self.now + self.random.random_range(1_000..200_000);
        self.machines[slot].awaits_repair = true;
        self.events.plan(at, Event::Repair { slot, min });
    }

    /// Returns the newest snapshot of a machine for `member`, if its index is high enough.
    fn offered(&self, slot: Slot, member: u64, min_index: u64) -> Option<(SnapshotId, Vec<u8>)> {
        let process = self.machines[slot].process.as_ref()?;
        let index = process.core.status(self.instant()).snapshot_index;
        let path = process.snapshots.begin_sending(member, index).filter(|_| index >= min_index)?;
        let meta = process.snapshots.read(&path).ok()?;
        Some((SnapshotId::from(&meta), read_all(&process.snapshots, &path)?))
    }

    fn fetch_snapshot(&mut self, slot: Slot, id: &SnapshotId, file: &[u8]) -> bool {
        let end = self.end_of_stream(file);
        let Ok(snapshots) = self.machines[slot].snapshots(&self.plan) else { return false };
        receive_until(&snapshots, id, file, end).1.is_ok()
    }

    /// Returns the byte at which a stream of `file` ends: some break.
    fn end_of_stream(&mut self, file: &[u8]) -> usize {
        let breaks = self.random.random_ratio(1, 4);
        if breaks { self.random.random_range(0..file.len()) } else { file.len() }
    }

    fn receive_snapshot(&mut self, to: Slot, id: &SnapshotId, file: &[u8]) -> bool {
        let end = self.end_of_stream(file);
        let machine = &mut self.machines[to];
        let Some(process) = &machine.process else { return false };
        if machine.paused_until > self.now {
            return false;
        }
        let (is_resumed, adopted) = receive_until(&process.snapshots, id, file, end);
        self.report.snapshots_resumed += u64::from(is_resumed);
        if machine.disk.is_cut() {
            self.power_cut(to);
        }
        adopted.is_ok()
    }

    /// Runs the handshake for a message; a blank machine may become the member that the sender addresses. Returns
    /// false if no process answers or the handshake is rejected.
    fn admit(&mut self, to: Slot, from: &Sender, to_id: u64) -> Result<bool, Violation> {
        let machine = &self.machines[to];
        if machine.broken.is_some() || machine.marker.removed {
            return Ok(false);
        }
        let hello = Handshake {
            cluster_id: CLUSTER.to_owned(),
            from_id: from.member,
            from_name: self.machines[from.slot].name.clone(),
            from_disk_id: from.disk_id.clone(),
            from_boot_epoch: from.boot_epoch,
            to_id,
            to_disk_id: from.to_disk_id.clone(),
            to_boot_epoch: from.to_boot_epoch,
            incarnation: from.incarnation,
            ..Handshake::default()
        };
        let known = match (&machine.process, machine.marker.member) {
            (Some(process), _) => process.store.membership(),
            (None, None) => Membership::default().into(),
            (None, Some(_)) => return Ok(false),
        };
        match handshake::check(&local(machine), &known, &hello) {
            Ok(handshake::Verdict::Accept) => Ok(true),
            Ok(handshake::Verdict::Adopt { member_id, incarnation, .. }) => {
                let marker = &mut self.machines[to].marker;
                (marker.member, marker.incarnation) = (Some(member_id), incarnation);
                self.start(to, None)?;
                Ok(self.machines[to].process.is_some())
            }
            // The operator would see the rejection, and replace this member.
            Err(error)
                if machine.marker.disk_id == from.to_disk_id
                    && machine.marker.boot_epoch < from.to_boot_epoch =>
            {
                self.machines[to].broken = Some(error.to_string());
                self.stop_process(to);
                Ok(false)
            }
            Err(error) => {
                // The sender gets the error, unless the link back is cut.
                if !self.cuts.contains(&(to, from.slot)) {
                    self.on_rejected(from, &error);
                }
                Ok(false)
            }
        }
    }

    /// Handles the rejection of a handshake at its sender.
    fn on_rejected(&mut self, from: &Sender, error: &Error) {
        let is_impaired = self.nemesis.is_impaired(from.slot);
        let machine = &mut self.machines[from.slot];
        if machine.marker.disk_id != from.disk_id || machine.marker.boot_epoch != from.boot_epoch {
            return;
        }
        // The disk is an older copy: the operator would see the rejection, and replace the member.
        if error.code == ErrorCode::WrongMember && is_impaired {
            machine.broken = Some(error.to_string());
            self.stop_process(from.slot);
        }
    }
}

/// Offset at which a transfer continues, as in [`Snapshots::resume_at`], for a file that was read from its disk.
fn resume_at(held: Prefix, file: &[u8]) -> usize {
    let bytes = usize::try_from(held.bytes).unwrap_or(usize::MAX);
    match file.get(..bytes) {
        Some(prefix) if crc32c::crc32c(prefix) == held.crc32c => bytes,
        _ => 0,
    }
}

/// Reads the bytes of a snapshot in the order of a transfer.
fn read_all(snapshots: &Snapshots, path: &Path) -> Option<Vec<u8>> {
    let mut outgoing = snapshots.outgoing(path).ok()?;
    let (mut file, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match outgoing.read(&mut buffer).ok()? {
            0 => return Some(file),
            count => file.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Receives a snapshot file from the part that is here up to byte `end`; returns whether there was such a part.
fn receive_until(
    snapshots: &Snapshots,
    id: &SnapshotId,
    file: &[u8],
    end: usize,
) -> (bool, Result<(), StateError>) {
    let begin = resume_at(snapshots.held(id), file);
    (begin > 0, receive_bytes(snapshots, id, file, begin..end.max(begin)))
}

/// Receives the bytes `sent` of a snapshot file. An error, too, if they end before the file.
fn receive_bytes(
    snapshots: &Snapshots,
    id: &SnapshotId,
    file: &[u8],
    sent: Range<usize>,
) -> Result<(), StateError> {
    let mut incoming = snapshots.incoming(id.clone(), sent.start as u64)?;
    for chunk in file[sent].chunks(CHUNK_BYTES) {
        incoming.write(chunk)?;
    }
    snapshots.receive(incoming)
}

fn local(machine: &Machine) -> handshake::Local {
    handshake::Local {
        name: machine.name.clone(),
        disk_id: machine.marker.disk_id.clone(),
        boot_epoch: machine.marker.boot_epoch,
        initial_members_digest: String::new(),
        standing: match machine.marker.member {
            None => handshake::Standing::Blank,
            Some(member_id) => {
                let incarnation = machine.marker.incarnation;
                handshake::Standing::Member { cluster_id: CLUSTER.to_owned(), member_id, incarnation }
            }
        },
    }
}
