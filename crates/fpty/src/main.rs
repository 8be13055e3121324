//! The command `fpty`.

mod cli;

use std::io::Write;

use cli::Arguments;
use fpty::client;

fn main() {
    // Before anything is opened.
    fpty::sys::stdio::fill_closed();
    let read = Arguments::read().and_then(|arguments| {
        let question = arguments.control_request();
        Ok((question, arguments.client()?))
    });
    let status = match read {
        Ok((None, client)) => client::run(&client),
        Ok((Some(question), client)) => client::control::run(&client, &question),
        Err((text, 0)) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            0
        }
        Err((text, status)) => {
            fpty::sys::stdio::say(text.trim_end_matches('\n'));
            status
        }
    };
    std::process::exit(status);
}
