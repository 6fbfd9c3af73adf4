//! Switchover: transfers leadership to a named member in five phases, each with a time limit: prepare (all
//! preconditions hold), sync (the target has the log), role change (the target is the leader), reconfigure
//! (the others follow it), resume (it has committed the entries that it found in its log). If a phase fails,
//! the cluster has a leader or elects one: nothing has to be undone.

mod blockers;

use std::time::{Duration, Instant};

use helios_proto::v1::{StatusResponse, TransferRequest};
use serde::Serialize;
use tokio::time::sleep;

pub use blockers::Outlook;

use crate::direct::{Answer, leader, milliseconds};
use crate::error::Error;
use crate::persist::persist;
use crate::place::Place;

/// Pause between two polls of the members.
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// The members of a cluster, by addresses or through Kubernetes.
pub trait Members {
    /// Asks each member for its status.
    async fn survey(&self) -> Vec<Answer>;
    /// Returns the place of the member that gave `answer`.
    fn place(&self, answer: &Answer) -> Place;
    /// Returns once everything else that points to the leader, e.g. a Service, points to `name`.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    async fn await_reconfigured(&self, name: &str, limit: Duration) -> Result<(), Error>;
}

/// Time limits of the phases.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub prepare: Duration,
    pub sync: Duration,
    /// Limit of all five phases together.
    pub whole: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    pub phase: &'static str,
    pub seconds: f64,
    pub found: String,
}

impl Phase {
    pub fn line(&self) -> String {
        format!("{:<12} {:>5.1} s   {}", self.phase, self.seconds, self.found)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Done {
    pub leader: String,
    pub term: u64,
    pub before: String,
    pub phases: Vec<Phase>,
}

/// Transfers leadership to `target`; `report` is called with each completed phase.
///
/// # Errors
/// Names the phase that failed, the reason and the leader.
pub async fn run(
    members: &impl Members,
    target: &str,
    limits: Limits,
    limit: Duration,
    report: impl FnMut(&Phase),
) -> Result<Done, Error> {
    let began = Instant::now();
    let mut switchover = Switchover {
        members,
        target,
        end: began + limits.whole,
        phase_began: began,
        phases: Vec::new(),
        report,
    };
    let before = switchover.prepare(limits.prepare).await?;
    if before.name == target {
        let (leader, term) = (before.name.clone(), before.term);
        return Ok(Done { leader, term, before: before.name, phases: switchover.phases });
    }
    switchover.sync(limits.sync).await?;
    let term = switchover.role_change(&before, limit).await?;
    switchover.reconfigure(term).await?;
    switchover.resume(term).await?;
    Ok(Done { leader: target.to_owned(), term, before: before.name, phases: switchover.phases })
}

struct Switchover<'a, M, T> {
    members: &'a M,
    target: &'a str,
    end: Instant,
    phase_began: Instant,
    phases: Vec<Phase>,
    report: T,
}

impl<M: Members, T: FnMut(&Phase)> Switchover<'_, M, T> {
    /// Waits until all preconditions hold, except those that `sync` waits for. Returns the leader's status.
    async fn prepare(&mut self, limit: Duration) -> Result<StatusResponse, Error> {
        let (members, target) = (self.members, self.target);
        let (leader, found) = self
            .until("prepare", limit, async || {
                let answers = members.survey().await;
                let mut outlook = Outlook::of(&answers, target);
                outlook.blockers.retain(|blocker| !is_for_sync(blocker.reason));
                match leader(&answers) {
                    Some(leader) if outlook.blockers.is_empty() => {
                        let found = match outlook.leads_already {
                            true => format!("{target} leads already, in term {}", leader.term),
                            false => format!(
                                "{} leads in term {}, and all preconditions hold for {target}",
                                leader.name, leader.term
                            ),
                        };
                        Poll::Done((leader.clone(), found))
                    }
                    _ if outlook.is_hopeless() => Poll::Hopeless(said(&outlook)),
                    _ => Poll::NotYet(said(&outlook)),
                }
            })
            .await?;
        self.done("prepare", found);
        Ok(leader)
    }

    async fn sync(&mut self, limit: Duration) -> Result<(), Error> {
        let (members, target) = (self.members, self.target);
        self.until("sync", limit, async || {
            let outlook = Outlook::of(&members.survey().await, target);
            match outlook.blockers.is_empty() {
                true => Poll::Done(()),
                false => Poll::NotYet(said(&outlook)),
            }
        })
        .await?;
        self.done("sync", format!("{target} is at most {} entries behind", blockers::MOST_LAG));
        Ok(())
    }

    /// Returns the term in which the target is the leader. The old leader waits until the target has all
    /// entries, and holds writes meanwhile.
    async fn role_change(&mut self, before: &StatusResponse, limit: Duration) -> Result<u64, Error> {
        let (members, target, left) = (self.members, self.target, self.left());
        let done = persist(left, async || {
            let answers = members.survey().await;
            let led = leader(&answers).filter(|led| led.name == target);
            if let Some(led) = led {
                return Ok(led.term);
            }
            hand_over(members, &answers, target, left.min(limit)).await
        })
        .await;
        let term = done.map_err(|error| self.stopped("role change", &error.to_string()))?;
        self.done("role change", format!("{target} leads in term {term} (before: {})", before.name));
        Ok(term)
    }

    async fn reconfigure(&mut self, term: u64) -> Result<(), Error> {
        let (members, target) = (self.members, self.target);
        let followers = self
            .until("reconfigure", self.left(), async || {
                let answers = members.survey().await;
                let known: Vec<_> = answers.iter().filter_map(Answer::status).collect();
                let follows = |status: &&&StatusResponse| status.term >= term && status.leader_name == target;
                match known.iter().filter(follows).count() {
                    following if following == known.len() => Poll::Done(following),
                    following => Poll::NotYet(format!(
                        "{following} of {} members that answer follow {target}",
                        known.len()
                    )),
                }
            })
            .await?;
        let pointed = members.await_reconfigured(target, self.left()).await;
        pointed.map_err(|error| self.stopped("reconfigure", &error.to_string()))?;
        self.done("reconfigure", format!("{followers} members follow {target}"));
        Ok(())
    }

    /// Waits until the target has committed an entry of its own term: only then does a leader know that the
    /// entries it found in its log are committed (Raft, section 5.4.2).
    async fn resume(&mut self, term: u64) -> Result<(), Error> {
        let (members, target) = (self.members, self.target);
        let mut own = None;
        let index = self
            .until("resume", self.left(), async || {
                let answers = members.survey().await;
                let Some(led) = leader(&answers).filter(|led| led.name == target) else {
                    return Poll::NotYet(format!("{target} does not lead any more"));
                };
                if led.last_log_term >= term {
                    own.get_or_insert(led.last_index);
                }
                match own {
                    Some(index) if led.applied_index >= index && led.ready => Poll::Done(index),
                    _ => Poll::NotYet(format!("{target} has not committed an entry of term {term} yet")),
                }
            })
            .await?;
        self.done("resume", format!("{target} serves: all up to entry {index} is committed and applied"));
        Ok(())
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Polls until the result is `Done` or `Hopeless`, or until `limit` or the limit of all phases has
    /// passed.
    async fn until<R>(
        &mut self,
        phase: &'static str,
        limit: Duration,
        mut poll: impl AsyncFnMut() -> Poll<R>,
    ) -> Result<R, Error> {
        let deadline = self.end.min(Instant::now() + limit);
        loop {
            match poll().await {
                Poll::Done(found) => return Ok(found),
                Poll::NotYet(_) if Instant::now() < deadline => sleep(POLL_PAUSE).await,
                Poll::NotYet(why) | Poll::Hopeless(why) => return Err(self.stopped(phase, &why)),
            }
        }
    }

    fn stopped(&self, phase: &str, why: &str) -> Error {
        let seconds = self.phase_began.elapsed().as_secs_f64();
        Error::Impossible(format!(
            "switchover to {} stopped in phase {phase} after {seconds:.1} s: {why}",
            self.target
        ))
    }

    fn done(&mut self, phase: &'static str, found: String) {
        let now = Instant::now();
        let seconds = now.duration_since(self.phase_began).as_secs_f64();
        self.phase_began = now;
        let phase = Phase { phase, seconds, found };
        (self.report)(&phase);
        self.phases.push(phase);
    }
}

enum Poll<R> {
    Done(R),
    NotYet(String),
    Hopeless(String),
}

fn is_for_sync(reason: &str) -> bool {
    matches!(reason, "Lagging" | "ReceivesSnapshot")
}

fn said(outlook: &Outlook) -> String {
    outlook.worst().iter().map(|blocker| blocker.message.as_str()).collect::<Vec<_>>().join("; ")
}

async fn hand_over(
    members: &impl Members,
    answers: &[Answer],
    target: &str,
    limit: Duration,
) -> Result<u64, Error> {
    let led = leader(answers).and_then(|status| {
        let is_its =
            |answer: &&Answer| answer.status().is_some_and(|other| other.member_id == status.member_id);
        Some((answers.iter().find(is_its)?, status))
    });
    let (answer, status) =
        led.ok_or_else(|| Error::Impossible("there is no leader to hand over".to_owned()))?;
    let target_id = crate::direct::find(&status.membership.clone().unwrap_or_default(), target)?.id;
    let mut client = members.place(answer).cluster(limit).await?;
    let request =
        TransferRequest { target_id, timeout_ms: milliseconds(limit), ..TransferRequest::default() };
    let done = client.transfer_leadership(request).await;
    let done = done.map_err(Error::refused(&status.name, format!("hand leadership to {target}")))?;
    Ok(done.into_inner().term)
}
