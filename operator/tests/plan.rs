//! Scenarios and random histories over the pure core: every history ends in the state that the spec
//! asks for, and no step on the way breaks an invariant (asserted in `world`).
#![allow(clippy::unwrap_used)]

mod world;

use helios_operator::plan::{Step, plan};
use helios_operator::report;
use proptest::prelude::*;
use world::World;

fn settled(replicas: i32) -> World {
    let mut world = World::new(replicas);
    world.settle();
    world
}

fn voters(world: &World) -> usize {
    world.raft.as_ref().unwrap().membership.voters.len()
}

#[test]
fn a_cluster_begins_once_and_grows_to_its_size() {
    for replicas in [1, 3, 5, 7] {
        let world = settled(replicas);
        assert_eq!((world.begun, voters(&world)), (1, replicas as usize));
        assert_eq!(world.status().ready, Some(format!("{replicas}/{replicas}")));
    }
}

#[test]
fn a_settled_cluster_needs_no_write() {
    let mut world = settled(3);
    let before = world.status();
    let plan = world.pass();
    assert!(plan.step.is_none() && plan.labels.iter().all(|labels| labels.role.is_some()));
    assert!(!report::is_news(&before, &world.status()));
}

#[test]
fn a_cluster_is_never_begun_again_on_a_fresh_disk() {
    let mut world = World::new(1);
    while world.begun == 0 {
        world.pass();
    }
    world.wipe(0);
    for _ in 0..50 {
        world.pass();
    }
    assert_eq!(world.begun, 1);
    assert!(world.status().operation.unwrap().step.contains("apply it again"), "{:?}", world.status());
}

#[test]
fn a_lost_disk_of_any_ordinal_is_replaced_in_place() {
    for ordinal in 0..3 {
        let mut world = settled(3);
        world.wipe(ordinal);
        world.settle();
        assert_eq!((world.begun, voters(&world)), (1, 3), "ordinal {ordinal}");
        assert!(world.disks[&ordinal].member_id > 3, "a new identity");
    }
}

#[test]
fn a_lost_majority_is_left_alone() {
    let mut world = settled(3);
    let members = world.raft.clone().unwrap().membership;
    world.wipe(1);
    world.wipe(2);
    for _ in 0..50 {
        assert_eq!(world.pass().step, None);
    }
    assert_eq!(world.raft.unwrap().membership, members);
}

#[test]
fn a_silent_member_is_not_a_dead_one() {
    let mut world = settled(3);
    let silent = (0..3).find(|o| Some(*o) != world.leader_ordinal()).unwrap();
    world.silent.insert(silent);
    for _ in 0..50 {
        assert_eq!(world.pass().step, None);
    }
    let degraded = world.status().conditions.into_iter().find(|c| c.type_ == "Degraded").unwrap();
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "MemberDown"));
}

#[test]
fn nobody_answering_is_unknown_not_lost() {
    let mut world = settled(3);
    world.silent.extend(0..3);
    world.pass();
    let available = world.status().conditions.into_iter().find(|c| c.type_ == "Available").unwrap();
    assert_eq!((available.status.as_str(), available.reason.as_str()), ("Unknown", "Unreachable"));
}

#[test]
fn scaling_out_and_in_keeps_a_quorum_at_each_step() {
    let mut world = settled(3);
    world.scale(5);
    world.settle();
    assert_eq!(voters(&world), 5);
    world.scale(3);
    world.settle();
    assert_eq!((voters(&world), world.pods.len()), (3, 3));
    assert!(world.disks.contains_key(&4), "volumes are kept by default");
    world.scale(5);
    world.settle();
    assert_eq!(voters(&world), 5, "a kept volume of a removed member is recycled");
}

#[test]
fn volumes_of_removed_members_go_unless_kept() {
    let mut world = settled(5);
    world.edit(|spec| (spec.replicas, spec.storage.retain) = (3, false));
    world.settle();
    for _ in 0..5 {
        world.pass();
    }
    assert_eq!(world.disks.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn leadership_is_moved_off_a_member_that_leaves() {
    let mut world = settled(5);
    let last = world.disks[&4].member_id;
    world.raft.as_mut().unwrap().leader = Some(last);
    world.scale(3);
    world.settle();
    assert_eq!((voters(&world), world.transfers), (3, 1));
}

#[test]
fn a_rolling_change_restarts_each_once_and_transfers_once() {
    for replicas in [1, 3, 5] {
        let mut world = settled(replicas);
        let leader = world.leader_ordinal().unwrap();
        world.template = 2;
        let mut order = Vec::new();
        for _ in 0..100 {
            if let Some(Step::Evict { ordinal, .. }) = world.pass().step {
                order.push(ordinal);
            }
        }
        assert_eq!(world.restarted.values().copied().collect::<Vec<_>>(), vec![1; replicas as usize]);
        assert_eq!(*order.last().unwrap(), leader, "the leader is last");
        assert_eq!(world.transfers, u32::from(replicas > 1));
        assert_eq!(world.phase(), "Healthy");
    }
}

#[test]
fn a_bad_template_stops_after_one_pod_and_editing_back_heals() {
    let mut world = settled(3);
    world.broken.insert(2);
    world.template = 2;
    for _ in 0..400 {
        world.pass();
    }
    assert_eq!(world.restarted.len(), 1);
    assert!(world.has_quorum());
    assert_eq!(world.phase(), "UpgradeStalled");
    world.template = 1;
    world.settle();
    assert_eq!(world.restarted.len(), 1, "the healthy ones were never touched");
}

#[test]
fn a_held_change_restarts_nothing_and_holds_nothing_else() {
    let mut world = settled(5);
    world.edit(|spec| spec.update_strategy.paused = true);
    world.template = 2;
    world.scale(3);
    for _ in 0..60 {
        world.pass();
    }
    assert_eq!((voters(&world), world.restarted.len()), (3, 0));
}

#[test]
fn a_paused_cluster_is_only_watched() {
    let mut world = settled(3);
    world.edit(|spec| (spec.replicas, spec.paused) = (5, true));
    world.template = 2;
    for _ in 0..20 {
        let plan = world.pass();
        assert!(plan.step.is_none() && plan.labels.is_empty());
    }
    assert_eq!((world.pods.len(), world.phase().as_str()), (3, "Paused"));
}

#[test]
fn a_cluster_created_again_takes_over_its_volumes() {
    let mut world = settled(3);
    let members = world.raft.clone().unwrap().membership.members;
    world.pods.clear();
    (world.replicas, world.cluster.status) = (None, None);
    world.cluster.metadata.uid = Some("another-uid".to_owned());
    for disk in world.disks.values_mut() {
        disk.created = jiff::Timestamp::UNIX_EPOCH;
    }
    world.settle();
    assert_eq!(world.raft.unwrap().membership.members, members);
}

#[test]
fn old_volumes_that_have_not_spoken_hold_the_beginning() {
    let mut world = settled(3);
    world.pods.clear();
    (world.replicas, world.cluster.status, world.raft) = (None, None, None);
    for disk in world.disks.values_mut() {
        disk.created = jiff::Timestamp::UNIX_EPOCH;
    }
    world.wipe(0);
    world.silent.extend([1, 2]);
    for _ in 0..20 {
        assert_eq!(world.pass().step, None);
    }
}

#[test]
fn a_volume_grows_where_it_is() {
    let mut world = settled(3);
    world.edit(|spec| spec.storage.size = "20Gi".to_owned());
    world.settle();
    assert!(world.disks.values().all(|disk| disk.bytes == 20 << 30));
    assert!(world.restarted.is_empty());
}

#[test]
fn the_plan_depends_on_nothing_but_its_arguments() {
    let mut world = World::new(3);
    for _ in 0..30 {
        let (cluster, seen) = (world.validated(), world.observe());
        assert_eq!(plan(&cluster, &seen), plan(&cluster, &seen));
        world.pass();
    }
}

#[derive(Debug, Clone)]
enum Event {
    Passes(u8),
    Scale(i32),
    Template(u32),
    BreakTemplate,
    Kill(u32),
    Wipe(u32),
    Silence(u32),
    Speak,
    Retain(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..25u8).prop_map(Event::Passes),
        2 => prop::sample::select(vec![1, 3, 5]).prop_map(Event::Scale),
        1 => (1..6u32).prop_map(Event::Template),
        1 => Just(Event::BreakTemplate),
        2 => (0..5u32).prop_map(Event::Kill),
        1 => (0..5u32).prop_map(Event::Wipe),
        1 => (0..5u32).prop_map(Event::Silence),
        1 => Just(Event::Speak),
        1 => any::<bool>().prop_map(Event::Retain),
    ]
}

fn happen(world: &mut World, event: Event) {
    match event {
        Event::Passes(n) => (0..n).for_each(|_| drop(world.pass())),
        Event::Scale(replicas) => world.scale(replicas),
        Event::Template(template) => world.template = template,
        Event::BreakTemplate => {
            world.template = 9;
            world.broken.insert(9);
        }
        Event::Kill(ordinal) => {
            world.pods.remove(&ordinal);
            world.tick();
        }
        // Only what a cluster can survive: one disk at a time, and not before a second one exists.
        Event::Wipe(ordinal) => {
            let mut after = world.clone();
            after.wipe(ordinal);
            if world.status().bootstrapped && after.has_quorum() && !world.broken.contains(&world.template) {
                *world = after;
            }
        }
        Event::Silence(ordinal) => drop(world.silent.insert(ordinal)),
        Event::Speak => world.silent.clear(),
        Event::Retain(retain) => world.edit(|spec| spec.storage.retain = retain),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_where_the_spec_points(
        replicas in prop::sample::select(vec![1, 3, 5]),
        history in prop::collection::vec(event(), 0..14),
    ) {
        let mut world = World::new(replicas);
        for event in history {
            happen(&mut world, event);
        }
        world.silent.clear();
        if world.broken.contains(&world.template) {
            world.template = 7;
        }
        world.settle();
        let wanted = world.cluster.spec.replicas as usize;
        prop_assert_eq!(voters(&world), wanted);
        prop_assert_eq!(world.pods.len(), wanted);
        prop_assert!(world.begun <= 1);
        prop_assert!(world.pods.values().all(|pod| pod.revision == world.applied_template));
    }
}
