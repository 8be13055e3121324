//! The program on the other side of the terminal. It puts the terminal into
//! raw mode, says so, and does what it is told: a letter, a number, a newline.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;

use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::Result;

/// The name that makes the bench this program.
pub const NAME: &str = "terminal-agent";

/// Read everything and write it back, for ever.
pub const ECHO: char = 'e';
/// Write so many bytes; 0: for ever.
pub const PRODUCE: char = 'p';
/// Read so many bytes, and say [`DONE`].
pub const CONSUME: char = 'c';
/// The answer.
pub const DONE: &[u8] = b"D\n";

const CHUNK: usize = 64 * 1024;

/// Serves until the terminal is hung up.
pub fn run() -> Result<()> {
    let mut terminal = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut attributes = tcgetattr(&terminal)?;
    cfmakeraw(&mut attributes);
    tcsetattr(&terminal, SetArg::TCSANOW, &attributes)?;
    // Whose child this is: the gateway that is to be measured.
    writeln!(terminal, "R{}", std::os::unix::process::parent_id())?;
    let mut buffer = vec![b'x'; CHUNK];
    loop {
        let Some(line) = line(&mut terminal)? else {
            return Ok(());
        };
        let amount: u64 = line.get(1..).unwrap_or("").parse().unwrap_or(0);
        match line.chars().next() {
            Some(ECHO) => loop {
                let count = terminal.read(&mut buffer)?;
                if count == 0 {
                    return Ok(());
                }
                terminal.write_all(&buffer[..count])?;
            },
            Some(PRODUCE) => {
                let mut left = if amount == 0 { u64::MAX } else { amount };
                while left > 0 {
                    let size = left.min(CHUNK as u64) as usize;
                    terminal.write_all(&buffer[..size])?;
                    left -= size as u64;
                }
            }
            Some(CONSUME) => {
                let mut left = amount;
                while left > 0 {
                    let size = left.min(CHUNK as u64) as usize;
                    match terminal.read(&mut buffer[..size])? {
                        0 => return Ok(()),
                        count => left -= count as u64,
                    }
                }
                terminal.write_all(DONE)?;
                buffer.fill(b'x');
            }
            _ => return Err(format!("what is {line:?}?").into()),
        }
    }
}

/// A line without what follows it, which is for the command.
fn line(terminal: &mut File) -> Result<Option<String>> {
    let mut line = String::new();
    loop {
        let mut byte = [0];
        match terminal.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) if byte[0] == b'\n' => return Ok(Some(line)),
            Ok(_) => line.push(char::from(byte[0])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
