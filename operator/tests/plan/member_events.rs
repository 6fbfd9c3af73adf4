//! Events of the members' life, in the order in which a user reads them afterwards.

use helios_operator::events::status_diff;

use crate::world::{World, settled};

/// Changes that so many reconciles report, as `Reason pod`.
fn reconcile(world: &mut World, times: usize) -> Vec<String> {
    let mut changes = Vec::new();
    for _ in 0..times {
        let before = world.status();
        world.reconcile();
        let found = status_diff(&before, &world.status());
        let words = found.into_iter().map(|one| format!("{:?} {}", one.notice, one.pod.unwrap_or_default()));
        changes.extend(words.map(|word| word.trim_end().to_owned()));
    }
    changes
}

#[test]
fn member_events_follow_the_life_of_a_cluster_when_it_is_bootstrapped_changed_and_scaled_in() {
    let mut world = World::new(3);
    let born = reconcile(&mut world, 60);
    let expected = [
        "MemberJoined demo-0",
        "QuorumAchieved",
        "LeaderElected demo-0",
        "MemberJoined demo-1",
        "MemberPromoted demo-1",
        "MemberJoined demo-2",
        "MemberPromoted demo-2",
    ];
    assert_eq!(born, expected);

    world.silent.insert(2);
    assert_eq!(reconcile(&mut world, 5), ["MemberFailed demo-2"]);
    world.silent.clear();
    assert_eq!(reconcile(&mut world, 5), ["MemberRecovered demo-2"]);

    // A change of the template: restarts by the operator are events of the operation, so only the leader changes here.
    world.template = 2;
    assert_eq!(reconcile(&mut world, 100), ["LeaderMoved demo-1"]);

    world.silent.extend(0..3);
    assert_eq!(reconcile(&mut world, 5), ["QuorumUnknown"]);
    world.silent.clear();
    assert_eq!(reconcile(&mut world, 5), ["QuorumAchieved"]);
    world.scale(1);
    let mut left = reconcile(&mut world, 60);
    left.retain(|word| word.starts_with("Member"));
    left.sort();
    assert_eq!(left, ["MemberLeft demo-1", "MemberLeft demo-2"]);
}

#[test]
fn member_events_are_absent_when_nothing_changes() {
    // An operator that starts knows only the status.
    let mut world = settled(5);
    assert_eq!(reconcile(&mut world, 100), [""; 0]);
}
