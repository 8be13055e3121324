//! Writes the command's man page and its completions, made from the definition
//! of its arguments, into a folder:
//!
//! ```sh
//! cargo run --package fpty --example documents -- FOLDER
//! ```

// Of the definition only the shape is of interest here.
#[allow(dead_code)]
#[path = "../src/cli.rs"]
mod cli;

use std::fs::{File, create_dir_all};
use std::io;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("which folder?"))?;
    create_dir_all(&folder)?;
    let command = cli::Arguments::command();
    let mut page = File::create(folder.join("fpty.1"))?;
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command.clone(), "fpty", &folder)?;
    }
    Ok(())
}
