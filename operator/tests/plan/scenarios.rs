//! Scenarios of users: one test each.

use helios_operator::plan::{Step, plan};
use helios_operator::report;

use crate::world::{World, settled, voters};

#[test]
fn cluster_is_bootstrapped_once_and_grows_to_its_size() {
    for replicas in [1, 3, 5, 7] {
        let world = settled(replicas);
        assert_eq!((world.begun, voters(&world)), (1, replicas as usize));
        assert_eq!(world.status().ready, Some(format!("{replicas}/{replicas}")));
    }
}

#[test]
fn even_number_of_members_is_reported_to_tolerate_no_more_failures() {
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
fn settled_cluster_needs_no_write() {
    let mut world = settled(3);
    let before = world.status();
    let plan = world.reconcile();
    assert!(plan.step.is_none() && plan.labels.iter().all(|labels| labels.role.is_some()));
    assert_eq!(report::news(&before, &world.status()), report::News::Nothing);
}

#[test]
fn cluster_is_not_bootstrapped_again_when_its_disk_is_blank() {
    let mut world = World::new(1);
    while world.begun == 0 {
        world.reconcile();
    }
    world.wipe(0);
    for _ in 0..50 {
        world.reconcile();
    }
    assert_eq!(world.begun, 1);
    assert!(world.status().operation.unwrap().step.contains("apply it again"), "{:?}", world.status());
}

#[test]
fn lost_disk_is_replaced_in_place_at_any_ordinal() {
    for ordinal in 0..3 {
        let mut world = settled(3);
        world.wipe(ordinal);
        world.settle();
        assert_eq!((world.begun, voters(&world)), (1, 3), "ordinal {ordinal}");
        assert!(world.disks[&ordinal].member_id > 3, "a new identity");
    }
}

#[test]
fn nothing_is_changed_when_a_majority_is_lost() {
    let mut world = settled(3);
    let members = world.raft.clone().unwrap().membership;
    world.wipe(1);
    world.wipe(2);
    for _ in 0..50 {
        assert_eq!(world.reconcile().step, None);
    }
    assert_eq!(world.raft.unwrap().membership, members);
}

#[test]
fn member_is_not_replaced_when_it_does_not_answer() {
    let mut world = settled(3);
    let silent = (0..3).find(|o| Some(*o) != world.leader_ordinal()).unwrap();
    world.silent.insert(silent);
    for _ in 0..50 {
        assert_eq!(world.reconcile().step, None);
    }
    let degraded = world.status().conditions.into_iter().find(|c| c.type_ == "Degraded").unwrap();
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "MemberDown"));
}

#[test]
fn held_entry_is_reported_and_restarts_no_member() {
    let mut world = settled(3);
    world.holding.extend(0..2);
    for _ in 0..50 {
        assert_eq!(world.reconcile().step, None);
    }
    let degraded = world.status().conditions.into_iter().find(|c| c.type_ == "Degraded").unwrap();
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "EntryUnappliable"));
    for part in ["entry 99 (SORT, 400 bytes", "demo-0, demo-1", "heliosctl log skip 99 --crc 0badf00d"] {
        assert!(degraded.message.contains(part), "{}", degraded.message);
    }
    world.holding.clear();
    world.reconcile();
    let degraded = world.status().conditions.into_iter().find(|c| c.type_ == "Degraded").unwrap();
    assert_eq!(degraded.reason, "AllMembersHealthy");
}

#[test]
fn availability_is_unknown_when_no_member_answers() {
    let mut world = settled(3);
    world.silent.extend(0..3);
    world.reconcile();
    let available = world.status().conditions.into_iter().find(|c| c.type_ == "Available").unwrap();
    assert_eq!((available.status.as_str(), available.reason.as_str()), ("Unknown", "Unreachable"));
}

#[test]
fn quorum_is_kept_at_each_step_of_scaling() {
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
fn volume_of_a_removed_member_is_deleted_unless_retained() {
    let mut world = settled(5);
    world.edit(|spec| (spec.replicas, spec.storage.retain) = (3, false));
    world.settle();
    for _ in 0..5 {
        world.reconcile();
    }
    assert_eq!(world.disks.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn removed_member_keeps_its_pod_and_volume_until_a_majority_knows() {
    let mut world = settled(5);
    world.unaware = (0..5).collect();
    world.edit(|spec| (spec.replicas, spec.storage.retain) = (3, false));
    for _ in 0..50 {
        world.reconcile();
    }
    assert_eq!((voters(&world), world.pods.len(), world.disks.len()), (3, 5, 5));
    world.unaware = (0..3).filter(|ordinal| world.leader_ordinal() != Some(*ordinal)).take(1).collect();
    world.settle();
    for _ in 0..5 {
        world.reconcile();
    }
    assert_eq!((world.pods.len(), world.disks.len()), (3, 3));
}

#[test]
fn leadership_is_moved_off_a_member_before_it_is_removed() {
    let mut world = settled(5);
    let last = world.disks[&4].member_id;
    world.raft.as_mut().unwrap().leader = Some(last);
    world.scale(3);
    world.settle();
    assert_eq!((voters(&world), world.transfers), (3, 1));
}

#[test]
fn rollout_restarts_each_member_once_and_transfers_once() {
    for replicas in [1, 3, 5] {
        let mut world = settled(replicas);
        let leader = world.leader_ordinal().unwrap();
        world.template = 2;
        let mut order = Vec::new();
        for _ in 0..100 {
            if let Some(Step::Evict { ordinal, .. }) = world.reconcile().step {
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
fn rollout_stops_after_one_pod_when_the_template_is_bad() {
    let mut world = settled(3);
    world.broken.insert(2);
    world.template = 2;
    for _ in 0..400 {
        world.reconcile();
    }
    assert_eq!(world.restarted.len(), 1);
    assert!(world.has_quorum());
    assert_eq!(world.phase(), "UpgradeStalled");
    world.template = 1;
    world.settle();
    assert_eq!(world.restarted.len(), 1, "the healthy ones were never touched");
}

#[test]
fn held_rollout_restarts_no_member_and_holds_nothing_else() {
    let mut world = settled(5);
    world.edit(|spec| spec.update_strategy.paused = true);
    world.template = 2;
    world.scale(3);
    for _ in 0..60 {
        world.reconcile();
    }
    assert_eq!((voters(&world), world.restarted.len()), (3, 0));
}

#[test]
fn paused_cluster_is_observed_and_not_changed() {
    let mut world = settled(3);
    world.edit(|spec| (spec.replicas, spec.paused) = (5, true));
    world.template = 2;
    for _ in 0..20 {
        let plan = world.reconcile();
        assert!(plan.step.is_none() && plan.labels.is_empty());
    }
    assert_eq!((world.pods.len(), world.phase().as_str()), (3, "Paused"));
}

#[test]
fn cluster_takes_over_its_volumes_when_it_is_created_again() {
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
fn bootstrap_waits_when_an_earlier_volume_has_not_answered() {
    let mut world = settled(3);
    world.pods.clear();
    (world.replicas, world.cluster.status, world.raft) = (None, None, None);
    for disk in world.disks.values_mut() {
        disk.created = jiff::Timestamp::UNIX_EPOCH;
    }
    world.wipe(0);
    world.silent.extend([1, 2]);
    for _ in 0..20 {
        assert_eq!(world.reconcile().step, None);
    }
}

#[test]
fn volume_grows_in_place() {
    let mut world = settled(3);
    world.edit(|spec| spec.storage.size = "20Gi".to_owned());
    world.settle();
    assert!(world.disks.values().all(|disk| disk.bytes == 20 << 30));
    assert!(world.restarted.is_empty());
}

#[test]
fn plan_is_the_same_when_its_arguments_are() {
    let mut world = World::new(3);
    for _ in 0..30 {
        let (cluster, seen) = (world.validated(), world.observe());
        assert_eq!(plan(&cluster, &seen), plan(&cluster, &seen));
        world.reconcile();
    }
}

#[test]
fn scaling_is_reversed_when_the_spec_changes_back() {
    for reconciles in 0..20 {
        let mut world = settled(3);
        world.scale(5);
        (0..reconciles).for_each(|_| drop(world.reconcile()));
        world.scale(3);
        world.settle();
        assert_eq!((voters(&world), world.pods.len()), (3, 3), "out, after {reconciles} reconciles");

        let mut world = settled(5);
        world.scale(3);
        (0..reconciles).for_each(|_| drop(world.reconcile()));
        world.scale(5);
        world.settle();
        assert_eq!((voters(&world), world.pods.len()), (5, 5), "in, after {reconciles} reconciles");
        assert!(world.pods.values().all(|pod| pod.in_service));
    }
}

#[test]
fn members_are_restarted_twice_at_most_when_the_template_changes_in_a_rollout() {
    for reconciles in 0..20 {
        let mut world = settled(3);
        world.template = 2;
        (0..reconciles).for_each(|_| drop(world.reconcile()));
        world.template = 3;
        world.settle();
        assert!(world.restarted.values().all(|n| *n <= 2), "{:?}", world.restarted);
    }
}

#[test]
fn restarted_member_is_watched_before_the_next_one_is_restarted() {
    let mut world = settled(3);
    world.template = 2;
    let mut stops = Vec::new();
    for _ in 0..60 {
        if let Some(Step::Evict { .. }) = world.reconcile().step {
            stops.push(world.now);
        }
    }
    let least = world.validated().rollout.stable_for;
    for pair in stops.windows(2) {
        assert!(pair[1].duration_since(pair[0]).unsigned_abs() > least, "{stops:?}");
    }
}

#[test]
fn learner_is_watched_again_when_it_falls_behind() {
    let mut world = settled(3);
    world.scale(5);
    while world.status().operation.is_none_or(|operation| operation.steady_since.is_none()) {
        world.reconcile();
    }
    let learner = 3;
    world.silent.insert(learner);
    world.reconcile();
    assert_eq!(world.status().operation.unwrap().steady_since, None);
    world.silent.clear();
    let back = world.now;
    while !matches!(world.reconcile().step, Some(Step::Promote { .. })) {}
    assert!(world.now.duration_since(back).unsigned_abs() > world.validated().rollout.stable_for);
}
