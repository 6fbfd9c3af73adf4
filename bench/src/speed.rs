//! Throughput and latency in interleaved rounds: the systems take turns, and each pass starts with the next
//! system, so that disturbances of a shared machine affect all alike.

use std::fmt::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::client::{Client, Operation, Protocol};
use crate::cluster::{Cluster, EtcdTiming, HeliosdOptions, Programs};
use crate::load::{Round, fill, round};
use crate::ports::Ports;
use crate::report::Table;
use crate::stats::{Spread, short};

const FILLING_CLIENTS: usize = 64;
/// Number of keys that are read and written without the option `--keys`.
const DEFAULT_KEYS: u64 = 100_000;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Speed")]
#[group(skip)]
pub struct Options {
    /// Systems; the first is compared with each of the others
    #[arg(long, value_delimiter = ',', default_value = "heliosd,etcd,redis")]
    systems: Vec<System>,
    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_value = "1,256")]
    clients: Vec<usize>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of a round, seconds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Numbers of connections that the clients of a gRPC service share; ratios are those of the number at which the
    /// service is fastest
    #[arg(long, value_delimiter = ',', default_value = "1,16,64", value_parser = clap::value_parser!(u16).range(1..))]
    grpc_connections: Vec<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum System {
    Heliosd,
    /// heliosd through its gRPC service, to measure the cost of the protocol
    HeliosdGrpc,
    Etcd,
    Redis,
}

/// A system, and the number of connections that its clients share if the protocol multiplexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Contender {
    system: System,
    connections: Option<usize>,
}

/// Rounds of one system under one load.
struct Results {
    contender: Contender,
    rounds: Vec<Round>,
    /// Number of rounds in which another member became the leader.
    moved: usize,
}

struct Cell {
    clients: usize,
    operation: Operation,
    /// Results in the order of the options.
    results: Vec<Results>,
}

pub async fn measure(
    options: &Options,
    keys: Option<u64>,
    programs: &Programs,
    dir: &Path,
    ports: &mut Ports,
) -> Result<String> {
    let keys = keys.unwrap_or(DEFAULT_KEYS);
    let clusters = Clusters::start(options, keys, programs, &dir.join("speed"), ports).await?;
    let mut cells = Vec::new();
    for &clients in &options.clients {
        for operation in [Operation::Write, Operation::Read] {
            eprintln!("{clients} clients, {operation}s");
            cells.push(cell(options, keys, &clusters, clients, operation).await?);
        }
    }
    Ok(section(options, keys, &cells))
}

/// Started clusters; heliosd is one cluster for both of its protocols.
struct Clusters(Vec<(System, Cluster)>);

impl Clusters {
    async fn start(
        options: &Options,
        keys: u64,
        programs: &Programs,
        dir: &Path,
        ports: &mut Ports,
    ) -> Result<Self> {
        let mut clusters: Vec<(System, Cluster)> = Vec::new();
        for system in options.systems.iter().map(|system| system.served_by()) {
            if clusters.iter().any(|(started, _)| *started == system) {
                continue;
            }
            eprintln!("starting {system}, {keys} keys");
            let cluster = match system {
                System::Heliosd | System::HeliosdGrpc => {
                    Cluster::heliosd(programs, dir, ports, &HeliosdOptions::default()).await?
                }
                System::Etcd => Cluster::etcd(programs, dir, ports, EtcdTiming::DEFAULT).await?,
                System::Redis => Cluster::redis(programs, dir, ports).await?,
            };
            let port = cluster.members[cluster.leader().await?].port(system.protocol())?;
            let clients =
                Client::connect_many(system.protocol(), port, FILLING_CLIENTS, FILLING_CLIENTS).await?;
            fill(clients, keys).await?;
            clusters.push((system, cluster));
        }
        Ok(Self(clusters))
    }

    fn of(&self, system: System) -> &Cluster {
        let found = self.0.iter().find(|(started, _)| *started == system.served_by());
        &found.expect("every system of the options was started").1
    }
}

async fn cell(
    options: &Options,
    keys: u64,
    clusters: &Clusters,
    clients: usize,
    operation: Operation,
) -> Result<Cell> {
    let start = |contender| Results { contender, rounds: Vec::new(), moved: 0 };
    let mut results: Vec<_> = contenders(options, clients).into_iter().map(start).collect();
    for number in 0..options.rounds as usize {
        for turn in 0..results.len() {
            let index = (number + turn) % results.len();
            let results = &mut results[index];
            let Contender { system, connections } = results.contender;
            let cluster = clusters.of(system);
            let leader = cluster.leader().await?;
            let port = cluster.members[leader].port(system.protocol())?;
            let connections = connections.unwrap_or(clients);
            let connected = Client::connect_many(system.protocol(), port, clients, connections).await?;
            let period = Duration::from_secs_f64(options.seconds);
            results.rounds.push(round(cluster, leader, connected, operation, keys, period).await?);
            results.moved += usize::from(cluster.leader().await? != leader);
        }
    }
    Ok(Cell { clients, operation, results })
}

/// Returns the contenders in the order of the options. The number of connections is at most the number of
/// clients.
fn contenders(options: &Options, clients: usize) -> Vec<Contender> {
    let mut all = Vec::new();
    for &system in &options.systems {
        let counts: Vec<_> = match system.protocol() {
            Protocol::Redis => vec![None],
            Protocol::HeliosGrpc | Protocol::Etcd => {
                options.grpc_connections.iter().map(|count| Some(usize::from(*count).min(clients))).collect()
            }
        };
        for connections in counts {
            let contender = Contender { system, connections };
            if !all.contains(&contender) {
                all.push(contender);
            }
        }
    }
    all
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.connections {
            None => write!(f, "{}", self.system),
            Some(1) => write!(f, "{}, 1 connection", self.system),
            Some(count) => write!(f, "{}, {count} connections", self.system),
        }
    }
}

impl System {
    /// Returns the system whose cluster serves this one: the gRPC service is a second listener of heliosd.
    fn served_by(self) -> Self {
        if self == Self::HeliosdGrpc { Self::Heliosd } else { self }
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Heliosd | Self::Redis => Protocol::Redis,
            Self::HeliosdGrpc => Protocol::HeliosGrpc,
            Self::Etcd => Protocol::Etcd,
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Heliosd => "heliosd",
            Self::HeliosdGrpc => "heliosd (gRPC)",
            Self::Etcd => "etcd",
            Self::Redis => "Redis (1 node)",
        })
    }
}

fn section(options: &Options, keys: u64, cells: &[Cell]) -> String {
    let mut text = format!(
        "## Throughput and latency\n\n\
         {} interleaved rounds of {} s each: median (least-greatest). Every client waits for its answer before it asks again; all are on the \
         leader. {} keys. Reads are linearizable: ReadIndex for heliosd and etcd, plain GET for Redis. The client is one thread of the same \
         program for all, RESP for heliosd and Redis, gRPC for etcd, whose \
         clients share {} connections; its own CPU time is in the table, since it is \
         taken from the same {} cores. The last column is what other programs and the kernel's workers took of the cores.\n\n",
        options.rounds,
        options.seconds,
        keys,
        or_list(&options.grpc_connections),
        crate::machine::cores(),
    );
    text += &figures(cells).to_string();
    text += "\nAs ratios, each of two rounds that ran one after the other, with a gRPC service at the number of connections at which its median of \
             operations is highest. More than 1 is better in the column of operations, less than 1 in those of times.\n\n";
    text += &ratios(cells).to_string();
    text += "\nHow many writes one fsync of the leader's log serves, and how many reads one ReadIndex round (etcd does not report them).\n\n";
    text += &batching(cells).to_string();
    for results in cells.iter().flat_map(|cell| &cell.results) {
        let errors: usize = results.rounds.iter().map(|round| round.errors).sum();
        if errors + results.moved > 0 {
            let Results { contender, moved, .. } = results;
            let answers: usize = results.rounds.iter().map(|round| round.operations).sum();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "\n{contender}: {errors} errors besides {answers} answers, leader changes in {moved} rounds."
            );
        }
    }
    text
}

fn figures(cells: &[Cell]) -> Table<9> {
    let head = [
        "clients",
        "",
        "system",
        "operations/s",
        "p50 ms",
        "p99 ms",
        "CPU us/op",
        "client us/op",
        "others %",
    ];
    let mut table = Table::new(head);
    for (cell, results) in each(cells) {
        let text = |figure: fn(&Round) -> f64| results.spread(figure).to_string();
        let median = |figure: fn(&Round) -> f64| short(results.spread(figure).median);
        table.row([
            cell.clients.to_string(),
            cell.operation.to_string(),
            results.contender.to_string(),
            text(|round| round.throughput),
            text(|round| ms(round.p50)),
            text(|round| ms(round.p99)),
            median(|round| 1e3 * ms(round.server_cpu)),
            median(|round| 1e3 * ms(round.client_cpu)),
            text(|round| 1e2 * round.others),
        ]);
    }
    table
}

fn ratios(cells: &[Cell]) -> Table<6> {
    let mut table = Table::new(["clients", "", "ratio", "operations/s", "p50", "p99"]);
    for cell in cells {
        let best = cell.best_of_each_system();
        let Some((first, others)) = best.split_first() else { continue };
        for other in others {
            let text = |figure: fn(&Round) -> f64| {
                let pairs = first.rounds.iter().zip(&other.rounds);
                Spread::of(pairs.map(|(one, other)| figure(one) / figure(other)))
                    .map_or_else(String::new, |spread| spread.to_string())
            };
            table.row([
                cell.clients.to_string(),
                cell.operation.to_string(),
                format!("{} / {}", first.contender, other.contender),
                text(|round| round.throughput),
                text(|round| ms(round.p50)),
                text(|round| ms(round.p99)),
            ]);
        }
    }
    table
}

fn batching(cells: &[Cell]) -> Table<5> {
    let mut table = Table::new(["clients", "", "system", "writes per fsync", "reads per round"]);
    for (cell, results) in each(cells) {
        let spread = |figure: &dyn Fn(&Round) -> Option<f64>| {
            Spread::of(results.rounds.iter().filter_map(figure))
                .map_or_else(|| "-".to_owned(), |spread| spread.to_string())
        };
        let writes = spread(&|round| round.fsyncs_per_operation.map(|fsyncs| 1.0 / fsyncs));
        let reads = spread(&|round| round.operations_per_read_round);
        match cell.operation {
            Operation::Write if writes != "-" => table.row([
                cell.clients.to_string(),
                cell.operation.to_string(),
                results.contender.to_string(),
                writes,
                String::new(),
            ]),
            Operation::Read if reads != "-" => table.row([
                cell.clients.to_string(),
                cell.operation.to_string(),
                results.contender.to_string(),
                String::new(),
                reads,
            ]),
            _ => {}
        }
    }
    table
}

fn each(cells: &[Cell]) -> impl Iterator<Item = (&Cell, &Results)> {
    cells.iter().flat_map(|cell| cell.results.iter().map(move |results| (cell, results)))
}

/// Formats `1, 16 or 64`.
fn or_list(counts: &[u16]) -> String {
    let texts: Vec<_> = counts.iter().map(u16::to_string).collect();
    match texts.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => texts.concat(),
    }
}

impl Cell {
    /// Returns each system's results at its best number of connections, because a comparison with a peer that
    /// its connections limit would flatter.
    fn best_of_each_system(&self) -> Vec<&Results> {
        let mut best: Vec<&Results> = Vec::new();
        for results in &self.results {
            match best.iter_mut().find(|other| other.contender.system == results.contender.system) {
                None => best.push(results),
                Some(other) if other.throughput() < results.throughput() => *other = results,
                Some(_) => {}
            }
        }
        best
    }
}

impl Results {
    /// Returns the median operations per second of the rounds.
    fn throughput(&self) -> f64 {
        self.spread(|round| round.throughput).median
    }

    fn spread(&self, figure: fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(figure)).expect("there is at least one round, as the options say")
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn results(system: System, connections: Option<usize>, throughput: &[f64]) -> Results {
        let round = |throughput| Round {
            operations: 1,
            errors: 0,
            throughput,
            p50: Duration::ZERO,
            p99: Duration::ZERO,
            server_cpu: Duration::ZERO,
            client_cpu: Duration::ZERO,
            others: 0.0,
            fsyncs_per_operation: None,
            operations_per_read_round: None,
        };
        let rounds = throughput.iter().copied().map(round).collect();
        Results { contender: Contender { system, connections }, rounds, moved: 0 }
    }

    #[test]
    fn grpc_service_is_measured_once_at_each_number_of_connections() {
        let options = Command::parse_from(["bench"]).options;
        let names =
            |clients| contenders(&options, clients).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(1), ["heliosd", "etcd, 1 connection", "Redis (1 node)"]);
        let many = [
            "heliosd",
            "etcd, 1 connection",
            "etcd, 16 connections",
            "etcd, 64 connections",
            "Redis (1 node)",
        ];
        assert_eq!(names(256), many);
    }

    #[test]
    fn ratios_use_the_best_number_of_connections() {
        let results = vec![
            results(System::Heliosd, None, &[90.0]),
            results(System::Etcd, Some(1), &[20.0, 20.0, 90.0]),
            results(System::Etcd, Some(16), &[30.0, 30.0, 30.0]),
            results(System::Etcd, Some(64), &[10.0, 10.0, 10.0]),
        ];
        let cell = Cell { clients: 256, operation: Operation::Write, results };
        let best: Vec<_> = cell.best_of_each_system().iter().map(|best| best.contender.to_string()).collect();
        assert_eq!(best, ["heliosd", "etcd, 16 connections"]);
        let table = ratios(&[cell]).to_string();
        assert!(table.contains("heliosd / etcd, 16 connections") && table.contains("3.00"), "{table}");
    }
}
