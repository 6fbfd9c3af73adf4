//! Random faults, several at once, on random members. `HELIOS_TEST_SEED` sets the seed, `HELIOS_TEST_ROUNDS`
//! the number of rounds.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use crate::common::{Clients, Cluster, Network};

const ROUNDS: u64 = 4;
/// Longest round; with faults that leave no majority, no progress is made until it ends.
const LONGEST_ROUND: Duration = Duration::from_millis(1_500);

#[derive(Debug, Clone, Copy)]
enum Fault {
    Killed,
    Terminated,
    Hanging,
    Alone,
    /// Receives nothing.
    Deaf,
    /// Its messages reach no other member.
    Mute,
    Slow,
    Reset,
}

const FAULTS: [Fault; 8] = [
    Fault::Killed,
    Fault::Terminated,
    Fault::Hanging,
    Fault::Alone,
    Fault::Deaf,
    Fault::Mute,
    Fault::Slow,
    Fault::Reset,
];

#[tokio::test]
async fn history_is_linearizable_under_random_faults() {
    let seed = number_in("HELIOS_TEST_SEED").unwrap_or(1);
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut cluster, network) = Cluster::wired_three().await;
    let clients = Clients::start(&cluster.client_ports());
    for _ in 0..number_in("HELIOS_TEST_ROUNDS").unwrap_or(ROUNDS) {
        let leader = cluster.leader().await;
        let mut victims = BTreeSet::new();
        for _ in 0..rng.random_range(1..=2) {
            victims.insert(if rng.random() { leader } else { rng.random_range(0..3) });
        }
        for &victim in &victims {
            let fault = *FAULTS.choose(&mut rng).unwrap();
            println!("seed {seed}: node {victim} is {fault:?}, the leader is node {leader}");
            strike(&mut cluster, &network, victim, fault).await;
        }
        let others = (0..3).filter(|node| !victims.contains(node));
        drop(tokio::time::timeout(LONGEST_ROUND, clients.wait_for(others, 20)).await);
        heal(&mut cluster, &network, &victims);
        clients.wait_for(0..3, 5).await;
    }
    clients.finish(&cluster).await;
}

async fn strike(cluster: &mut Cluster, network: &Network, victim: usize, fault: Fault) {
    match fault {
        Fault::Killed => cluster[victim].kill(),
        Fault::Terminated => drop(cluster[victim].terminate().await),
        Fault::Hanging => cluster[victim].signal(Signal::STOP),
        Fault::Alone => network.isolate(victim),
        Fault::Deaf => network.others(victim).for_each(|other| network.cut(other, victim)),
        Fault::Mute => network.others(victim).for_each(|other| network.cut(victim, other)),
        Fault::Slow => {
            network.others(victim).for_each(|other| network.delay(victim, other, Duration::from_millis(80)));
        }
        Fault::Reset => network.others(victim).for_each(|other| network.reset(victim, other)),
    }
}

fn heal(cluster: &mut Cluster, network: &Network, victims: &BTreeSet<usize>) {
    network.heal();
    for &victim in victims {
        if cluster[victim].is_running() {
            cluster[victim].signal(Signal::CONT);
        } else {
            cluster[victim].start();
        }
    }
}

fn number_in(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}
