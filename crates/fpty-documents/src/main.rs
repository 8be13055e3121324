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

/// What the definition does not know, in the language of man(7): what the page
/// begins with, and what follows the options.
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

fn completions(shell: Shell) -> Vec<u8> {
    let mut completions = Vec::new();
    generate(shell, &mut command(), "fpty", &mut completions);
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
