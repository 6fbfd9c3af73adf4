//! The world: simulated time, machines, links and clients, and the dispatch of events and effects between them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use helios_proto::v1::Membership;
use helios_raft::simulation::{
    ApplyJob, Done, Effect, Input, LogJob, LogWork, Role, TICK, build_snapshot, overlay,
};
use helios_raft::{RaftStatus, RecoveryError};
use helios_storage::wal::Batch;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::archive::Archive;
use crate::clients::Clients;
use crate::events::{Event, Events, Run, Slot};
use crate::fingerprint::Fingerprint;
use crate::invariants::{Electorate, Invariants};
use crate::machine::{Machine, Process, StartError, Started};
use crate::nemesis::{Forcing, Nemesis};
use crate::plan::{Micros, Plan};
use crate::poison::{Poison, apply_or_end};
use crate::reference::Reference;
use crate::{Report, Violation};

pub struct World {
    pub plan: Plan,
    pub random: SmallRng,
    pub now: Micros,
    /// Instant that the members have for simulated time 0.
    began: Instant,
    pub events: Events,
    pub machines: Vec<Machine>,
    /// Links that lose all messages, as (from, to).
    pub cuts: BTreeSet<(Slot, Slot)>,
    pub clients: Clients,
    pub nemesis: Nemesis,
    pub invariants: Invariants,
    pub reference: Reference,
    pub archive: Archive,
    pub fingerprint: Fingerprint,
    pub report: Report,
    next_run: Run,
    /// Whether every step is printed on standard output (`HELIOS_SIM_TRACE`).
    pub is_traced: bool,
    /// The survivor that is being made the only member (force-new-cluster).
    pub forcing: Option<Forcing>,
    /// A poison entry that is in some log, or may be.
    pub poison: Option<Poison>,
    /// The highest fencing token that the keeper has used.
    pub token: u64,
    /// Batches that each machine's log writer was writing when it failed: any part of them may be on disk.
    torn: Vec<Vec<Batch>>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let plan = Plan::draw(&mut random);
        let machines = (0..plan.machines).map(|slot| Machine::new(slot, random.random())).collect();
        Self {
            clients: Clients::new(&plan),
            torn: vec![Vec::new(); plan.machines],
            plan,
            random,
            now: 0,
            began: Instant::now(),
            events: Events::default(),
            machines,
            cuts: BTreeSet::new(),
            nemesis: Nemesis::default(),
            invariants: Invariants::default(),
            reference: Reference::default(),
            archive: Archive::new(seed),
            fingerprint: Fingerprint::default(),
            report: Report { seed, ..Report::default() },
            next_run: 1,
            forcing: None,
            poison: None,
            token: 1,
            is_traced: std::env::var_os("HELIOS_SIM_TRACE").is_some(),
        }
    }

    pub fn live(mut self) -> Report {
        let outcome = self.begin().and_then(|()| self.run_until(self.plan.horizon)).and_then(|()| self.end());
        self.report.violation = outcome.err();
        self.report.committed = self.invariants.committed_count();
        self.report.fingerprint = self.fingerprint.value();
        self.report
    }

    fn begin(&mut self) -> Result<(), Violation> {
        let members = (0..self.plan.members).map(|slot| self.record(slot, slot as u64 + 1)).collect();
        let membership = helios_raft::membership::initial(crate::machine::CLUSTER, members);
        for slot in 0..self.plan.members {
            self.machines[slot].marker.member = Some(slot as u64 + 1);
            self.start(slot, Some(&membership))?;
        }
        for client in 0..self.plan.clients {
            self.plan_turn(client);
        }
        self.events.plan(self.plan.fault_gap.end, Event::Nemesis);
        self.events.plan(self.plan.fault_gap.end, Event::Keeper);
        Ok(())
    }

    /// Executes events until `end`, faults included.
    pub fn run_until(&mut self, end: Micros) -> Result<(), Violation> {
        while let Some((at, event)) = self.events.pop() {
            self.now = self.now.max(at);
            self.execute(event)?;
            self.clients.check()?;
            self.report.steps += 1;
            if self.now >= end {
                break;
            }
        }
        Ok(())
    }

    fn execute(&mut self, event: Event) -> Result<(), Violation> {
        if self.is_traced {
            println!("{:>9} {event:?}", self.now);
        }
        match event {
            Event::Tick(slot, run) => self.tick(slot, run),
            Event::Turn(slot, run) => return self.on_turn(slot, run),
            Event::LogWriter(slot, run) => return self.on_log_writer(slot, run),
            Event::Applier(slot, run) => return self.on_applier(slot, run),
            Event::LogReader(slot, run) => return self.on_log_reader(slot, run),
            Event::Checkpoint(slot, run) => return self.on_checkpoint(slot, run),
            Event::Built(slot, run) => {
                if let Some(process) = self.running(slot, run) {
                    process.done.extend(process.built.drain(..));
                    self.turn(slot);
                }
            }
            Event::Deliver { to, from, message } => return self.deliver(to, &from, *message),
            Event::DeliverSnapshot(parcel) => return self.deliver_snapshot(*parcel),
            Event::SnapshotSent { slot, run, to, ok } => {
                if let Some(process) = self.running(slot, run) {
                    if ok {
                        process.snapshots.sent(to);
                    }
                    self.input(slot, Input::SnapshotSent { to, ok });
                }
            }
            Event::LinkLost { slot, run, from } => {
                if self.running(slot, run).is_some() {
                    self.input(slot, Input::LinkLost(from));
                }
            }
            Event::Client(client) => self.client(client),
            Event::Nemesis => return self.nemesis(),
            Event::Keeper => self.keeper(),
            Event::Start(slot) => return self.start(slot, None),
            Event::Repair { slot, min } => return self.repair_state(slot, min),
        }
        Ok(())
    }

    pub fn instant(&self) -> Instant {
        self.began + Duration::from_micros(self.now)
    }

    pub fn running(&mut self, slot: Slot, run: Run) -> Option<&mut Process> {
        self.machines[slot].process.as_mut().filter(|process| process.run == run)
    }

    /// Returns `event`, or plans it again for the end of the pause and returns `None` if the machine is paused.
    pub fn unless_paused(&mut self, slot: Slot, event: Event) -> Option<Event> {
        let until = self.machines[slot].paused_until;
        if until <= self.now {
            return Some(event);
        }
        let late = self.random.random_range(0..500);
        self.events.plan(until + late, event);
        None
    }

    /// Starts the process of a machine, unless it runs, is no member or has a broken disk. `begin` is the initial
    /// membership, if the start bootstraps the cluster.
    pub fn start(&mut self, slot: Slot, begin: Option<&Membership>) -> Result<(), Violation> {
        let machine = &mut self.machines[slot];
        if machine.process.is_some() || machine.broken.is_some() || machine.marker.removed {
            return Ok(());
        }
        let Some(member) = machine.marker.member else { return Ok(()) };
        let was_forced = machine.marker.force_new.is_some();
        let (run, seed) = (self.next_run, self.random.random());
        self.next_run += 1;
        let now = self.instant();
        let machine = &mut self.machines[slot];
        match machine.start(&self.plan, begin, run, seed, now) {
            Ok(Started { process, found, written }) => {
                let torn = std::mem::take(&mut self.torn[slot]);
                let rebuilds = process.store.rebuilds();
                self.report.rebuilds += rebuilds;
                if rebuilds > 0 && !machine.may_rebuild() {
                    return Err(Violation(format!(
                        "{}: an intact state was discarded and rebuilt",
                        machine.name
                    )));
                }
                machine.process = Some(process);
                machine.healed();
                self.fingerprint.note((self.now, slot, run));
                self.invariants.on_start(member, &found, &torn)?;
                if let Some(state) = written.iter().filter(|_| was_forced).find_map(|batch| batch.hard_state)
                {
                    self.invariants.on_force_new(state.term);
                    self.forcing = None;
                }
                self.invariants.on_write(member, &written)?;
                self.events.plan(self.now, Event::Tick(slot, run));
                self.events.plan(self.now + 5_000, Event::Checkpoint(slot, run));
                self.turn(slot);
                Ok(())
            }
            Err(error) => self.not_started(slot, &error),
        }
    }

    /// Handles a start that failed: ends the process at a planned fault, takes an impaired disk for broken, and
    /// otherwise returns a violation.
    fn not_started(&mut self, slot: Slot, error: &StartError) -> Result<(), Violation> {
        self.fingerprint.note((self.now, slot, "refused"));
        if self.machines[slot].disk.is_cut() {
            self.power_cut(slot);
            return Ok(());
        }
        if self.machines[slot].sync_failed() {
            self.kill(slot);
            return Ok(());
        }
        if let StartError::Recovery(RecoveryError::Gap(gap)) = error
            && self.machines[slot].may_rebuild()
        {
            self.plan_repair(slot, gap.base);
            return Ok(());
        }
        let what = format!("{} does not start: {error}", self.machines[slot].name);
        if !self.nemesis.is_impaired(slot) {
            return Err(Violation(what));
        }
        self.machines[slot].broken = Some(what);
        Ok(())
    }

    /// Queues `input` for the Raft thread of a machine. Returns false if no process runs.
    pub fn input(&mut self, slot: Slot, input: Input) -> bool {
        let Some(process) = &mut self.machines[slot].process else { return false };
        process.inbox.push(input);
        self.turn(slot);
        true
    }

    pub fn turn(&mut self, slot: Slot) {
        let late = self.random.random_range(0..100);
        let Some(process) = &mut self.machines[slot].process else { return };
        if !std::mem::replace(&mut process.turn_planned, true) {
            self.events.plan(self.now + late, Event::Turn(slot, process.run));
        }
    }

    fn tick(&mut self, slot: Slot, run: Run) {
        if self.running(slot, run).is_none() {
            return;
        }
        let Some(Event::Tick(..)) = self.unless_paused(slot, Event::Tick(slot, run)) else { return };
        if let Some(process) = self.running(slot, run) {
            process.core.tick();
        }
        // The ticks of each machine drift at another rate.
        let drift = slot as u64;
        self.events.plan(self.now + TICK.as_micros() as u64 + drift, Event::Tick(slot, run));
        self.turn(slot);
    }

    fn on_turn(&mut self, slot: Slot, run: Run) -> Result<(), Violation> {
        let Some(Event::Turn(..)) = self.unless_paused(slot, Event::Turn(slot, run)) else { return Ok(()) };
        let now = self.instant();
        if self.running(slot, run).is_some() && self.machines[slot].disk.is_cut() {
            self.power_cut(slot);
        }
        let Some(process) = self.running(slot, run) else { return Ok(()) };
        process.turn_planned = false;
        while let Some(done) = process.done.pop_front() {
            process.core.on_done(done, now);
        }
        for input in std::mem::take(&mut process.inbox) {
            process.core.handle(input, now);
        }
        let effects = process.core.drain(now);
        let status = process.core.status(now);
        self.observe(slot, &status)?;
        for effect in effects {
            self.dispatch(slot, effect)?;
        }
        self.poll_clients(slot);
        Ok(())
    }

    fn observe(&mut self, slot: Slot, status: &RaftStatus) -> Result<(), Violation> {
        let member = self.machines[slot].marker.member.unwrap_or_default();
        let Some(process) = &mut self.machines[slot].process else { return Ok(()) };
        let (term, commit, applied) = (status.term, status.commit_index, process.applied_index());
        let has_advanced = process.indexes.advance(member, term, commit, applied)?;
        self.report.elections += status.elections - process.elections;
        process.elections = status.elections;
        self.fingerprint.note((self.now, slot, status.term, commit, status.leader_id));
        // Entries may have been committed before or after a change of voters in the same turn.
        let now = Electorate::of(&status.membership);
        let electorates = [std::mem::replace(&mut process.electorate, now.clone()), now];
        let term_of = |index| process.core.term_of(index);
        self.invariants.on_status(member, status, &electorates, has_advanced, term_of)
    }

    fn dispatch(&mut self, slot: Slot, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::Send(messages) => return self.send(slot, messages),
            Effect::Log(job) => self.log(slot, job),
            Effect::Apply(job) => return self.apply(slot, job),
            Effect::Fetch(job) => self.fetch(slot, job),
            Effect::BuildSnapshot { as_set } => {
                let at = self.now + self.random.random_range(500..20_000);
                if let Some(process) = &mut self.machines[slot].process {
                    process.snapshot_wanted = Some(as_set);
                    self.events.plan(at, Event::Checkpoint(slot, process.run));
                }
            }
            Effect::RemoveSnapshots { before } => {
                if let Some(process) = &mut self.machines[slot].process {
                    process.snapshots.remove_before(before);
                }
            }
            Effect::Membership(_) | Effect::ElectionOver(_) => {}
            Effect::Changed(waiter, membership) => drop(waiter.send(Ok(membership))),
            Effect::Lost(reason) => return self.disk_lost_data(slot, reason),
        }
        Ok(())
    }

    /// Stops a member that noticed that its disk lost data; a violation unless the nemesis impaired the disk.
    fn disk_lost_data(&mut self, slot: Slot, reason: String) -> Result<(), Violation> {
        if !self.nemesis.is_impaired(slot) {
            return Err(Violation(format!("{}: {reason}", self.machines[slot].name)));
        }
        self.kill(slot);
        self.machines[slot].broken = Some(reason);
        Ok(())
    }

    fn log(&mut self, slot: Slot, job: LogJob) {
        let machine = &mut self.machines[slot];
        let Some(process) = &mut machine.process else { return };
        process.log_jobs.push_back(job);
        if !std::mem::replace(&mut process.log_planned, true) {
            let run = process.run;
            let at = self.now + self.disk_time(slot);
            self.events.plan(at, Event::LogWriter(slot, run));
        }
    }

    fn disk_time(&mut self, slot: Slot) -> Micros {
        let slow = self.machines[slot].slow_until > self.now;
        let time = self.random.random_range(self.plan.sync.clone());
        if slow { time + self.random.random_range(5_000..100_000) } else { time }
    }

    fn on_log_writer(&mut self, slot: Slot, run: Run) -> Result<(), Violation> {
        let Some(Event::LogWriter(..)) = self.unless_paused(slot, Event::LogWriter(slot, run)) else {
            return Ok(());
        };
        let member = self.machines[slot].marker.member.unwrap_or_default();
        let Some(process) = self.running(slot, run) else { return Ok(()) };
        process.log_planned = false;
        let work = LogWork::drain(None, || process.log_jobs.pop_front());
        let persisted = match work.append(&mut process.wal) {
            Ok(persisted) => persisted,
            Err(error) => {
                self.torn[slot] = work.batches;
                return self.disk_failed(slot, &format!("log writer failed: {error}"));
            }
        };
        process.done.extend(persisted.map(Done::Persisted));
        let rest = work.purge(&mut process.wal).and_then(|()| process.wal.prepare_spare());
        let more = !process.log_jobs.is_empty();
        process.log_planned = more;
        self.invariants.on_write(member, &work.batches)?;
        self.turn(slot);
        if more {
            let at = self.now + self.disk_time(slot);
            self.events.plan(at, Event::LogWriter(slot, run));
        }
        match rest {
            Ok(_) => Ok(()),
            Err(error) => self.disk_failed(slot, &format!("log writer failed: {error}")),
        }
    }

    fn apply(&mut self, slot: Slot, job: ApplyJob) -> Result<(), Violation> {
        let member = self.machines[slot].marker.member.unwrap_or_default();
        if let ApplyJob::Entries { entries, .. } = &job {
            entries.iter().try_for_each(|(entry, _)| self.reference.commit(entry))?;
            self.invariants.on_commit(member, entries.iter().map(|(entry, _)| entry))?;
        }
        let time = self.random.random_range(10..1_000);
        let Some(process) = &mut self.machines[slot].process else { return Ok(()) };
        process.apply_jobs.push_back(job);
        if !std::mem::replace(&mut process.apply_planned, true) {
            self.plan_applier(slot, time);
        }
        Ok(())
    }

    /// Plans the next job of the apply thread. A restore takes a hundred times as long as entries.
    fn plan_applier(&mut self, slot: Slot, time: Micros) {
        let Some(process) = &self.machines[slot].process else { return };
        let is_restore = matches!(process.apply_jobs.front(), Some(ApplyJob::Restore { .. }));
        let time = if is_restore { 100 * time } else { time };
        self.events.plan(self.now + time, Event::Applier(slot, process.run));
    }

    fn on_applier(&mut self, slot: Slot, run: Run) -> Result<(), Violation> {
        let Some(Event::Applier(..)) = self.unless_paused(slot, Event::Applier(slot, run)) else {
            return Ok(());
        };
        let Some(process) = self.running(slot, run) else { return Ok(()) };
        let Some(job) = process.apply_jobs.pop_front() else { return Ok(()) };
        let Some(outcome) = apply_or_end(process, job) else {
            // The power may have failed at the note of the entry.
            if self.machines[slot].disk.is_cut() {
                self.power_cut(slot)
            } else {
                self.kill(slot)
            }
            return Ok(());
        };
        let applied = process.applied_index();
        process.apply_planned = !process.apply_jobs.is_empty();
        let more = process.apply_planned;
        match outcome {
            Ok(done) => process.done.extend(done),
            Err(error) => return self.disk_failed(slot, &format!("applier failed: {error}")),
        }
        self.reference.check_applied(applied)?;
        if more {
            let time = self.random.random_range(10..1_000);
            self.plan_applier(slot, time);
        }
        self.turn(slot);
        self.poll_clients(slot);
        Ok(())
    }

    fn on_checkpoint(&mut self, slot: Slot, run: Run) -> Result<(), Violation> {
        let Some(Event::Checkpoint(..)) = self.unless_paused(slot, Event::Checkpoint(slot, run)) else {
            return Ok(());
        };
        let member = self.machines[slot].marker.member.unwrap_or_default();
        let mut merges = SmallRng::seed_from_u64(self.random.random());
        let Some(process) = self.running(slot, run) else { return Ok(()) };
        let wanted = process.snapshot_wanted.take();
        let is_regular = wanted.is_none();
        let outcome = if let Some(as_set) = wanted {
            build_snapshot(&process.store, &process.snapshots, as_set, process.metrics()).map(Some)
        } else {
            process.merge(&mut merges).and_then(|()| process.store.checkpoint()).map(|_| None)
        };
        let snapshot_failed = matches!(outcome, Ok(Some(Done::SnapshotFailed)));
        match outcome {
            Ok(done) => {
                // The content of a damaged engine cannot be read.
                if let Some(Done::SnapshotBuilt(meta)) = &done
                    && let Ok(digest) = process.store.checkpoint_digest()
                {
                    self.invariants.on_snapshot(member, meta.index, digest)?;
                }
                let at = self.now + self.random.random_range(0..20_000);
                if let Some(process) = self.running(slot, run) {
                    let overlay = overlay(&process.store);
                    process.built.extend(done.into_iter().chain([overlay]));
                    self.events.plan(at, Event::Built(slot, run));
                }
                if snapshot_failed {
                    self.disk_failed(slot, "snapshot failed")?;
                }
            }
            Err(error) => return self.disk_failed(slot, &format!("checkpoint failed: {error}")),
        }
        if is_regular {
            let at = self.now + self.random.random_range(20_000..300_000);
            self.events.plan(at, Event::Checkpoint(slot, run));
        }
        self.turn(slot);
        Ok(())
    }

    /// The leader of the highest term among the machines that are not paused, with its status.
    pub fn leader(&self) -> Option<(Slot, RaftStatus)> {
        let now = self.instant();
        let leads = |machine: &Machine| {
            let status = machine.process.as_ref()?.core.status(now);
            (status.role == Role::Leader && machine.paused_until <= self.now)
                .then_some((machine.slot, status))
        };
        self.machines.iter().filter_map(leads).max_by_key(|(_, status)| status.term)
    }
}
