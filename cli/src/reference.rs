//! The reference page, `docs/reference/heliosctl.md`, generated from the clap definitions.

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use clap::{Arg, Command, CommandFactory};

    use crate::args::Cli;
    use crate::kubernetes::RIGHTS;

    const HEAD: &str = "# heliosctl

<!-- Generated from the command line by `HELIOS_UPDATE_DOCS=1 cargo test -p heliosctl reference`. -->

Also `kubectl helios`: with `kubectl-helios` in the PATH, and `kubectl_complete-helios` for Tab. Flags stand before or after the command.
With `--endpoint` (or `HELIOS_ENDPOINTS`) it talks to members by their peer addresses and needs no Kubernetes.
";

    #[test]
    fn reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/heliosctl.md");
        let page = page().unwrap();
        if std::env::var_os("HELIOS_UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let current = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            current == page,
            "heliosctl.md is out of date; run HELIOS_UPDATE_DOCS=1 cargo test -p heliosctl reference"
        );
    }

    fn page() -> Result<String, std::fmt::Error> {
        let mut cli = Cli::command();
        cli.build();
        let mut page = HEAD.to_owned();
        let after = cli.get_long_about().or(cli.get_about()).map(ToString::to_string).unwrap_or_default();
        let codes = after.split_once("Exit codes: ").map(|(_, codes)| codes).unwrap_or_default();
        writeln!(
            page,
            "\nExit codes: {codes}\n\n## Flags of every command\n\n{}",
            flags(cli.get_arguments().filter(|arg| arg.is_global_set()))
        )?;
        writeln!(page, "## Commands\n")?;
        for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
            write_command(&mut page, command, "")?;
        }
        writeln!(
            page,
            "## Rights\n\nWhat each command needs to be allowed to do in the cluster's namespace. Of Secrets, a cluster's\n`CLUSTER-peer-tls` and `CLUSTER-auth` are read where it has them, and shown nowhere.\n"
        )?;
        writeln!(page, "| right | needed by |\n|---|---|")?;
        for right in RIGHTS {
            writeln!(page, "| {} | {} |", right.words(), right.commands)?;
        }
        writeln!(
            page,
            "\n`doctor` and `report` also look at the CRD, the StorageClasses and the operator's pods, where they may."
        )?;
        Ok(page)
    }

    fn write_command(page: &mut String, command: &Command, of: &str) -> std::fmt::Result {
        for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
            write_command(page, subcommand, &format!("{of}{} ", command.get_name()))?;
        }
        if command.has_subcommands() {
            return Ok(());
        }
        let words: Vec<_> = command.get_positionals().map(positional).collect();
        let alias = command.get_visible_aliases().map(|alias| format!(", `{alias}`")).collect::<String>();
        let about = sentence(command.get_about().map(ToString::to_string));
        let name = [vec![format!("{of}{}", command.get_name())], words].concat().join(" ");
        writeln!(page, "### `{name}`{alias}\n\n{about}\n")?;
        let flags = flags(command.get_arguments().filter(|arg| !arg.is_global_set()));
        if flags.is_empty() { Ok(()) } else { writeln!(page, "{flags}") }
    }

    /// Appends the full stop that clap removes.
    fn sentence(text: Option<String>) -> String {
        let text = text.unwrap_or_default();
        if text.ends_with('.') { text } else { text + "." }
    }

    fn positional(arg: &Arg) -> String {
        let name = arg.get_id().as_str().to_uppercase();
        if arg.is_required_set() { name } else { format!("[{name}]") }
    }

    /// Returns a table row for each flag except `--help` and `--version`.
    fn flags<'a>(all: impl Iterator<Item = &'a Arg>) -> String {
        let mut rows = String::new();
        for arg in all {
            let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long)) else {
                continue;
            };
            let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
            let default: Vec<_> =
                arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
            let shows_default = !default.is_empty() && arg.get_action().takes_values();
            let default =
                if shows_default { format!(" Default `{}`.", default.join(",")) } else { String::new() };
            let env =
                arg.get_env().map(|name| format!(" Also `{}`.", name.to_string_lossy())).unwrap_or_default();
            let help = sentence(arg.get_help().map(ToString::to_string));
            rows += &format!("| {short}`--{long}` | {help}{default}{env} |\n");
        }
        if rows.is_empty() { rows } else { format!("| flag | |\n|---|---|\n{rows}") }
    }
}
