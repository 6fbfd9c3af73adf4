//! Random histories, longer than the model's: each ends in the state that the spec asks for.

use proptest::prelude::*;

use crate::world::events::Event;
use crate::world::{World, voters};

fn events() -> impl Strategy<Value = Option<Event>> {
    let ordinal = 0..5u32;
    prop_oneof![
        3 => Just(None),
        2 => prop::sample::select(vec![1, 3, 5]).prop_map(|n| Some(Event::Scale(n))),
        1 => (1..6u32).prop_map(|n| Some(Event::Template(n))),
        1 => Just(Some(Event::BreakTemplate)),
        1 => any::<bool>().prop_map(|on| Some(Event::Hibernate(on))),
        1 => any::<bool>().prop_map(|on| Some(Event::Retain(on))),
        2 => ordinal.clone().prop_map(|n| Some(Event::Kill(n))),
        1 => ordinal.clone().prop_map(|n| Some(Event::Wipe(n))),
        1 => ordinal.clone().prop_map(|n| Some(Event::Corrupt(n))),
        1 => ordinal.clone().prop_map(|n| Some(Event::Gone(n))),
        1 => ordinal.clone().prop_map(|n| Some(Event::Cordon(n))),
        1 => ordinal.clone().prop_map(|n| Some(Event::Silence(n))),
        1 => ordinal.prop_map(|n| Some(Event::Lead(n))),
        1 => Just(Some(Event::LoseCertificate)),
        1 => Just(Some(Event::RenewCertificate)),
        1 => Just(Some(Event::Heal)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_history_ends_at_the_spec(
        replicas in prop::sample::select(vec![1, 3, 5]),
        history in prop::collection::vec((1..25u8, events()), 0..14),
    ) {
        let mut world = World::new(replicas);
        for (reconciles, event) in history {
            (0..reconciles).for_each(|_| drop(world.reconcile()));
            event.map(|event| world.happen(event));
        }
        world.happen(Event::Hibernate(false));
        world.happen(Event::Heal);
        world.settle();
        let wanted = world.cluster.spec.replicas as usize;
        prop_assert_eq!(voters(&world), wanted);
        prop_assert_eq!(world.pods.len(), wanted);
        prop_assert!(world.begun <= 1);
        prop_assert!(world.pods.values().all(|pod| pod.revision == world.applied_template));
    }
}
