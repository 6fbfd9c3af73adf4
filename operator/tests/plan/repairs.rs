//! Repair of lost disks, hosts and majorities, and drains of hosts.

use crate::world::events::Event;
use crate::world::{settled, voters};

#[test]
fn disk_is_replaced_in_place_and_kept_when_it_fails_its_process() {
    for ordinal in 0..3 {
        let mut world = settled(3);
        let volume = world.disks[&ordinal].volume_uid.clone();
        assert!(world.happen(Event::Corrupt(ordinal)));
        assert!(world.reconcile().step.is_none(), "not at the first sign");
        world.settle();
        assert_eq!((world.begun, voters(&world)), (1, 3));
        assert!(world.kept.contains(&volume) && world.disks[&ordinal].volume_uid != volume);
    }
}

#[test]
fn member_is_not_replaced_when_its_process_recovers() {
    let mut world = settled(3);
    world.happen(Event::Corrupt(1));
    while world.status().replacement.is_none() {
        world.reconcile();
    }
    let id = world.disks[&1].member_id;
    world.disks.get_mut(&1).unwrap().corrupt = false;
    world.settle();
    assert_eq!((world.disks[&1].member_id, world.status().replacement), (id, None));
}

#[test]
fn member_is_replaced_in_place_when_its_host_is_lost() {
    for ordinal in 0..3 {
        let mut world = settled(3);
        assert!(world.happen(Event::Gone(ordinal)));
        world.settle();
        assert_eq!((voters(&world), world.kept.len()), (3, 1));
    }
}

#[test]
fn volume_is_replaced_only_when_a_user_decides_if_it_cannot_be_kept() {
    let mut world = settled(3);
    world.confined = true;
    world.happen(Event::Corrupt(2));
    for _ in 0..30 {
        world.reconcile();
    }
    let degraded = world.status().conditions.into_iter().find(|c| c.type_ == "Degraded").unwrap();
    assert!(degraded.message.contains("spec.repair.withoutQuarantine"), "{degraded:?}");
    assert!(world.disks[&2].corrupt, "nothing is deleted");
    world.edit(|spec| spec.repair.without_quarantine = true);
    world.settle();
    assert_eq!((voters(&world), world.kept.len()), (3, 0));
}

#[test]
fn leadership_is_moved_off_a_cordoned_host_and_never_to_one() {
    let mut world = settled(3);
    let first = world.leader_ordinal().unwrap();
    world.happen(Event::Cordon(first));
    world.settle();
    let second = world.leader_ordinal().unwrap();
    assert_ne!(second, first);
    world.happen(Event::Cordon(second));
    world.settle();
    let third = world.leader_ordinal().unwrap();
    assert!(third != first && third != second);
    world.happen(Event::Cordon(third));
    for _ in 0..10 {
        assert_eq!(world.reconcile().step, None, "nowhere is better");
    }
    assert_eq!(world.transfers, 2);
}

#[test]
fn members_and_volumes_are_kept_when_a_cluster_hibernates() {
    let mut world = settled(3);
    let (disks, members) = (world.disks.len(), world.raft.clone().unwrap().membership);
    world.edit(|spec| spec.hibernate = true);
    for _ in 0..6 {
        assert_eq!(world.reconcile().step, None);
    }
    assert_eq!((world.pods.len(), world.disks.len(), world.phase().as_str()), (0, disks, "Hibernated"));
    world.edit(|spec| (spec.hibernate, spec.replicas) = (false, 1));
    world.reconcile();
    assert_eq!(world.replicas, Some(3), "all members come back before any leaves");
    world.edit(|spec| spec.replicas = 3);
    world.settle();
    assert_eq!(world.raft.unwrap().membership, members);
}

#[test]
fn lost_majority_is_reported_and_recovered_when_a_user_confirms() {
    let mut world = settled(3);
    world.wipe(0);
    world.lose_host(2);
    for _ in 0..30 {
        world.reconcile();
    }
    let recovery = world.status().recovery.unwrap();
    assert_eq!((world.forced, world.phase().as_str()), (0, "QuorumLost"));
    assert_eq!(
        recovery.survivors.iter().map(|survivor| survivor.name.as_str()).collect::<Vec<_>>(),
        ["demo-1"]
    );
    assert!(
        recovery.loss.unwrap().contains("demo-0, demo-2") && recovery.how_to.unwrap().contains("confirm: ")
    );

    world.confirm(1);
    world.settle();
    assert_eq!((world.forced, voters(&world)), (1, 3));
    let done = world.status().recovery.unwrap();
    assert_eq!((done.done.as_deref(), done.chosen), (Some("demo-1"), None));

    // What was confirmed once is not confirmed for ever.
    world.wipe(0);
    world.wipe(2);
    for _ in 0..30 {
        world.reconcile();
    }
    assert_eq!((world.forced, world.phase().as_str()), (1, "QuorumLost"));
    world.edit(|spec| spec.recovery = None);
    world.reconcile();
    world.confirm(1);
    world.settle();
    assert_eq!((world.forced, voters(&world)), (2, 3));
}

#[test]
fn survivors_are_ranked_by_their_logs_and_all_but_one_are_fenced() {
    let mut world = settled(5);
    (0..3).for_each(|ordinal| world.wipe(ordinal));
    world.reconcile();
    let names: Vec<_> = world.status().recovery.unwrap().survivors.into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["demo-4", "demo-3"]);
    let other = world.disks[&3].volume_uid.clone();
    world.confirm(4);
    world.settle();
    assert_eq!((world.forced, voters(&world)), (1, 5));
    assert!(world.kept.contains(&other), "what the other survivor has is kept for the user");
}

#[test]
fn recovery_does_nothing_when_it_is_confirmed_wrongly() {
    let mut world = settled(3);
    world.wipe(0);
    world.wipe(1);
    world.confirm(2);
    world.edit(|spec| spec.recovery.as_mut().unwrap().confirm = Some("another".to_owned()));
    for _ in 0..10 {
        assert_eq!(world.reconcile().step, None);
    }
    world.confirm(0);
    for _ in 0..10 {
        assert_eq!(world.reconcile().step, None);
    }
    assert!(world.status().operation.unwrap().step.contains("none of status.recovery.survivors"));
}

#[test]
fn majority_is_not_lost_when_it_does_not_answer() {
    let mut world = settled(3);
    world.wipe(0);
    world.pods.remove(&1);
    world.silent.extend([1, 2]);
    world.confirm(2);
    for _ in 0..10 {
        world.reconcile();
    }
    assert_eq!(world.forced, 0);
}
