//! The archive of one history, as the archiver knows it.

use helios_archive::base::Manifest;
use helios_archive::segments::Position;
use helios_archive::{Archive, ArchiveError, Parent};
use helios_proto::v1::{BaseHeader, LogChunk};
use serde_json::{Value, json};

use super::tail::{Tail, Written};
use super::work::Begun;
use crate::inventory::{Base, Inventory};
use crate::members::Chunks;

/// State of one history. It ends when the members have another one.
pub struct Run {
    pub archive: Archive,
    pub has_begun: bool,
    pub inventory: Inventory,
    pub tail: Option<Tail>,
    pub stream: Option<Chunks<LogChunk>>,
    pub is_opening: bool,
    /// Time of the last chunk, in milliseconds of the monotonic clock.
    pub heard_at: u64,
    /// No member has the next entry any more: a base is needed before the log continues.
    pub is_purged: bool,
    /// The store has no base from which the end of the log can be restored.
    pub needs_base: bool,
    /// Header of a base that is being taken since the log is purged.
    header: Option<BaseHeader>,
    /// Segments that were written since the listing that replaces the inventory next was begun.
    recent: Vec<Written>,
    archived_clock: u64,
    pub is_forked: bool,
    pub gaps: Vec<Value>,
    pub ranges: Vec<Value>,
}

impl Run {
    pub fn new(archive: Archive) -> Self {
        Self {
            archive,
            has_begun: false,
            inventory: Inventory::default(),
            tail: None,
            stream: None,
            is_opening: false,
            heard_at: 0,
            is_purged: false,
            needs_base: true,
            header: None,
            recent: Vec::new(),
            archived_clock: 0,
            is_forked: false,
            gaps: Vec::new(),
            ranges: Vec::new(),
        }
    }

    pub fn archived(&self) -> u64 {
        self.tail.as_ref().map(Tail::archived).unwrap_or_default()
    }

    /// The log's clock after the last archived entry.
    pub fn archived_clock(&self) -> u64 {
        self.archived_clock
    }

    /// The end of the archive, which a later history continues.
    pub fn parent(&self) -> Option<Parent> {
        let history = self.archive.history();
        self.tail.as_ref().map(|tail| Parent {
            cluster_id: history.cluster_id().to_owned(),
            incarnation: history.incarnation(),
            index: tail.archived(),
            now_ms: self.archived_clock,
        })
    }

    /// Takes what the store has. A log that is being written continues where it is.
    pub fn begun(&mut self, begun: Begun) {
        self.has_begun = true;
        self.replace_inventory(begun.inventory);
        if let (None, Some(position)) = (&self.tail, begun.position) {
            self.archived_clock = position.now_ms;
            self.tail = Some(Tail::new(&self.archive, position));
        }
        self.check_base();
        // Without a position there is no base, or the last segment cannot be continued.
        self.needs_base |= self.tail.is_none();
    }

    /// Called when a listing is begun that [`Run::replace_inventory`] takes.
    pub fn listing_begins(&mut self) {
        self.recent.clear();
    }

    pub fn replace_inventory(&mut self, inventory: Inventory) {
        self.inventory = inventory;
        for Written { id, stored_bytes, clock } in std::mem::take(&mut self.recent) {
            self.inventory.add_segment(id, stored_bytes, clock);
        }
        self.refresh();
    }

    fn refresh(&mut self) {
        self.ranges = self.inventory.recoverable();
        self.gaps = self.inventory.gaps();
    }

    fn check_base(&mut self) {
        self.needs_base = self.is_purged || !self.inventory.is_continued_to(self.archived());
    }

    /// Records segments that were written.
    pub fn written(&mut self, written: &[Written]) -> Option<Gap> {
        for Written { id, stored_bytes, clock } in written {
            self.inventory.add_segment(*id, *stored_bytes, *clock);
            self.archived_clock = *clock;
            let before = id.first - 1;
            match self.ranges.last_mut().filter(|range| range["toIndex"] == json!(before)) {
                Some(range) => {
                    range["toIndex"] = json!(id.last);
                    range["toMs"] = json!(clock);
                    range["bytes"] = json!(range["bytes"].as_u64().unwrap_or_default() + stored_bytes);
                }
                None => self.refresh(),
            }
        }
        self.recent.extend(written);
        self.continue_after_base()
    }

    /// Takes the header of a base that is being taken: the log begins after it, if there is none yet or a gap.
    pub fn base_began(&mut self, header: BaseHeader) -> Option<Gap> {
        self.header = Some(header);
        self.continue_after_base()
    }

    /// Begins the log after the base that is being taken, once everything before the gap is in the store.
    fn continue_after_base(&mut self) -> Option<Gap> {
        let header = self.header.as_ref()?;
        let position = Position {
            next_index: header.index.saturating_add(1),
            term: header.term,
            now_ms: header.now_ms,
            previous: [0; 32],
        };
        let gap = match &self.tail {
            None => None,
            Some(tail) if self.is_purged => {
                if tail.waiting_since().is_some() || tail.is_full() || header.index < tail.next_index() {
                    return None;
                }
                Some(Gap { from: tail.next_index(), to: header.index })
            }
            Some(_) => {
                self.header = None;
                return None;
            }
        };
        self.header = None;
        self.is_purged = false;
        self.archived_clock = position.now_ms;
        self.tail = Some(Tail::new(&self.archive, position));
        if let Some(Gap { from, to }) = gap {
            self.gaps.push(json!({"from": from, "to": to}));
        }
        gap
    }

    pub fn base_taken(&mut self, manifest: &Manifest) {
        self.inventory.add_base(Base::from(manifest));
        self.ranges = self.inventory.recoverable();
        self.check_base();
    }

    /// Closes the stream of the log.
    pub fn close_log(&mut self) {
        self.stream = None;
        self.is_opening = false;
    }

    /// Records an error of the store.
    pub fn failed(&mut self, error: &ArchiveError) {
        if matches!(error, ArchiveError::Forked { .. }) {
            self.is_forked = true;
            self.close_log();
        }
    }
}

/// Entries that no member had any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub from: u64,
    pub to: u64,
}
