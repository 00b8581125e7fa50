//! Help with an example at every command: one of a group that has none of its own takes those of the group that show it,
//! and a group without takes one of each of its commands.

use clap::{Command, CommandFactory, FromArgMatches};

use crate::cli::Cli;

/// Reads the command line; prints help or what is wrong with it and ends the process, as clap does.
#[must_use]
pub fn parse() -> Cli {
    let mut command = with_examples(Cli::command());
    let matches = command.get_matches_mut();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

fn with_examples(group: Command) -> Command {
    let examples = examples_of(&group);
    let names: Vec<String> = group.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.iter().fold(group, |group, name| {
        group.mut_subcommand(name, |command| {
            let own: Vec<String> = examples.iter().filter(|line| shows(line, name)).cloned().collect();
            let command = with_examples(if examples_of(&command).is_empty() { shown(command, &own) } else { command });
            let of_each: Vec<String> = command.get_subcommands().filter_map(|command| examples_of(command).into_iter().next()).collect();
            if examples_of(&command).is_empty() { shown(command, &of_each) } else { command }
        })
    })
}

/// The command with these lines as its examples, where there are any.
fn shown(command: Command, lines: &[String]) -> Command {
    match lines {
        [] => command,
        [line] => command.after_help(format!("Example:\n{line}")),
        lines => command.after_help(format!("Examples:\n{}", lines.join("\n"))),
    }
}

/// Lines of its help that show a use.
fn examples_of(command: &Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    // An example may go on in lines that are further in.
    let mut examples: Vec<String> = Vec::new();
    for line in text.lines() {
        match examples.last_mut() {
            _ if line.starts_with("  recsae ") => examples.push(line.to_owned()),
            Some(last) if last.ends_with('\\') => last.extend(["\n", line]),
            _ => {}
        }
    }
    examples
}

/// `  recsae GROUP NAME ...`
fn shows(line: &str, name: &str) -> bool {
    line.split_whitespace().nth(2) == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(command: &Command, path: &str, missing: &mut Vec<String>) {
        for inner in command.get_subcommands() {
            let path = format!("{path} {}", inner.get_name());
            let is_shown = |line: &String| line.trim_start().starts_with(&path);
            if !examples_of(inner).iter().any(is_shown) {
                missing.push(path.clone());
            }
            without(inner, &path, missing);
        }
    }

    #[test]
    fn every_command_shows_itself_in_an_example() {
        let mut missing = Vec::new();
        without(&with_examples(Cli::command()), "recsae", &mut missing);
        assert!(missing.is_empty(), "{missing:#?}");
    }
}
