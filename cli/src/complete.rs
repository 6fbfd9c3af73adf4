//! Completion of `kubectl helios`, in the form that kubectl expects: a candidate a line with its description
//! after a tab, and `:4` at the end, for "no file names". Pure.

use clap::{Command, CommandFactory};

use crate::args::Cli;

/// Returns the candidates for the last of `words`.
pub fn complete(words: &[String]) -> String {
    let mut cli = Cli::command();
    cli.build();
    let (begun, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let chosen = before.iter().find_map(|word| cli.find_subcommand(word));
    let candidates = match (begun.starts_with('-'), chosen) {
        (true, command) => flags(command.unwrap_or(&cli)),
        (false, None) => commands(&cli),
        (false, Some(_)) => Vec::new(),
    };
    let fitting = candidates.into_iter().filter(|line| line.starts_with(begun));
    fitting.map(|line| line + "\n").collect::<String>() + ":4\n"
}

fn commands(cli: &Command) -> Vec<String> {
    cli.get_subcommands().map(|command| line(command.get_name(), command.get_about())).collect()
}

fn flags(command: &Command) -> Vec<String> {
    let named = command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg.get_help())));
    named.map(|(long, help)| line(&format!("--{long}"), help)).collect()
}

fn line(word: &str, about: Option<&clap::builder::StyledStr>) -> String {
    about.map_or_else(|| word.to_owned(), |about| format!("{word}\t{about}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let found = complete(&words);
        let lines = found.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned());
        lines.collect()
    }

    #[test]
    fn commands_and_their_flags_are_completed() {
        assert_eq!(words("sta"), ["status", ":4"]);
        assert_eq!(words("-n apps re"), ["restart", "resume", "report", "remove", ":4"]);
        assert_eq!(words("restart --wa"), ["--wait", ":4"]);
        assert_eq!(words("restart --names"), ["--namespace", ":4"]);
        assert_eq!(words("restart dem"), [":4"], "names of clusters are not known here");
        assert!(complete(&[]).starts_with("status\tShows a table"));
    }
}
