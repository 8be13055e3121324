//! The command `fpty`.

use clap::Parser;

/// Attaches to a pseudo-terminal server.
#[derive(Parser)]
#[command(name = "fpty", version)]
struct Arguments {
    /// Where the server is: a path, @NAME, HOST:PORT, :PORT
    address: String,
}

fn main() {
    let arguments = Arguments::parse();
    std::process::exit(fpty::client::run(&fpty::client::Client {
        name: "fpty:",
        address: arguments.address,
        protocol: fpty::proto::Protocol::Uwsgi,
        isig: true,
        escape: Some(b'~'),
        quiet: false,
        status_json: false,
        environment: Vec::new(),
        heeds: &[],
    }));
}
