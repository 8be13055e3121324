//! The command `fpty`.

mod cli;

use std::io::Write;

use cli::Arguments;

fn main() {
    // Before anything is opened.
    fpty::sys::stdio::fill_closed();
    let status = match Arguments::read().and_then(Arguments::client) {
        Ok(client) => fpty::client::run(&client),
        Err((text, 0)) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            0
        }
        Err((text, status)) => {
            let _ = std::io::stderr().write_all(text.as_bytes());
            status
        }
    };
    std::process::exit(status);
}
