//! Writes the man page and the completions of the command `fpty`, made from the
//! definition of its arguments, into a folder:
//!
//! ```sh
//! cargo run --package fpty-documents -- FOLDER
//! ```

// Of the definition only the shape is of interest here.
#[allow(dead_code)]
#[path = "../../fpty/src/cli.rs"]
mod cli;

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

/// Text that the definition does not have, in the language of man(7): the beginning of
/// the page, and what follows the options.
const DESCRIPTION: &str = include_str!("description.man");
const SECTIONS: &str = include_str!("sections.man");

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1);
    let folder = folder.ok_or_else(|| io::Error::other("usage: fpty-documents FOLDER"))?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    fs::write(folder.join("fpty.1"), page()?)?;
    for (shell, name) in SHELLS {
        fs::write(folder.join(name), completions(shell))?;
    }
    Ok(())
}

/// The shells, and what they call a file of completions.
const SHELLS: [(Shell, &str); 3] =
    [(Shell::Bash, "fpty.bash"), (Shell::Zsh, "_fpty"), (Shell::Fish, "fpty.fish")];

fn command() -> Command {
    cli::Arguments::command()
}

fn page() -> io::Result<Vec<u8>> {
    let man = Man::new(command());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    page.extend_from_slice(DESCRIPTION.as_bytes());
    man.render_options_section(&mut page)?;
    page.extend_from_slice(SECTIONS.as_bytes());
    Ok(page)
}

/// Completions by the definition, and for ids and names of sessions, which only the
/// server knows.
fn completions(shell: Shell) -> Vec<u8> {
    let mut completions = Vec::new();
    generate(shell, &mut command(), "fpty", &mut completions);
    match shell {
        Shell::Bash => completions.extend_from_slice(include_bytes!("sessions.bash")),
        Shell::Fish => completions.extend_from_slice(include_bytes!("sessions.fish")),
        Shell::Zsh => {
            // The last lines call what stands before them.
            let text = String::from_utf8_lossy(&completions);
            let begin = text.find("if [ \"$funcstack[1]\"").unwrap_or(text.len());
            // The first word may be a session.
            let (definition, call) = text.split_at(begin);
            let definition = definition.replacen(":_files'", ":_fpty_words'", 1);
            completions = [&definition, include_str!("sessions.zsh"), call].concat().into_bytes();
        }
        _ => {}
    }
    completions
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::BTreeSet;

    /// Every option of the definition: `-r`, `--raw`.
    fn defined() -> BTreeSet<String> {
        let mut command = command();
        command.build();
        let options = command.get_arguments().flat_map(|argument| {
            let short = argument.get_short().map(|short| format!("-{short}"));
            short.into_iter().chain(argument.get_long().map(|long| format!("--{long}")))
        });
        options.collect()
    }

    /// Every option that a text speaks of.
    fn told(text: &str) -> BTreeSet<String> {
        let text = text.replace("\\-", "-").replace("\\fB", " ").replace("\\fR", " ");
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let is_option = |word: &&str| {
            let name = word.trim_start_matches('-');
            let dashes = word.len() - name.len();
            (dashes == 2 && name.len() > 1) || (dashes == 1 && name.len() == 1)
        };
        words.filter(is_option).map(str::to_owned).collect()
    }

    #[test]
    fn the_page_has_all_options_and_no_others() {
        let page = String::from_utf8(page().unwrap()).unwrap();
        assert_eq!(told(&page), defined(), "{page}");
    }

    #[test]
    fn the_completions_have_all_options() {
        for (shell, _) in SHELLS {
            let text = String::from_utf8(completions(shell)).unwrap();
            for option in defined() {
                // fish writes `-s r -l raw`.
                let name = option.trim_start_matches('-');
                let fish = [format!("-s {name}"), format!("-l {name}")];
                let there = text.contains(&option) || fish.iter().any(|words| text.contains(words));
                assert!(there, "{shell}: {option}");
            }
        }
    }

    /// bash itself, and a command that knows two sessions.
    #[test]
    fn bash_completes_ids_and_names() {
        let script = String::from_utf8(completions(Shell::Bash)).unwrap();
        let case = r#"
            fpty() { [ "$*" = '--list --json /s' ] && echo '[{"id":"k3x9q2aa","name":"build"},{"id":"m0","name":null}]'; }
            try() { COMP_WORDS=("$@"); COMPREPLY=(); _fpty_or_session fpty "${COMP_WORDS[COMP_CWORD]}" x; echo "${COMPREPLY[*]}"; }
            COMP_CWORD=2; try fpty -a '' /s; try fpty -a b /s; try fpty -q --attach k; try fpty -q ''
            COMP_CWORD=3; FPTY_ADDRESS=/s; try fpty -q -a k; try fpty -q --kill m
        "#;
        let bash = std::process::Command::new("bash").args(["-c", &(script + case)]).output();
        let Ok(output) = bash else {
            return eprintln!("skipped: no bash here");
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["k3x9q2aa build m0", "build"], "{output:?}");
        assert!(!lines[2].contains("k3x9q2aa") && !lines[3].contains("k3x9q2aa"), "{output:?}");
        assert_eq!(lines[4..], ["k3x9q2aa", "m0"], "{output:?}");
    }

    #[test]
    fn zsh_completes_ids_and_names() {
        let script = String::from_utf8(completions(Shell::Zsh)).unwrap();
        assert!(script.contains("'::address -- ") && script.contains(":_fpty_words'"), "{script}");
        assert!(script.find("_fpty_words() {") < script.find("if [ \"$funcstack[1]\""));
    }

    #[test]
    fn the_examples_are_true() {
        let (_, examples) = SECTIONS.split_once(".SH EXAMPLES\n").unwrap();
        let lines = examples.lines().filter_map(|line| line.split_once("fpty ").map(|it| it.1));
        let mut count = 0;
        for line in lines.filter(|line| !line.starts_with("\\fR")) {
            count += 1;
            let line = line.replace("\\-", "-");
            let arguments = ["fpty"].into_iter().chain(line.split_whitespace());
            let parsed = cli::Arguments::try_parse_from(arguments);
            assert!(parsed.is_ok_and(|it| it.address.is_some()), "{line}");
        }
        assert!(count > 2, "the examples are written in another way");
    }
}
