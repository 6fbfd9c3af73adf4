//! What the operator tells of the members' life, as a person reads it afterwards.

use helios_operator::events::noticed;

use crate::world::{World, settled};

/// Passes, and what each of them noticed, as `Reason pod`.
fn pass(world: &mut World, times: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..times {
        let before = world.status();
        world.pass();
        let found = noticed(&before, &world.status());
        let words = found.into_iter().map(|one| format!("{:?} {}", one.notice, one.pod.unwrap_or_default()));
        told.extend(words.map(|word| word.trim_end().to_owned()));
    }
    told
}

#[test]
fn a_life_reads_like_a_story() {
    let mut world = World::new(3);
    let born = pass(&mut world, 60);
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
    assert_eq!(pass(&mut world, 5), ["MemberFailed demo-2"]);
    world.silent.clear();
    assert_eq!(pass(&mut world, 5), ["MemberRecovered demo-2"]);

    // A change of the template: restarts by intent are told as what is done, and here only who leads.
    world.template = 2;
    assert_eq!(pass(&mut world, 100), ["LeaderMoved demo-1"]);

    world.silent.extend(0..3);
    assert_eq!(pass(&mut world, 5), ["QuorumUnknown"]);
    world.silent.clear();
    assert_eq!(pass(&mut world, 5), ["QuorumAchieved"]);
    world.scale(1);
    let mut left = pass(&mut world, 60);
    left.retain(|word| word.starts_with("Member"));
    left.sort();
    assert_eq!(left, ["MemberLeft demo-1", "MemberLeft demo-2"]);
}

#[test]
fn an_operator_that_begins_and_one_that_waits_tell_nothing() {
    // All that an operator knows of the time before it is the status.
    let mut world = settled(5);
    assert_eq!(pass(&mut world, 100), [""; 0]);
}
