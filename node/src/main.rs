//! `heliosd`: reads its configuration and runs a node until a signal; a failure is one line on standard error.
//! Exit codes: 0 clean end, 78 configuration (EX_CONFIG), 74 disk (EX_IOERR), 75 restart required
//! (EX_TEMPFAIL), 1 any other failure, and damaged data for `heliosd verify`.

use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::Duration;

use helios_node::app::{self, App, AppError};
use helios_node::config::{
    self, Cli, CommandLine, ConfigAction, ConfigError, RunArgs, Settings, Source, VerifyArgs,
};
use helios_node::error::Error;
use helios_node::{descriptors, dev, logging, memory, verify};
use tokio::signal::unix::{SignalKind, signal};

#[cfg(feature = "archive")]
use helios_backup::program as backups;

#[cfg(not(feature = "archive"))]
mod backups {
    //! A build without the feature `archive`.

    use std::ffi::OsString;
    use std::process::ExitCode;

    pub fn archive(_: Vec<OsString>) -> ExitCode {
        super::fail(1, "this build has no archiver: it was built without the feature `archive`")
    }

    pub fn backup(_: Vec<OsString>) -> ExitCode {
        super::fail(1, "this build has no backups: it was built without the feature `archive`")
    }
}

/// The global allocator, jemalloc. glibc does not return free pages between used ones to the system: a member that
/// used 200 MiB for one command kept them for good (ADR 0017). jemalloc's decay time is set at build time, in
/// .cargo/config.toml.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EX_CONFIG: u8 = 78;
const EX_IOERR: u8 = 74;
const EX_TEMPFAIL: u8 = 75;
/// Time that blocking tasks get after everything else has stopped. None of them holds unwritten data.
const BLOCKING_STOP_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match Cli::parse_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            drop(error.print());
            return if usage { EX_CONFIG.into() } else { ExitCode::SUCCESS };
        }
    };
    let cli = match cli.command {
        // These run without a node, and with their own runtime.
        Some(CommandLine::Archive { args }) => return backups::archive(args),
        Some(CommandLine::Backup { args }) => return backups::backup(args),
        command => Cli { command, run: cli.run },
    };
    if let Err(error) = descriptors::raise_limit() {
        eprintln!("heliosd: warning: the limit of open files stays at {}: {error}", descriptors::limit());
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("the async runtime does not start: {error}")),
    };
    let code = match cli.command {
        Some(CommandLine::Dev(args)) => match runtime.block_on(dev::run(args)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &format!("{error:#}")),
        },
        Some(CommandLine::Verify(args)) => verify(&args),
        Some(CommandLine::Config { action }) => config_command(&action),
        None | Some(CommandLine::Archive { .. } | CommandLine::Backup { .. }) => {
            runtime.block_on(run(&cli.run))
        }
    };
    // Dropping the runtime would wait forever for a blocking task that does not return.
    runtime.shutdown_timeout(BLOCKING_STOP_TIMEOUT);
    code
}

fn config_command(action: &ConfigAction) -> ExitCode {
    let (ConfigAction::Check(args) | ConfigAction::Print(args)) = action;
    let settings = match settings(&Source::new(args, std::env::vars())) {
        Ok(settings) => settings,
        Err(error) => return fail(EX_CONFIG, &error.0),
    };
    if let (ConfigAction::Check(_), Err(error)) = (action, app::check_files(&settings)) {
        return fail(EX_CONFIG, &error.0);
    }
    settings.warnings.iter().for_each(|warning| eprintln!("heliosd: warning: {warning}"));
    let text = match action {
        ConfigAction::Check(_) => format!("{}: the configuration can be used\n", settings.name),
        ConfigAction::Print(_) => match serde_saphyr::to_string(&config::redacted(&settings.written)) {
            Ok(text) => text,
            Err(error) => return fail(1, &format!("the configuration cannot be printed: {error}")),
        },
    };
    // The reader of the pipe may be gone.
    _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn verify(args: &VerifyArgs) -> ExitCode {
    // sled panics on some kinds of damage. `verify` reports such a panic as a finding, so the hook does not print it.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|location| !location.file().contains("/sled-")) {
            report(panic);
        }
    }));
    let wal_dir = args.wal_dir.clone().unwrap_or_else(|| verify::default_wal_dir(&args.data_dir));
    let findings = verify::verify(&verify::Places { data_dir: args.data_dir.clone(), wal_dir });
    findings.iter().for_each(|finding| println!("{finding}"));
    verify::exit_code(&findings).into()
}

async fn run(args: &RunArgs) -> ExitCode {
    let source = Source::new(args, std::env::vars());
    let settings = match settings(&source) {
        Ok(settings) => settings,
        Err(error) => return fail(EX_CONFIG, &error.0),
    };
    let logged = logging::start(&settings.log_level, settings.log_json, settings.log_file.as_deref());
    let written = match logged {
        Ok(written) => written,
        Err(error) => return fail(EX_CONFIG, &error.0),
    };
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => return fail(1, &format!("signals: {error}")),
        };
    let app = match App::start_from(settings, source).await {
        Ok(app) => app,
        Err(AppError::Node(error)) if error.is_config() => return fail(EX_CONFIG, &error.to_string()),
        Err(AppError::Node(error)) => {
            let Error { code, message, .. } = error.into();
            return fail(EX_IOERR, &format!("{} ({}): {message}", code.as_str_name(), code as i32));
        }
        Err(error) => return fail(EX_CONFIG, &error.to_string()),
    };
    let node = app.node().clone();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        reason = node.failed() => if node.must_restart() {
            app.stop().await;
            drop(written);
            return start_again();
        } else {
            return fail(EX_IOERR, &reason);
        },
    }
    tracing::info!("stopping");
    app.stop().await;
    #[cfg(feature = "otel")]
    helios_node::trace::finish();
    ExitCode::SUCCESS
}

/// Restarts the program by `exec`, under the same process id, so that a supervisor sees no exit.
fn start_again() -> ExitCode {
    let again = |program: std::path::PathBuf| {
        std::process::Command::new(program).args(std::env::args_os().skip(1)).exec()
    };
    let error = std::env::current_exe().map_or_else(|error| error, again);
    fail(EX_TEMPFAIL, &format!("a restart is required, and it failed: {error}"))
}

fn settings(source: &Source) -> Result<Settings, ConfigError> {
    let mut config = source.load()?;
    if let Some(limit_bytes) = memory::limit_bytes() {
        config.fit_memory(limit_bytes);
    }
    config.try_into()
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("heliosd: {message}");
    ExitCode::from(code)
}
