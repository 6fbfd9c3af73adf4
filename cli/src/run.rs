//! Runs one command: by the members' addresses when some are given, else through Kubernetes.

use std::path::PathBuf;

use clap::CommandFactory;
use helios_proto::tls::MANAGEMENT_NAME;
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

use crate::args::{
    Certs, Cli, Command, Data, Format, LogAction, LogsArgs, SidecarAction, SwitchoverArgs, Target, Wait,
    Which,
};
use crate::direct::Endpoints;
use crate::error::Error;
use crate::kubernetes::Finder;
use crate::kv::Request;
use crate::lock::User;
use crate::output::{colour, line, show};
use crate::switchover::{self, Limits, Members, Outlook};
use crate::view::ClusterView;
use crate::{archive, backup, certs, direct, import, kubernetes, kv, machine, render, sidecar, sidecars};

const DONE: u8 = 0;
const FAILED: u8 = 1;

/// Runs the command and returns its exit code.
///
/// # Errors
/// When the command fails.
pub async fn run(cli: &Cli) -> Result<u8, Error> {
    if let Command::Completion { shell } = &cli.command {
        let name = if cfg!(windows) { "heliosctl.exe" } else { "heliosctl" };
        clap_complete::generate(*shell, &mut Cli::command(), name, &mut std::io::stdout());
        return Ok(DONE);
    }
    if let Command::Certs { action: Certs::Create { ca_dir, name, hosts, admin, days } } = &cli.command {
        let admin = admin.then(|| MANAGEMENT_NAME.to_owned());
        let hosts: Vec<_> = hosts.iter().cloned().chain(admin).collect();
        return said(cli, &certs::create(ca_dir, name, &hosts, *days)?);
    }
    if let Command::Sidecar { action } = &cli.command {
        let text = match action {
            SidecarAction::Yaml(args) => sidecar::yaml(args),
            SidecarAction::Kustomize(args) => sidecar::component(args),
        };
        line(text?.trim_end())?;
        return Ok(DONE);
    }
    if let Command::Backup { report, command } = &cli.command {
        return backup::run(cli.output, report, command).await;
    }
    if let Command::Import(args) = &cli.command {
        return import::run(cli, args).await;
    }
    if let Some((request, data)) = request(&cli.command) {
        return keys(cli, &request, data).await;
    }
    match cli.target.endpoints.is_empty() {
        true => through_kubernetes(cli, &Finder::connect(&cli.target).await?).await,
        false => by_address(cli).await,
    }
}

async fn by_address(cli: &Cli) -> Result<u8, Error> {
    let Target { endpoints, certificates, request_timeout: limit, .. } = &cli.target;
    let lock = certificates.lock()?.unwrap_or_default();
    let endpoints = &Endpoints { addresses: endpoints.clone(), lock };
    let limit = *limit;
    let done = match &cli.command {
        Command::Status(_) | Command::Members(_) => {
            let view = direct::view(&direct::survey(endpoints, limit).await);
            return present(cli, &[view]);
        }
        Command::Doctor => {
            let answers = direct::survey(endpoints, limit).await;
            let mut checks = direct::doctor(&answers);
            checks.checks.extend(machine::judge(&answers, &machine::observe()));
            show(cli.output, &checks, || checks.text())?;
            return Ok(checks.exit_code());
        }
        Command::Transfer { member, wait } => {
            direct::transfer(endpoints, member, limit.min(wait.timeout)).await?
        }
        Command::Switchover(args) => {
            return switch_over(cli, &direct::Directly { endpoints, limit }, args).await;
        }
        Command::StepDown(_) => direct::step_down(endpoints, limit).await?,
        Command::AddLearner { address } => direct::add_learner(endpoints, address, limit).await?,
        Command::Promote { member, max_lag } => direct::promote(endpoints, member, *max_lag, limit).await?,
        Command::Remove { member } => direct::remove(endpoints, member, limit).await?,
        Command::Snapshot { member } => direct::snapshot(endpoints, member, limit).await?,
        Command::Log { action: LogAction::Skip { index, crc, .. } } => {
            direct::skip_entry(&direct::Directly { endpoints, limit }, *index, *crc, limit).await?
        }
        _ => {
            return Err(Error::Impossible(
                "this command is about Kubernetes; leave --endpoint and HELIOS_ENDPOINTS out".into(),
            ));
        }
    };
    said(cli, &done)
}

async fn through_kubernetes(cli: &Cli, finder: &Finder) -> Result<u8, Error> {
    match &cli.command {
        Command::Status(which) | Command::Members(which) | Command::Plan(which) => {
            present(cli, &observe(finder, which).await?)
        }
        Command::Doctor => {
            let checks = kubernetes::doctor(finder).await;
            show(cli.output, &checks, || checks.text())?;
            Ok(checks.exit_code())
        }
        Command::Transfer { member, wait } => {
            said(cli, &kubernetes::transfer(finder, member, wait.timeout).await?)
        }
        Command::Switchover(args) => {
            switch_over(cli, &kubernetes::Pods::of(finder, &args.member).await?, args).await
        }
        Command::StepDown(which) => {
            let cluster = finder.one(which).await?;
            said(cli, &kubernetes::step_down(finder, &cluster, finder.limit).await?)
        }
        Command::Snapshot { member } => said(cli, &kubernetes::snapshot(finder, member).await?),
        Command::Log { action: LogAction::Skip { index, crc, which } } => {
            let members = kubernetes::Pods::in_cluster(finder, finder.one(which).await?).await?;
            said(cli, &direct::skip_entry(&members, *index, *crc, finder.limit).await?)
        }
        Command::Restart { which, wait, patience } => {
            restart(cli, finder, which, wait.then_some(patience)).await
        }
        Command::Pause(which) | Command::Resume(which) => {
            let name = finder.one(which).await?.name_any();
            let paused = matches!(cli.command, Command::Pause(_));
            kubernetes::set_paused(finder, &name, paused).await?;
            let effect = if paused { "no longer changes the cluster" } else { "changes the cluster again" };
            said(cli, &format!("{name}: the operator {effect}"))
        }
        Command::Hibernate(which) | Command::Wake(which) => {
            let name = finder.one(which).await?.name_any();
            let hibernate = matches!(cli.command, Command::Hibernate(_));
            kubernetes::set_hibernate(finder, &name, hibernate).await?;
            let effect =
                if hibernate { "stops all members and keeps their volumes" } else { "starts the members" };
            said(cli, &format!("{name}: the operator {effect}; heliosctl plan {name} shows how far it is"))
        }
        Command::Logs(args) => logs(finder, args).await,
        Command::Sidecars { client, all_namespaces } => {
            let (found, missing) = kubernetes::sidecars(finder, *all_namespaces, client.as_deref()).await?;
            missing.iter().for_each(|why| eprintln!("heliosctl: {why}"));
            show(cli.output, &found, || sidecars::text(&found, *all_namespaces))?;
            Ok(if found.iter().all(|sidecar| sidecar.ready) { DONE } else { FAILED })
        }
        Command::Report { which, file } => report(cli, finder, which, file.clone()).await,
        Command::Promote { member, .. } => Err(Error::Impossible(format!(
            "on Kubernetes the operator promotes learners; for leadership: heliosctl transfer {member}"
        ))),
        Command::AddLearner { .. } | Command::Remove { .. } => Err(Error::Impossible(
            "on Kubernetes the operator decides about members: kubectl scale hc/CLUSTER --replicas=N".into(),
        )),
        Command::Get { .. }
        | Command::Set { .. }
        | Command::Del { .. }
        | Command::Ttl { .. }
        | Command::Expire { .. }
        | Command::Backup { .. }
        | Command::Import(_)
        | Command::Certs { .. }
        | Command::Sidecar { .. }
        | Command::Completion { .. } => {
            Err(Error::Impossible("this command is handled earlier (bug)".into()))
        }
    }
}

/// Returns the view of the cluster that `which` names, or of all clusters of the namespace.
async fn observe(finder: &Finder, which: &Which) -> Result<Vec<ClusterView>, Error> {
    let clusters = match which.cluster {
        Some(_) => vec![finder.one(which).await?],
        None => finder.all().await?,
    };
    if clusters.is_empty() {
        // Returns the error that there is no cluster, and where to look.
        finder.one(which).await?;
    }
    let mut views = Vec::new();
    for cluster in &clusters {
        let name = cluster.name_any();
        let (pods, volumes) = tokio::try_join!(finder.pods_of(&name), finder.volumes_of(&name))?;
        views.push(kubernetes::view(cluster, &pods, &volumes));
    }
    Ok(views)
}

/// Prints the views; the exit code is that of the worst health.
fn present(cli: &Cli, views: &[ClusterView]) -> Result<u8, Error> {
    let (now, colour) = (Timestamp::now(), colour());
    let one = |view: &ClusterView| match cli.command {
        Command::Members(_) => render::members(view),
        Command::Plan(_) => render::plan(view, now, colour),
        _ => render::status(view, now, colour),
    };
    let text = || views.iter().map(one).collect::<Vec<_>>().join("\n");
    match views {
        [only] => show(cli.output, only, text)?,
        all => show(cli.output, &all, text)?,
    }
    let worst = views.iter().map(|view| view.verdict.health).max();
    Ok(worst.map_or(DONE, |health| health.exit_code()))
}

/// Executes the switchover, with a line for each phase as it is done, or checks its preconditions in a dry
/// run.
async fn switch_over(cli: &Cli, members: &impl Members, args: &SwitchoverArgs) -> Result<u8, Error> {
    if args.dry_run {
        let outlook = Outlook::of(&members.survey().await, &args.member);
        show(cli.output, &outlook, || outlook.text())?;
        return Ok(if outlook.blockers.is_empty() { DONE } else { FAILED });
    }
    let limits = Limits { prepare: args.prepare_timeout, sync: args.sync_timeout, whole: args.timeout };
    let report_phase = |phase: &switchover::Phase| {
        if matches!(cli.output, Format::Table) {
            // A closed pipe must not stop the switchover in the middle.
            drop(line(&phase.line()));
        }
    };
    let done =
        switchover::run(members, &args.member, limits, cli.target.request_timeout, report_phase).await?;
    show(cli.output, &done, String::new)?;
    Ok(DONE)
}

async fn restart(cli: &Cli, finder: &Finder, which: &Which, wait: Option<&Wait>) -> Result<u8, Error> {
    let cluster = finder.one(which).await?;
    let name = cluster.name_any();
    if cluster.spec.paused {
        return Err(Error::Impossible(format!(
            "{name} is paused, so nothing would happen; heliosctl resume {name} first"
        )));
    }
    let changed = kubernetes::ask_for_restart(finder, &name, Timestamp::now()).await?;
    let Some(wait) = wait else {
        return said(
            cli,
            &format!("{name}: members restart one at a time; heliosctl plan {name} shows how far it is"),
        );
    };
    kubernetes::await_restart(finder, &changed, wait.timeout, |step| eprintln!("{name}: {step}")).await?;
    said(cli, &format!("{name}: all members were restarted and are in service"))
}

async fn logs(finder: &Finder, args: &LogsArgs) -> Result<u8, Error> {
    tokio::select! {
        done = kubernetes::logs(finder, args, |text| line(&text)) => done?,
        // Ctrl-C ends --follow.
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(DONE)
}

async fn report(cli: &Cli, finder: &Finder, which: &Which, file: Option<PathBuf>) -> Result<u8, Error> {
    let cluster = finder.one(which).await?;
    let now = Timestamp::now();
    let folder = format!("helios-report-{}-{}", cluster.name_any(), now.strftime("%Y%m%dT%H%M%SZ"));
    let path = file.unwrap_or_else(|| PathBuf::from(format!("{folder}.tar.gz")));
    let entries = kubernetes::report(finder, &cluster, now).await;
    archive::write(&path, &folder, now.as_second().unsigned_abs(), &entries)?;
    let listed: Vec<_> =
        entries.iter().map(|entry| json!({"path": entry.path, "bytes": entry.content.len()})).collect();
    show(cli.output, &json!({"file": path, "entries": listed}), || {
        let lines = entries.iter().map(|entry| format!("  {:<44} {:>9}\n", entry.path, entry.content.len()));
        format!(
            "{} holds, secrets masked:\n{}Read it before you send it.\n",
            path.display(),
            lines.collect::<String>()
        )
    })?;
    Ok(DONE)
}

async fn keys(cli: &Cli, request: &Request, data: &Data) -> Result<u8, Error> {
    let limit = cli.target.request_timeout;
    let given = User::new(data.user.clone(), data.password.clone(), data.password_file.as_deref())?;
    let (place, user) = match cli.target.endpoints.is_empty() {
        false => {
            let lock = cli.target.certificates.lock()?.unwrap_or_default();
            let endpoints = Endpoints { addresses: cli.target.endpoints.clone(), lock };
            (direct::client_place(&endpoints, limit).await?, given)
        }
        true => {
            let finder = Finder::connect(&cli.target).await?;
            let cluster = finder.one(&Which::from(data)).await?;
            let place = kubernetes::client_place(&finder, &cluster).await?;
            let is_given = given != User::default();
            (place, if is_given { given } else { finder.user(&cluster.name_any()).await })
        }
    };
    let found = kv::ask(&place, &user, request, limit).await?;
    if found.exists {
        show(cli.output, &json!({"answer": found.text}), || found.text.clone() + "\n")?;
        return Ok(DONE);
    }
    eprintln!("heliosctl: {}", found.text);
    Ok(FAILED)
}

fn request(command: &Command) -> Option<(Request, &Data)> {
    Some(match command {
        Command::Get { key, data } => (Request::Get { key: key.clone() }, data),
        Command::Set { key, value, ttl, data } => {
            (Request::Set { key: key.clone(), value: value.clone(), ttl_seconds: *ttl }, data)
        }
        Command::Del { keys, data } => (Request::Del { keys: keys.clone() }, data),
        Command::Ttl { key, data } => (Request::Ttl { key: key.clone() }, data),
        Command::Expire { key, seconds, data } => {
            (Request::Expire { key: key.clone(), seconds: *seconds }, data)
        }
        _ => return None,
    })
}

fn said(cli: &Cli, done: &str) -> Result<u8, Error> {
    match cli.output {
        Format::Table => line(done)?,
        format => show(format, &json!({"done": done}), String::new)?,
    }
    Ok(DONE)
}
