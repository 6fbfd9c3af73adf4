//! The user stories, run on a real Kubernetes. scripts/stories.sh prepares cluster and images and runs them.

mod backup;
mod client;
mod cluster_chart;
mod delete;
mod disk_lost;
mod drain;
mod drill;
mod heliosctl;
mod hibernate;
mod hot_setting;
mod install;
mod kill_leader;
mod locked;
mod name_taken;
mod network_cut;
mod node_lost;
mod one_namespace;
mod operator_killed;
mod quorum_lost;
mod restore;
mod rolling;
mod scale;
mod sidecar;
mod store;
mod store_down;
mod two_clusters;
mod volume_growth;
mod wrong_image;

use std::process::ExitCode;

use anyhow::Context;
use helios_e2e::images::Images;
use helios_e2e::operator::Operator;
use helios_e2e::story::Story;
use helios_e2e::table;
use libtest_mimic::{Arguments, Trial};

type Body = fn(&Story) -> anyhow::Result<()>;

/// Stories that CI runs too, in the order of a first day with the product.
const CORE: &[(&str, Body)] = &[
    ("install_and_apply", install::run),
    ("delete_leader_pod_under_load", kill_leader::run),
    ("scale_3_to_5_and_back", scale::run),
    ("rolling_change", rolling::run),
    ("operator_pod_deleted", operator_killed::while_growing),
    ("wrong_image", wrong_image::run),
    ("disk_lost", disk_lost::run),
    ("node_drained", drain::run),
    ("sidecar", sidecar::run),
    ("delete_cr", delete::run),
];

/// Stories of `make stories`.
const MORE: &[(&str, Body)] = &[
    ("operator_pod_deleted_again", operator_killed::while_changing),
    ("two_clusters", two_clusters::run),
    ("volume_growth", volume_growth::run),
    ("hot_setting", hot_setting::run),
    ("network_cut", network_cut::run),
    ("node_lost", node_lost::run),
    ("hibernate", hibernate::run),
    ("quorum_lost", quorum_lost::run),
    ("one_namespace", one_namespace::run),
    ("heliosctl", heliosctl::run),
    ("cluster_chart", cluster_chart::run),
    ("locked", locked::run),
    ("name_taken", name_taken::run),
    ("backup", backup::run),
    ("drill", drill::run),
    ("pitr_to_a_second", restore::run),
    ("archive_store_down", store_down::run),
    ("client", client::run),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let prepared = if arguments.list { Ok(1) } else { prepare() };
    let rounds = match prepared {
        Ok(rounds) => rounds,
        Err(error) => {
            eprintln!("error: cannot run the stories: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let stories = (0..rounds).flat_map(|_| {
        let core = CORE.iter().map(|story| trial(*story));
        core.chain(MORE.iter().map(|story| trial(*story).with_ignored_flag(true)))
    });
    let conclusion = libtest_mimic::run(&arguments, stories.collect());
    print!("{}", table::text());
    conclusion.exit_code()
}

fn trial((name, body): (&'static str, Body)) -> Trial {
    Trial::test(name, move || Ok(Story::run(name, body)?))
}

/// Installs the operator; returns the number of rounds of all stories.
fn prepare() -> anyhow::Result<u32> {
    const TIMES: &str = "HELIOS_STORIES_TIMES";
    let rounds = match std::env::var(TIMES) {
        Ok(times) => times
            .parse()
            .with_context(|| format!("{TIMES}={times} is no number of times; write 1 or more"))?,
        Err(_) => 1,
    };
    let namespace = Story::namespace("install_and_apply");
    Operator::install(&Images::from_environment()?, "demo", &namespace)?;
    Ok(rounds)
}
