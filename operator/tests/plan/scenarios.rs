//! What a user would tell of: one test each.

use helios_operator::plan::{Step, plan};
use helios_operator::report;

use crate::world::{World, settled, voters};

#[test]
fn a_cluster_begins_once_and_grows_to_its_size() {
    for replicas in [1, 3, 5, 7] {
        let world = settled(replicas);
        assert_eq!((world.begun, voters(&world)), (1, replicas as usize));
        assert_eq!(world.status().ready, Some(format!("{replicas}/{replicas}")));
    }
}

#[test]
fn an_even_number_of_members_is_told_to_gain_nothing() {
    for (replicas, reason) in [(3, "AsDesigned"), (4, "EvenReplicas")] {
        let mut world = World::new(replicas);
        world.cluster.spec.allow_even_replicas = true;
        world.settle();
        let conditions = world.status().conditions;
        let found = conditions.iter().find(|condition| condition.type_ == "FaultToleranceReduced").unwrap();
        assert_eq!((found.status.as_str(), found.reason.as_str()), ("False", reason), "{replicas} members");
    }
}

#[test]
fn a_settled_cluster_needs_no_write() {
    let mut world = settled(3);
    let before = world.status();
    let plan = world.pass();
    assert!(plan.step.is_none() && plan.labels.iter().all(|labels| labels.role.is_some()));
    assert_eq!(report::news(&before, &world.status()), report::News::Nothing);
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
fn an_entry_that_members_hold_is_reported_with_its_way_out_and_restarts_none() {
    let mut world = settled(3);
    world.holding.extend(0..2);
    for _ in 0..50 {
        assert_eq!(world.pass().step, None);
    }
    let degraded = world.status().conditions.into_iter().find(|c| c.type_ == "Degraded").unwrap();
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "EntryUnappliable"));
    for part in ["entry 99 (SORT, 400 bytes", "demo-0, demo-1", "heliosctl log skip 99 --crc 0badf00d"] {
        assert!(degraded.message.contains(part), "{}", degraded.message);
    }
    world.holding.clear();
    world.pass();
    let degraded = world.status().conditions.into_iter().find(|c| c.type_ == "Degraded").unwrap();
    assert_eq!(degraded.reason, "AllMembersHealthy");
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
fn nothing_of_a_removed_member_goes_before_a_majority_knows() {
    let mut world = settled(5);
    world.unaware = (0..5).collect();
    world.edit(|spec| (spec.replicas, spec.storage.retain) = (3, false));
    for _ in 0..50 {
        world.pass();
    }
    assert_eq!((voters(&world), world.pods.len(), world.disks.len()), (3, 5, 5));
    world.unaware = (0..3).filter(|ordinal| world.leader_ordinal() != Some(*ordinal)).take(1).collect();
    world.settle();
    for _ in 0..5 {
        world.pass();
    }
    assert_eq!((world.pods.len(), world.disks.len()), (3, 3));
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

#[test]
fn scaling_is_taken_back_in_its_middle() {
    for passes in 0..20 {
        let mut world = settled(3);
        world.scale(5);
        (0..passes).for_each(|_| drop(world.pass()));
        world.scale(3);
        world.settle();
        assert_eq!((voters(&world), world.pods.len()), (3, 3), "out, after {passes} passes");

        let mut world = settled(5);
        world.scale(3);
        (0..passes).for_each(|_| drop(world.pass()));
        world.scale(5);
        world.settle();
        assert_eq!((voters(&world), world.pods.len()), (5, 5), "in, after {passes} passes");
        assert!(world.pods.values().all(|pod| pod.in_service));
    }
}

#[test]
fn a_template_changed_while_rolling_restarts_none_more_than_twice() {
    for passes in 0..20 {
        let mut world = settled(3);
        world.template = 2;
        (0..passes).for_each(|_| drop(world.pass()));
        world.template = 3;
        world.settle();
        assert!(world.restarted.values().all(|n| *n <= 2), "{:?}", world.restarted);
    }
}

#[test]
fn a_restarted_member_is_watched_before_the_next_one_goes() {
    let mut world = settled(3);
    world.template = 2;
    let mut stops = Vec::new();
    for _ in 0..60 {
        if let Some(Step::Evict { .. }) = world.pass().step {
            stops.push(world.now);
        }
    }
    let least = world.validated().rollout.stable_for;
    for pair in stops.windows(2) {
        assert!(pair[1].duration_since(pair[0]).unsigned_abs() > least, "{stops:?}");
    }
}

#[test]
fn a_learner_that_falls_back_is_watched_anew() {
    let mut world = settled(3);
    world.scale(5);
    while world.status().operation.is_none_or(|operation| operation.steady_since.is_none()) {
        world.pass();
    }
    let learner = 3;
    world.silent.insert(learner);
    world.pass();
    assert_eq!(world.status().operation.unwrap().steady_since, None);
    world.silent.clear();
    let back = world.now;
    while !matches!(world.pass().step, Some(Step::Promote { .. })) {}
    assert!(world.now.duration_since(back).unsigned_abs() > world.validated().rollout.stable_for);
}
