//! Which servers the cases run on: every folder below `FORKPTY_SERVERS_DIR`
//! (default `target/servers`) is one, with its binary `uwsgi` and its
//! `plugins/`, our library built for it under all of its names. With
//! `FORKPTY_SERVER` only those that have this in their name.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// One server and our library for it.
#[derive(Debug)]
pub struct Flavor {
    /// The folder's name, such as `debian-2.0.21`.
    pub name: String,
    pub binary: PathBuf,
    pub plugins: PathBuf,
}

impl Flavor {
    /// Whether this is Debian's server: most of uWSGI is plugins there.
    pub fn is_debian(&self) -> bool {
        self.name.starts_with("debian-")
    }

    /// The version in its name: `2.0.21`.
    pub fn version(&self) -> &str {
        self.name.split('-').nth(1).unwrap_or(&self.name)
    }

    /// A server of another version, if there is one.
    pub fn other(&self) -> Option<&'static Flavor> {
        all().iter().find(|flavor| flavor.version() != self.version())
    }
}

/// Debian's server and its C plugins: what we are compatible with.
pub const C_BINARY: &str = "/usr/bin/uwsgi-core";
pub const C_PLUGINS: &str = "/usr/lib/uwsgi/plugins";

/// The command `fpty`, which `make` has put beside the servers.
pub fn fpty() -> PathBuf {
    folder().join("fpty")
}

fn folder() -> PathBuf {
    std::env::var_os("FORKPTY_SERVERS_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers"), PathBuf::from)
}

/// All servers, by name.
///
/// # Panics
/// There are none.
pub fn all() -> &'static [Flavor] {
    static SERVERS: OnceLock<Vec<Flavor>> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let folder = folder();
        let mut servers: Vec<Flavor> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                Some(Flavor {
                    name: path.file_name()?.to_str()?.to_owned(),
                    binary: path.join("uwsgi").canonicalize().ok()?,
                    plugins: path.join("plugins").canonicalize().ok()?,
                })
            })
            .collect();
        if let Ok(part) = std::env::var("FORKPTY_SERVER") {
            servers.retain(|server| server.name.contains(&part));
        }
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(!servers.is_empty(), "no servers: run `make test` (looked in {folder:?})");
        servers
    })
}

/// Runs a case on every server, one after the other: what has an address of its own.
pub fn on_every_server_in_turn(case: impl Fn(&Flavor)) {
    all().iter().for_each(|flavor| {
        eprintln!("=== on {} ===", flavor.name);
        case(flavor);
    });
}

/// The name of what [`no_server`] gives.
pub const IN_PROCESS: &str = "in process";

/// The gateway alone, without uWSGI: see `in_process.rs`.
pub fn no_server() -> &'static Flavor {
    static NO_SERVER: OnceLock<Flavor> = OnceLock::new();
    NO_SERVER.get_or_init(|| Flavor {
        name: IN_PROCESS.to_owned(),
        binary: std::env::current_exe().expect("this program"),
        plugins: PathBuf::new(),
    })
}

/// Runs a case on the gateway alone: for what is the gateway's own. What differs by the
/// server runs on each of them.
pub fn in_process(case: impl Fn(&Flavor)) {
    case(no_server());
}

/// The server for cases in which servers do not differ: the one that has the least in it.
pub fn any() -> &'static Flavor {
    let plain = all().iter().find(|flavor| flavor.name.ends_with("-nolang"));
    plain.unwrap_or(&all()[0])
}

/// Runs a case on every server, side by side, and says at the end on which it failed.
/// For what servers do differently: their options, start, hooks, reload, signals, log,
/// metrics, workers, and the interface that the plugin is built for.
pub fn on_every_server(case: impl Fn(&Flavor) + Sync) {
    let case = &case;
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let start = |flavor: &'static Flavor| (flavor, scope.spawn(move || case(flavor)));
        let running: Vec<_> = all().iter().map(start).collect();
        let failed = running
            .into_iter()
            .filter_map(|(flavor, thread)| thread.join().is_err().then_some(flavor.name.as_str()));
        failed.collect()
    });
    assert!(failed.is_empty(), "failed on {}: see above", failed.join(", "));
}

/// Runs a case on one server. For what the gateway, its supervisor and its clients do
/// by themselves, with code that is the same for every server. With
/// `FORKPTY_EVERY_SERVER` set it runs on all of them nevertheless.
pub fn on_one_server(case: impl Fn(&Flavor) + Sync) {
    if std::env::var_os("FORKPTY_EVERY_SERVER").is_some() {
        on_every_server(case);
    } else {
        case(any());
    }
}
