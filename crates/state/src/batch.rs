//! Entries that are applied together and published in one step.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Command, Member, Membership, Reply};

use super::budget::Limits;
use super::dedup;
use super::engines::EngineError;
use super::follow::Elements;
use super::meta::Meta;
use super::shared::{State, Writer};
use super::store::Store;
use super::txn::{Changes, Txn};
use super::watch::Changed;
use helios_proto::Error;

/// A copy of the published state to which entries are applied. Readers see all of them when
/// [`Batch::publish`] is called; a batch that is dropped without it changes nothing. Holds the writer lock of
/// the published state.
#[must_use = "nothing is applied until the batch is published"]
pub struct Batch<'s> {
    store: &'s Store,
    /// `None` once the batch is published.
    writer: Option<Writer<'s>>,
    state: State,
    changed: Vec<Changed>,
    /// Earliest expiry written by the batch, milliseconds since the Unix epoch.
    earliest_expiry_ms: Option<u64>,
    /// See [`Changes::purged_to_ms`].
    purged_to_ms: Option<u64>,
}

impl Store {
    /// Starts a batch. Called by the apply thread only.
    pub fn batch(&self) -> Batch<'_> {
        let writer = self.inner.published.writer();
        let mut state = self.inner.published.peek(State::clone);
        state.active = state.active.next();
        Batch {
            store: self,
            writer: Some(writer),
            state,
            changed: Vec::new(),
            earliest_expiry_ms: None,
            purged_to_ms: None,
        }
    }

    /// Applies and publishes the entry at `index`; see [`Batch::apply`].
    pub fn apply(&self, index: u64, term: u64, command: &Command) -> Reply {
        let mut batch = self.batch();
        let reply = batch.apply(index, term, command);
        batch.publish();
        reply
    }

    /// Calls [`Batch::apply_empty`] and publishes the result.
    pub fn apply_empty(&self, index: u64, term: u64) {
        let mut batch = self.batch();
        batch.apply_empty(index, term);
        batch.publish();
    }

    /// Calls [`Batch::apply_membership`] and publishes the result.
    pub fn apply_membership(&self, index: u64, term: u64, membership: Membership) {
        let mut batch = self.batch();
        batch.apply_membership(index, term, membership);
        batch.publish();
    }
}

impl Batch<'_> {
    /// Executes the entry at `index`.
    ///
    /// A refused command returns an error in the reply. After an error with a fatal code (see
    /// [`Store::failure`]) the entry was not applied and the node must restart.
    pub fn apply(&mut self, index: u64, term: u64, command: &Command) -> Reply {
        self.execute(index, term, command).unwrap_or_else(|error| {
            let kind = Some(Answer::Error(error.into()));
            Reply { kind, term, index }
        })
    }

    fn execute(&mut self, index: u64, term: u64, command: &Command) -> Result<Reply, Error> {
        self.store.check()?;
        let inner = &self.store.inner;
        let (reply, changes) = {
            let meta = self.state.meta_at(index, term, command.now_ms)?;
            let floor_ms = inner.published.floor().at_ms().min(self.earliest_expiry_ms.unwrap_or(u64::MAX));
            let limits = limits_of(command)?;
            let machine = inner.machine.get().map(Arc::as_ref);
            let events = inner.records_events.load(Ordering::Relaxed);
            let new_txn = || {
                Txn::new(self.state.view(), floor_ms, meta.clone(), limits)
                    .with_budget_version(command.budget)
                    .with_machine(machine)
                    .with_events(events)
            };
            dedup::execute_once(new_txn, command).map_err(|error| self.store.fail(error))?
        };
        if changes.meta.has_chunks && !self.state.meta.has_chunks {
            let marked = self.store.mark_chunks();
            marked
                .map_err(|error| self.store.fail(EngineError::Disk(io::Error::other(error.to_string()))))?;
        }
        self.commit(index, changes);
        Ok(reply)
    }

    #[cfg(test)]
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn commit(&mut self, index: u64, changes: Changes) {
        let Changes { writes, meta, earliest_expiry_ms, purged_to_ms, events } = changes;
        let mut changed = Changed::of(index, &writes, events);
        if self.store.inner.records_elements.load(Ordering::Relaxed) {
            // The state before the entry: its writes are absorbed below.
            let elements = Elements::of(&changed, &writes, &self.state.view());
            changed = changed.with_elements(elements);
        }
        self.changed.push(changed);
        self.state.active.absorb(writes);
        self.state.meta = meta;
        self.earliest_expiry_ms = self.earliest_expiry_ms.into_iter().chain(earliest_expiry_ms).min();
        self.purged_to_ms = self.purged_to_ms.max(purged_to_ms);
    }

    /// Advances the applied index over an entry without a command.
    pub fn apply_empty(&mut self, index: u64, term: u64) {
        self.advance(index, term, |_| {});
    }

    /// Records the membership that the entry at `index` sets.
    ///
    /// The registration of a known member (disk, boot, address, format) is kept if the copy in
    /// `membership` is older.
    pub fn apply_membership(&mut self, index: u64, term: u64, mut membership: Membership) {
        self.advance(index, term, |meta| {
            for member in &mut membership.members {
                let known = meta.membership.members.iter().find(|known| known.id == member.id);
                if let Some(known) = known {
                    keep_registration(member, known);
                }
            }
            membership.index = index;
            meta.membership = Arc::new(membership);
        });
    }

    fn advance(&mut self, index: u64, term: u64, change: impl FnOnce(&mut Meta)) {
        // After an entry that could not be applied, no further entry is, not even an empty one.
        if self.store.check().is_err() {
            return;
        }
        if let Ok(mut meta) = self.state.meta_at(index, term, 0) {
            change(&mut meta);
            self.state.meta = meta;
            self.changed.push(Changed::none(index));
        }
    }

    pub fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.state.meta.membership)
    }

    /// Publishes the batch: readers see all of its entries.
    pub fn publish(mut self) {
        let Some(writer) = self.writer.take() else { return };
        let published = &self.store.inner.published;
        published.publish(&writer, self.state.clone());
        if let Some(at_ms) = self.purged_to_ms {
            published.floor().advance(at_ms);
        }
        if let Some(at_ms) = self.earliest_expiry_ms {
            published.floor().lower(at_ms);
        }
        // After the state is published, so that a watcher that is notified of a change can read it.
        self.store.inner.history.publish(self.changed.drain(..));
    }
}

impl Drop for Batch<'_> {
    /// Removes what a batch that is not published has written to the map that it shares with the published overlay.
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        let published = &self.store.inner.published;
        let state = published.peek(State::clone);
        published.publish(&writer, State { active: state.active.copy(), ..state });
    }
}

/// Returns the limits of the entry's budget. A purge has no budget: its own `limit` bounds the number of
/// records, and it must make progress however large they are.
fn limits_of(command: &Command) -> Result<Limits, Error> {
    let version = if matches!(command.op, Some(Op::PurgeExpired(_))) { 0 } else { command.budget };
    Limits::of_entry(version)
        .ok_or_else(|| Error::invalid("the entry's budget is of a newer build; upgrade this member"))
}

/// Copies the registration of `known` to `member` unless `member` is of a later boot. Member ids are never
/// reused, so both are the same member.
fn keep_registration(member: &mut Member, known: &Member) {
    if known.boot_epoch < member.boot_epoch {
        return;
    }
    member.boot_epoch = known.boot_epoch;
    if !known.disk_id.is_empty() {
        member.disk_id.clone_from(&known.disk_id);
    }
    if !known.client_addr.is_empty() {
        member.client_addr.clone_from(&known.client_addr);
    }
    if known.format != 0 {
        member.format = known.format;
    }
}
