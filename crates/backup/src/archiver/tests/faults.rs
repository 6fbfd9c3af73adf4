//! A fault at each call of the archiver: of the store, of the member that it reads, and the end of the archiver itself.

use std::cell::RefCell;
use std::collections::BTreeSet;

use futures::future::join_all;
use helios_archive::verify::verify;
use helios_testing::store::{Fault, Faulty};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::time::timeout;

use super::*;

const LIMITS: Limits =
    Limits { slow_retry: Duration::from_millis(50), last_write: Duration::from_millis(200) };
/// More than the calls of the archiver in one of these tests.
const CALLS: usize = 16;
/// Last entries: before the archiver is started for the second time, and after it.
const BEFORE: u64 = 20;
const LAST: u64 = 40;

fn open(store: &Arc<InMemory>) -> Store {
    opened(Arc::clone(store) as Arc<dyn ObjectStore>)
}

fn opened(store: Arc<dyn ObjectStore>) -> Store {
    Store::new(store, "")
}

/// A store and a member. With `begun` the store has a base at 10 and the log up to [`BEFORE`].
async fn site(begun: bool) -> (Arc<InMemory>, Member) {
    let (memory, member) = (Arc::new(InMemory::new()), Member::start("m0", Role::Leader, 10).await);
    if begun {
        let running = start_with(open(&memory), LIMITS, &[&member]);
        running.based(10).await;
        member.write(BEFORE);
        running.archived(BEFORE).await;
        running.end().await.unwrap();
    }
    (memory, member)
}

fn is_complete(status: &Value) -> bool {
    status["archivedIndex"] == LAST && !status["lastBase"].is_null() && status["state"] == "Archiving"
}

/// Every object is intact, and all entries are there without a gap.
async fn assert_whole(memory: &Arc<InMemory>, what: &str) {
    let archive = Archive::new(open(memory), History::new("a", 1).unwrap(), Keyring::unencrypted());
    let catalog = archive.catalog().await.unwrap();
    let report = verify(&archive, &catalog).await.unwrap();
    assert!(report.is_intact() && catalog.gaps().is_empty(), "{what}: {:?}", report.damages);
    let first = catalog.usable_bases().next().unwrap();
    assert_eq!(catalog.reach_of(first), LAST, "{what}");
    assert_restores(&archive, LAST, catalog.usable_bases().next_back().unwrap().index).await;
}

/// The states that were seen with this fault; `None` if there are fewer calls.
async fn states_with(fault: Fault, at: usize, begun: bool) -> Option<BTreeSet<String>> {
    let (memory, member) = site(begun).await;
    let faulty = Faulty::new(memory.clone(), fault, at);
    let running = start_with(opened(faulty.clone()), LIMITS, &[&member]);
    let states = RefCell::new(BTreeSet::new());
    running.until("a base", |status| !status["lastBase"].is_null()).await;
    member.write(LAST);
    let what = format!("{faulty}, begun: {begun}");
    let is_over = |status: &Value| {
        states.borrow_mut().insert(status["state"].as_str().unwrap().to_owned());
        is_complete(status)
    };
    running.until(&what, is_over).await;
    running.end().await.unwrap();
    assert_whole(&memory, &what).await;
    faulty.was_met().then(|| states.into_inner())
}

#[tokio::test]
async fn fault_of_the_store_at_any_call_is_one_state_and_the_archive_is_whole_afterwards() {
    for (fault, expected) in [
        (Fault::Forbidden, "StoreRefused"),
        (Fault::Full, "StoreFull"),
        (Fault::Throttled, "StoreUnavailable"),
        (Fault::Down, "StoreUnavailable"),
        (Fault::AnswerLost, "StoreUnavailable"),
        (Fault::Half, "StoreUnavailable"),
    ] {
        let mut met = 0;
        for begun in [false, true] {
            let runs = join_all((0..CALLS).map(|at| states_with(fault, at, begun))).await;
            for states in runs.into_iter().flatten() {
                met += 1;
                let legal = ["Archiving", "TakingBase", expected];
                assert!(states.iter().all(|state| legal.contains(&state.as_str())), "{fault:?}: {states:?}");
            }
        }
        assert!((12..2 * CALLS).contains(&met), "{fault:?} was met by {met} calls");
    }
}

/// Kills the archiver at this call, before or after it takes effect; the next one continues.
async fn is_killed_at(fault: Fault, at: usize, begun: bool) -> bool {
    let (memory, member) = site(begun).await;
    let faulty = Faulty::new(memory.clone(), fault, at);
    let mut running = start_with(opened(faulty.clone()), LIMITS, &[&member]);
    member.write(LAST - 10);
    let is_killed = tokio::select! {
        () = faulty.silent() => true,
        _ = running.until("all is archived", |status| status["archivedIndex"] == LAST - 10) => false,
    };
    running.task.abort();
    drop((&mut running.task).await);
    member.write(LAST);
    let running = start_with(open(&memory), LIMITS, &[&member]);
    let what = format!("{faulty}, begun: {begun}");
    running.until(&what, is_complete).await;
    running.end().await.unwrap();
    assert_whole(&memory, &what).await;
    is_killed
}

#[tokio::test]
async fn archiver_killed_at_any_call_is_continued_by_the_next_one_without_a_gap() {
    for fault in [Fault::Silent, Fault::SilentAfter] {
        let mut killed = 0;
        for begun in [false, true] {
            let runs = join_all((0..CALLS).map(|at| is_killed_at(fault, at, begun))).await;
            killed += runs.into_iter().filter(|is_killed| *is_killed).count();
        }
        assert!((8..2 * CALLS).contains(&killed), "{fault:?}: killed at {killed} calls");
    }
}

/// Asks the archiver to end while its call is not answered; returns how it ended, if it made so many calls.
async fn ended_at(at: usize) -> Option<Result<(), Failure>> {
    let (memory, member) = site(true).await;
    let faulty = Faulty::new(memory.clone(), Fault::Silent, at);
    let running = start_with(opened(faulty.clone()), LIMITS, &[&member]);
    member.write(LAST);
    let is_silent = tokio::select! {
        () = faulty.silent() => true,
        _ = running.until("all is archived", |status| status["archivedIndex"] == LAST) => false,
    };
    let ended =
        timeout(PATIENCE, running.end()).await.unwrap_or_else(|_| panic!("{faulty}: it does not end"));
    let running = start_with(open(&memory), LIMITS, &[&member]);
    running.until(&faulty.to_string(), is_complete).await;
    running.end().await.unwrap();
    assert_whole(&memory, &faulty.to_string()).await;
    is_silent.then_some(ended)
}

#[tokio::test]
async fn archiver_ends_in_time_when_the_store_never_answers() {
    let ended: Vec<_> = join_all((0..CALLS).map(ended_at)).await.into_iter().flatten().collect();
    let failures: Vec<_> = ended.iter().filter_map(|ended| ended.as_ref().err()).collect();
    assert!(ended.len() > 2 && !failures.is_empty(), "{ended:?}");
    for failure in failures {
        assert_eq!(failure.reason, "NotFlushed", "{failure}");
        assert!(failure.message.contains("the store did not answer"), "{failure}");
    }
}

#[tokio::test]
async fn follower_killed_at_any_call_is_replaced_by_another_member_without_a_gap() {
    let is_killed_at = async |calls| {
        let memory = Arc::new(InMemory::new());
        let leader = Member::start("m0", Role::Leader, 10).await;
        let follower = Member::start("m1", Role::Follower, 10).await;
        follower.facts().calls_left = Some(calls);
        let running = start_with(open(&memory), LIMITS, &[&leader, &follower]);
        for last in [BEFORE, LAST] {
            running.until("a base", |status| !status["lastBase"].is_null()).await;
            leader.write(last);
            follower.write(last);
            running.archived(last).await;
        }
        running.until(&format!("call {calls}"), is_complete).await;
        running.end().await.unwrap();
        assert_whole(&memory, &format!("the follower is killed at call {calls}")).await;
        follower.facts().is_dead
    };
    let killed = join_all((0..8).map(is_killed_at)).await;
    assert!(killed.iter().filter(|is_killed| **is_killed).count() > 3, "{killed:?}");
}
