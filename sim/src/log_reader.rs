//! The log reader of a machine: reads entries back from its log, while the log writer appends, for a member that lags.

use helios_raft::simulation::{Done, FetchJob};
use rand::Rng;

use crate::Violation;
use crate::events::{Event, Run, Slot};
use crate::world::World;

impl World {
    /// Plans the execution of a fetch job.
    pub fn fetch(&mut self, slot: Slot, job: FetchJob) {
        let late = self.random.random_range(50..3_000);
        if let Some(process) = &mut self.machines[slot].process {
            process.fetch_jobs.push_back(job);
            self.events.plan(self.now + late, Event::LogReader(slot, process.run));
        }
    }

    pub fn on_log_reader(&mut self, slot: Slot, run: Run) -> Result<(), Violation> {
        let Some(Event::LogReader(..)) = self.unless_paused(slot, Event::LogReader(slot, run)) else {
            return Ok(());
        };
        let Some(process) = self.running(slot, run) else { return Ok(()) };
        let Some(job) = process.fetch_jobs.pop_front() else { return Ok(()) };
        let done = job.run(&process.wal.reader());
        if let Done::Fetched { outcome: Err(error), .. } = &done {
            let what = format!("log reader failed: {error}");
            return self.disk_failed(slot, &what);
        }
        process.done.push_back(done);
        self.report.fetches += 1;
        self.turn(slot);
        Ok(())
    }
}
