//! A cluster that begins with a backup.

use helios_crds::{ConditionType, Reason};

use crate::world::restore::Store;
use crate::world::{World, voters};

fn reconcile(world: &mut World, times: u32) {
    (0..times).for_each(|_| drop(world.reconcile()));
}

#[test]
fn cluster_begins_with_the_restore_and_grows_to_its_size() {
    for replicas in [1, 3, 5] {
        let mut world = World::restoring(replicas);
        world.settle();
        assert_eq!((world.begun, voters(&world)), (1, replicas as usize));
        let source = world.status().recovery.unwrap().source.unwrap();
        assert_eq!((&*source.phase, source.index, source.keys), ("Completed", Some(9), Some(5)));
        assert_eq!(source.cluster_id.as_deref(), Some("old-id"));
    }
}

#[test]
fn restore_that_is_impossible_is_reported_and_nothing_begins() {
    for (reason, condition) in [
        ("RecoveryImpossible", Reason::RecoveryImpossible),
        ("WrongKey", Reason::RecoveryImpossible),
        ("Unavailable", Reason::RecoveryFailed),
    ] {
        let mut world = World::restoring(3);
        world.store = Store::Failing(reason);
        reconcile(&mut world, 20);
        let status = world.status();
        assert_eq!(status.reason(ConditionType::Degraded), Some(condition), "{reason}");
        assert_eq!((world.begun, world.phase().as_str()), (0, "Blocked"));
        assert!(!status.bootstrapped && world.raft.is_none());
        assert_eq!(status.recovery.unwrap().source.unwrap().phase, "Failed");
    }
}

#[test]
fn restore_is_tried_again_when_its_job_is_deleted() {
    let mut world = World::restoring(3);
    world.store = Store::Failing("Unavailable");
    reconcile(&mut world, 20);
    world.store = Store::Good;
    reconcile(&mut world, 5);
    assert_eq!(world.begun, 0, "a Job that has failed stays so");
    world.delete_job();
    world.settle();
    assert_eq!(world.begun, 1);
}

#[test]
fn missing_store_is_reported_until_it_is_created() {
    let mut world = World::restoring(3);
    world.store = Store::Missing;
    reconcile(&mut world, 10);
    assert_eq!(world.status().reason(ConditionType::Degraded), Some(Reason::StoreMissing));
    assert_eq!(world.begun, 0);
    world.store = Store::Good;
    world.settle();
    assert_eq!(world.begun, 1);
}

#[test]
fn restore_is_not_repeated_when_the_restored_disk_is_lost_at_once() {
    let mut world = World::restoring(1);
    while world.begun == 0 {
        world.reconcile();
    }
    world.wipe(0);
    reconcile(&mut world, 20);
    assert_eq!(world.begun, 1);
    assert!(world.status().operation.unwrap().step.contains("apply it again"), "{:?}", world.status());
}

#[test]
fn volumes_of_an_earlier_cluster_are_neither_overwritten_nor_adopted_by_a_restore() {
    let mut world = World::restoring(3);
    while world.disks.is_empty() {
        world.reconcile();
    }
    let disk = world.disks.get_mut(&0).unwrap();
    (disk.cluster_id, disk.member_id) = ("earlier".to_owned(), 1);
    reconcile(&mut world, 10);
    assert_eq!((world.begun, world.phase().as_str()), (0, "Blocked"));
    assert!(!world.status().bootstrapped && world.job.is_none());
}
