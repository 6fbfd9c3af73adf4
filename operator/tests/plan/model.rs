//! Every state that clusters of up to five members can come to, with up to a number of failures and
//! changes by users at any moment: no step breaks an invariant (asserted in `world`), and from every state
//! the operator alone comes to an end, which is what the spec asks for wherever that can be had.
//!
//! `HELIOS_MODEL_EVENTS` is that number; two takes less than a minute, three a good while.

use std::collections::HashMap;

use helios_crds::{ConditionType, Reason};

use crate::world::events::Event;
use crate::world::{World, settled};

/// Reconciles within which the operator must come to an end.
const RECONCILES: u16 = 150;

#[derive(Default)]
struct Model {
    /// Passes from each state to the end of the operator's work.
    ends: HashMap<u64, u16>,
    longest: u16,
}

impl Model {
    /// Follows the operator from `world` until it changes nothing more. States met for the first time go to `fresh`.
    fn follow(&mut self, mut world: World, fresh: &mut Vec<World>) {
        let (mut path, mut key) = (Vec::new(), world.key());
        let beyond = loop {
            if let Some(known) = self.ends.get(&key) {
                break *known;
            }
            assert!(path.len() <= usize::from(RECONCILES), "no end\n{}", world.describe());
            assert!(!path.contains(&key), "for ever\n{}", world.describe());
            path.push(key);
            fresh.push(world.clone());
            let plan = world.reconcile();
            let next = world.key();
            if next == key && plan.step.is_none() && plan.latch.is_none() {
                is_an_end(&world);
                path.pop();
                self.ends.insert(key, 0);
                break 0;
            }
            key = next;
        };
        for (key, reconciles) in path.into_iter().rev().zip(beyond + 1..) {
            assert!(reconciles <= RECONCILES, "{reconciles} reconciles");
            self.ends.insert(key, reconciles);
            self.longest = self.longest.max(reconciles);
        }
    }

    fn explore(&mut self, begin: World, events: u32) {
        let all = possible(begin.cluster.spec.replicas.max(3).unsigned_abs());
        let mut fresh = Vec::new();
        self.follow(begin, &mut fresh);
        for _ in 0..events {
            for state in std::mem::take(&mut fresh) {
                for event in &all {
                    let mut world = state.clone();
                    if world.happen(*event) {
                        self.follow(world, &mut fresh);
                    }
                }
            }
        }
    }
}

fn possible(members: u32) -> Vec<Event> {
    let changes = [
        Event::Scale(1),
        Event::Scale(3),
        Event::Scale(5),
        Event::Template(1),
        Event::Template(2),
        Event::BreakTemplate,
        Event::Hibernate(true),
        Event::Hibernate(false),
        Event::LockOut,
        Event::LoseCertificate,
        Event::RenewCertificate,
        Event::Heal,
    ];
    let failures = (0..members).flat_map(|ordinal| {
        [
            Event::Kill(ordinal),
            Event::Wipe(ordinal),
            Event::Corrupt(ordinal),
            Event::Gone(ordinal),
            Event::Cordon(ordinal),
            Event::Silence(ordinal),
            Event::Lead(ordinal),
        ]
    });
    changes.into_iter().chain(failures).collect()
}

/// The operator has nothing more to do, so what was asked for is there, or what is missing is beyond it.
fn is_an_end(world: &World) {
    let spec = &world.cluster.spec;
    if world.locked_out {
        let status = world.status();
        let degraded = (status.is(ConditionType::Degraded), status.reason(ConditionType::Degraded));
        return assert_eq!(degraded, (true, Some(Reason::CertificateInvalid)));
    }
    assert!(world.certificates.leaf.is_some() && world.users.is_complete && world.is_renewed());
    if spec.hibernate {
        return assert_eq!((world.pods.len(), world.phase().as_str()), (0, "Hibernated"));
    }
    // Held until someone heals it, which is one of the events; that no step cost the quorum is asserted there.
    if !world.silent.is_empty() || world.broken.contains(&world.template) {
        return;
    }
    let wanted = spec.replicas as usize;
    assert_eq!(world.phase(), "Healthy", "{}", world.describe());
    assert_eq!(world.raft.as_ref().unwrap().membership.voters.len(), wanted);
    assert_eq!(world.pods.len(), wanted);
    assert!(world.pods.values().all(|pod| pod.revision == world.template));
    let stays = |ordinal: &u32| !(world.pods[ordinal].at_home && world.cordoned.contains(ordinal));
    let leader = world.leader_ordinal().unwrap();
    assert!(
        stays(&leader) || !world.pods.keys().any(stays),
        "leads from a cordoned host\n{}",
        world.describe()
    );
}

#[test]
fn every_state_converges_to_the_spec() {
    let events = std::env::var("HELIOS_MODEL_EVENTS").map_or(2, |text| text.parse().expect("a number"));
    let begin = [
        (World::new(3), events),
        (settled(3), events),
        (settled(1), events),
        (settled(5), events),
        // Afterwards it is a cluster like the others, so one event less.
        (World::restoring(3), events - 1),
    ];
    let models = begin.map(|(world, events)| {
        std::thread::spawn(move || {
            let mut model = Model::default();
            model.explore(world, events);
            (model.ends.len(), model.longest)
        })
    });
    let found = models.map(|model| model.join().unwrap());
    let states: usize = found.iter().map(|(states, _)| states).sum();
    println!("{states} states ({found:?}: states and most reconciles to an end, of each beginning)");
    assert!(states > 10_000, "the model has shrunk to {states} states");
}
