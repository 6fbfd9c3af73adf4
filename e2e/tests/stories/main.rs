//! The user stories, told to a real Kubernetes. scripts/stories.sh prepares cluster and images and runs them.

mod delete;
mod install;
mod kill_leader;
mod operator_killed;
mod rolling;
mod scale;

use std::process::ExitCode;

use helios_e2e::images::Images;
use helios_e2e::operator::Operator;
use helios_e2e::story::{Story, table};
use libtest_mimic::{Arguments, Trial};

type Tell = fn(&Story) -> anyhow::Result<()>;

/// In the order of a first day with the product.
const STORIES: [(&str, Tell); 6] = [
    ("install_and_apply", install::tell),
    ("delete_leader_pod_under_load", kill_leader::tell),
    ("scale_3_to_5_and_back", scale::tell),
    ("rolling_change", rolling::tell),
    ("operator_pod_deleted", operator_killed::tell),
    ("delete_cr", delete::tell),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let stories = STORIES.map(|(name, tell)| Trial::test(name, move || Ok(Story::run(name, tell)?)));
    if !arguments.list
        && let Err(error) = install()
    {
        eprintln!("error: no operator to tell stories of: {error:#}");
        return ExitCode::FAILURE;
    }
    let conclusion = libtest_mimic::run(&arguments, stories.into());
    print!("{}", table());
    conclusion.exit_code()
}

fn install() -> anyhow::Result<()> {
    let namespace = Story::namespace("install_and_apply");
    Operator::install(&Images::from_environment()?, "demo", &namespace)?;
    Ok(())
}
