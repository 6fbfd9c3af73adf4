//! The operator crashes before each single effect of each scenario - each object applied, each Secret, each part of a
//! step, each write of the status - and another continues, at once or after a while: the end is that of the run without
//! a crash. The same with an operator that acts upon the observation of the reconcile before.

use crate::world::World;
use crate::world::events::Event::{self, *};
use crate::world::settled;

/// Replicas at the start, and events after so many reconciles.
struct Scenario {
    name: &'static str,
    replicas: i32,
    script: Vec<(u32, Event)>,
}

fn scenarios() -> Vec<Scenario> {
    let scenario =
        |name, replicas, script: &[(u32, Event)]| Scenario { name, replicas, script: script.to_vec() };
    vec![
        scenario("scale out", 3, &[(0, Scale(5))]),
        scenario("scale in", 5, &[(0, Scale(3))]),
        scenario("scale in without keeping volumes", 5, &[(0, Retain(false)), (0, Scale(3))]),
        scenario("to one and back", 3, &[(0, Scale(1)), (30, Scale(3))]),
        scenario("scaling out taken back", 3, &[(0, Scale(5)), (6, Scale(3))]),
        scenario("scaling in taken back", 5, &[(0, Scale(3)), (3, Scale(5))]),
        scenario("rolling change", 3, &[(0, Template(2))]),
        scenario("rolling change of five", 5, &[(0, Template(2))]),
        scenario("rolling change of one", 1, &[(0, Template(2))]),
        scenario("changed again while rolling", 3, &[(0, Template(2)), (5, Template(3))]),
        scenario("a bad change corrected", 3, &[(0, BreakTemplate), (8, Template(3))]),
        scenario("a bad change taken back", 3, &[(0, BreakTemplate), (8, Template(1))]),
        scenario("a lost disk", 3, &[(0, Wipe(0))]),
        scenario("a lost disk of a follower", 3, &[(0, Wipe(2))]),
        scenario("a disk that fails its process", 3, &[(0, Corrupt(0))]),
        scenario("a disk that fails in a rolling change", 3, &[(0, Template(2)), (6, Corrupt(1))]),
        scenario("a lost host", 3, &[(0, Gone(0))]),
        scenario("a lost host of five, while scaling in", 5, &[(0, Scale(3)), (2, Gone(1))]),
        scenario("a cordoned leader", 3, &[(0, Cordon(0)), (8, Kill(0)), (4, Heal)]),
        scenario("hibernation", 3, &[(0, Hibernate(true)), (6, Hibernate(false))]),
        scenario(
            "hibernation while scaling out",
            3,
            &[(0, Scale(5)), (5, Hibernate(true)), (6, Hibernate(false))],
        ),
        scenario("locked out in a rolling change", 3, &[(0, Template(2)), (5, LockOut), (4, Heal)]),
        scenario("a certificate lost in a rolling change", 3, &[(0, Template(2)), (5, LoseCertificate)]),
        scenario("a certificate renewed while scaling out", 3, &[(0, Scale(5)), (6, RenewCertificate)]),
        scenario("asleep and smaller", 5, &[(0, Hibernate(true)), (4, Scale(3)), (2, Hibernate(false))]),
    ]
}

fn run(scenario: &Scenario, mut world: World, mut reconcile: impl FnMut(&mut World)) -> World {
    for (reconciles, event) in &scenario.script {
        (0..*reconciles).for_each(|_| reconcile(&mut world));
        world.happen(*event);
    }
    for _ in 0..30 {
        reconcile(&mut world);
    }
    world.settle();
    world
}

/// State of the world, without names that are never used again.
fn outcome(world: &World) -> impl PartialEq + std::fmt::Debug {
    let members = &world.raft.as_ref().unwrap().membership;
    let pods: Vec<_> = world.pods.iter().map(|(ordinal, pod)| (*ordinal, pod.revision)).collect();
    let disks: Vec<_> =
        world.disks.iter().map(|(o, disk)| (*o, disk.bytes, disk.corrupt, disk.stranded)).collect();
    let mut names: Vec<_> = members.members.iter().map(|member| member.name.clone()).collect();
    names.sort();
    (names, members.voters.len(), members.learners.len(), pods, disks, world.begun)
}

/// Crashes before its effect number `at`; another operator continues `away` ticks later.
fn interrupted(scenario: &Scenario, begin: &World, at: u64, away: u32) -> World {
    let mut world = begin.clone();
    world.crashes_at = Some(at);
    run(scenario, world, |world| {
        let lived = world.crashes_at.is_some();
        world.reconcile();
        if lived && world.crashes_at.is_none() {
            (0..away).for_each(|_| world.tick());
        }
    })
}

#[test]
fn work_completes_when_the_operator_crashes_at_any_effect() {
    let mut points = 0;
    for scenario in scenarios() {
        let begin = settled(scenario.replicas);
        let whole = run(&scenario, begin.clone(), |world| drop(world.reconcile()));
        for at in begin.effects..whole.effects {
            let away = 3 * u32::try_from(at % 2).unwrap();
            let world = interrupted(&scenario, &begin, at, away);
            let context = format!("{}, dead before effect {at}, away for {away}", scenario.name);
            assert_eq!(outcome(&world), outcome(&whole), "{context}");
            // A change that was taken back may have been executed further by then.
            if scenario.script.len() == 1 {
                assert_eq!(world.restarted, whole.restarted, "{context}: other restarts");
            }
            points += 1;
        }
    }
    println!("{points} crash points");
    assert!(points > 500, "only {points} crash points");
}

#[test]
fn bootstrap_and_restore_complete_when_the_operator_crashes() {
    for begin in [World::new(3), World::restoring(3)] {
        let mut whole = begin.clone();
        whole.settle();
        for at in 0..whole.effects {
            let mut world = begin.clone();
            world.crashes_at = Some(at);
            world.settle();
            assert_eq!(outcome(&world), outcome(&whole), "dead before effect {at}");
        }
        println!("{} crash points of a beginning", whole.effects);
    }
}

#[test]
fn invariants_hold_when_the_observation_is_stale() {
    for scenario in scenarios() {
        let begin = settled(scenario.replicas);
        let whole = run(&scenario, begin.clone(), |world| drop(world.reconcile()));
        let stale = run(&scenario, begin.clone(), |world| {
            world.reconcile();
            world.reconcile_stale();
        });
        let missed = run(&scenario, begin.clone(), |world| {
            (0..4).for_each(|_| world.tick());
            world.reconcile();
        });
        for (world, what) in [(stale, "stale"), (missed, "missed")] {
            assert_eq!(outcome(&world), outcome(&whole), "{}, {what}", scenario.name);
        }
    }
}

#[test]
fn recovery_completes_when_the_operator_crashes() {
    let begin = || {
        let mut world = settled(3);
        world.wipe(0);
        world.lose_host(1);
        (0..5).for_each(|_| drop(world.reconcile()));
        world.confirm(2);
        world
    };
    let mut whole = begin();
    let first = whole.effects;
    whole.settle();
    for at in first..whole.effects {
        let mut world = begin();
        world.crashes_at = Some(at);
        world.settle();
        assert_eq!(outcome(&world), outcome(&whole), "dead before effect {at}");
        assert!(world.forced >= 1);
    }
    println!("{} crash points of a recovery", whole.effects - first);
}
