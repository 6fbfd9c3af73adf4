//! Settings that members take over while they run.

use helios_operator::plan::Kind;

use crate::world::{World, settled, voters};

fn condition(world: &World, type_: &str) -> (String, String) {
    let found = world.status().conditions.into_iter().find(|condition| condition.type_ == type_).unwrap();
    (found.status, found.reason)
}

#[test]
fn setting_is_awaited_and_restarts_no_member_when_members_reload_it() {
    let mut world = settled(3);
    world.edit(|spec| spec.ack = helios_crds::Ack::All);
    world.unread.extend(0..3);
    for left in (0..3).rev() {
        for _ in 0..10 {
            let plan = world.reconcile();
            assert_eq!(plan.step, None);
        }
        assert_eq!(world.phase(), "ApplyingSettings");
        assert_eq!(condition(&world, "Ready").0, "False", "it is not as it was asked for yet");
        assert_eq!(condition(&world, "Available").0, "True");
        world.unread.remove(&left);
    }
    world.settle();
    assert!(world.restarted.is_empty());
}

#[test]
fn member_is_reported_and_holds_nothing_else_when_it_does_not_reload() {
    let mut world = settled(3);
    world.unread.insert(1);
    for _ in 0..310 {
        world.reconcile();
    }
    assert_eq!(condition(&world, "Degraded"), ("True".to_owned(), "Stalled".to_owned()));
    assert!(world.status().operation.unwrap().step.contains("demo-1"));
    world.scale(5);
    for _ in 0..60 {
        world.reconcile();
    }
    assert_eq!(voters(&world), 5);
    world.unread.clear();
    world.settle();
}

#[test]
fn settings_are_not_awaited_when_members_are_restarted() {
    let mut world = settled(3);
    world.unread.extend(0..3);
    world.template = 2;
    while !world.unread.is_empty() {
        let operation = world.reconcile().operation;
        assert!(operation.is_none_or(|operation| operation.kind == Kind::RollingUpdate));
        // Who starts reads the file.
        let started = &world.restarted;
        world.unread.retain(|ordinal| !started.contains_key(ordinal));
    }
    world.settle();
}
