//! The scrub thread: reads and checks every file of the state engine `runs` in the background, at the lowest priority, so
//! that damage in a block that nobody reads is found while other members have the data.

mod schedule;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use helios_proto::v1::Membership;
use helios_state::{Checked, RunId, Store};

use self::schedule::{Schedule, Step};
use crate::background::{Throttle, lower_priority};
use crate::metrics::Metrics;

/// Nice value of the thread: everything else goes first.
const NICE: i32 = 19;
/// Longest time between two looks whether damaged files were replaced.
const POLL: Duration = Duration::from_secs(5);

pub struct Scrubber {
    pub store: Store,
    /// Id of this member.
    pub id: u64,
    /// `None`: no scrub.
    pub bytes_per_second: Option<NonZeroU64>,
    pub metrics: Arc<Metrics>,
    /// Disconnected when the member stops.
    pub end: Receiver<()>,
}

impl Scrubber {
    /// Runs until the member stops, or until a pass finds damage that another member can repair: the member then stops,
    /// and its next start repairs the state. The only voter serves what is whole and reports the damage.
    pub fn run(self) -> Result<(), String> {
        let Some(rate) = self.bytes_per_second.filter(|_| self.store.is_trusted()) else { return Ok(()) };
        lower_priority(NICE);
        let mut throttle = Throttle::new(rate.get(), &self.end);
        let mut schedule = Schedule::new(Instant::now());
        let mut damaged = Vec::new();
        loop {
            let mut pause = Duration::ZERO;
            match schedule.next(Instant::now()) {
                Step::Wait(time) => {
                    self.keep_live(&mut damaged);
                    pause = time.min(POLL);
                }
                Step::Begin => {
                    let files = self.store.run_files();
                    self.metrics.scrub.begin(files.iter().map(|file| file.len).sum());
                    schedule.begin(files, Instant::now());
                }
                Step::Check(file) => self.check(file, &mut throttle, &mut damaged)?,
                Step::End => {
                    self.keep_live(&mut damaged);
                    self.metrics.scrub.complete(Instant::now());
                }
            }
            if matches!(self.end.recv_timeout(pause), Err(RecvTimeoutError::Disconnected)) {
                return Ok(());
            }
        }
    }

    /// Reads and checks one file. An error ends the member.
    fn check(
        &self,
        file: RunId,
        throttle: &mut Throttle<'_>,
        damaged: &mut Vec<RunId>,
    ) -> Result<(), String> {
        let checked = self.store.check_run(file, |read| {
            self.metrics.scrub.read(read);
            throttle.charge(read)
        });
        match checked {
            Ok(Checked::Interrupted) => return Ok(()),
            Ok(Checked::Whole | Checked::Replaced) => damaged.retain(|found| *found != file),
            Err(error) => {
                let is_repairable = error.is_damage() && has_other_voter(&self.store.membership(), self.id);
                tracing::error!(
                    file = %file.file_name(), %error, is_repairable,
                    "the scrub found a damaged file of the state (docs/runbooks/HeliosStateDamaged.md)"
                );
                if !damaged.contains(&file) {
                    damaged.push(file);
                }
                self.report(damaged);
                if is_repairable {
                    return Err(format!("the scrub found damage: {}", self.store.note_damage(error)));
                }
            }
        }
        self.metrics.scrub.handled(file.len);
        self.report(damaged);
        Ok(())
    }

    /// Drops the damaged files that are no part of the state any more.
    fn keep_live(&self, damaged: &mut Vec<RunId>) {
        if !damaged.is_empty() {
            let live = self.store.run_files();
            damaged.retain(|file| live.contains(file));
            self.report(damaged);
        }
    }

    fn report(&self, damaged: &[RunId]) {
        self.metrics.scrub.set_damaged(damaged.iter().map(RunId::file_name).collect());
    }
}

fn has_other_voter(membership: &Membership, id: u64) -> bool {
    membership.voters.iter().chain(&membership.voters_outgoing).any(|voter| *voter != id)
}

#[cfg(test)]
mod tests;
