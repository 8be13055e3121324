//! The library as a file: what it exports, how it is linked, and which
//! servers it lets load it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::servers::all;
use crate::harness::{Flavor, Setup, executable, on_every_server, side_by_side};

fn library(flavor: &Flavor) -> PathBuf {
    flavor.plugins.join("forkptyrouter_plugin.so")
}

/// Output of a program of binutils for a file.
#[track_caller]
fn said_by(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .arg(file)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error} (Debian: binutils)"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Anything else might take the place of a symbol of the server's, or of
/// another plugin's.
#[test]
fn the_library_exports_the_two_plugins_and_nothing_else() {
    on_every_server(|flavor| {
        let symbols = said_by("nm", &["-D", "--defined-only"], &library(flavor));
        let mut names: Vec<&str> =
            symbols.lines().filter_map(|line| line.split_ascii_whitespace().last()).collect();
        names.sort_unstable();
        assert_eq!(names, ["forkptyrouter_plugin", "pty_plugin", "uwsgi_plugin"], "{symbols}");
        let address = |name: &str| {
            let line = symbols.lines().find(|line| line.ends_with(&format!(" {name}")));
            line.and_then(|line| line.split_ascii_whitespace().next())
        };
        assert_eq!(address("uwsgi_plugin"), address("forkptyrouter_plugin"), "{symbols}");
    });
}

#[test]
fn the_library_is_linked_with_hardening() {
    on_every_server(|flavor| {
        let dynamic = said_by("readelf", &["-dW"], &library(flavor));
        let flags = |tag: &str| {
            let line = dynamic.lines().find(|line| line.contains(tag)).unwrap_or_default();
            line.split_ascii_whitespace().collect::<Vec<_>>()
        };
        assert!(flags("(FLAGS)").contains(&"BIND_NOW"), "{dynamic}");
        assert!(flags("(FLAGS_1)").contains(&"NOW"), "{dynamic}");
        assert!(flags("(FLAGS_1)").contains(&"NODELETE"), "{dynamic}");
        for unwanted in ["TEXTREL", "RPATH", "RUNPATH"] {
            assert!(!dynamic.contains(unwanted), "{unwanted}: {dynamic}");
        }
        // What only the system has, so that it loads in any jail.
        let needed: Vec<&str> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
        let of_the_system = |line: &&&str| {
            ["libc.so", "libgcc_s.so", "ld-linux", "libpthread.so", "libdl.so", "libm.so"]
                .iter()
                .any(|name| line.contains(&format!("[{name}")))
        };
        assert_eq!(needed.iter().filter(of_the_system).count(), needed.len(), "{needed:?}");

        let segments = said_by("readelf", &["-lW"], &library(flavor));
        assert!(segments.contains("GNU_RELRO"), "{segments}");
        let stack = segments.lines().find(|line| line.contains("GNU_STACK")).unwrap_or_default();
        assert!(stack.contains("RW ") && !stack.contains("RWE"), "no executable stack: {stack}");
        for segment in segments.lines().filter(|line| line.trim_start().starts_with("LOAD")) {
            assert!(!segment.contains("RWE"), "writable or executable, not both: {segment}");
        }
    });
}

#[test]
fn the_stripped_library_is_small() {
    on_every_server(|flavor| {
        let folder = tempfile::tempdir().unwrap();
        let stripped = folder.path().join("stripped.so");
        said_by("strip", &["-o", stripped.to_str().unwrap()], &library(flavor));
        let size = fs::metadata(&stripped).unwrap().len();
        assert!(size < 2_500_000, "{size} bytes");
    });
}

/// uWSGI looks up the symbol that is named after the file.
#[test]
fn the_library_loads_by_the_name_uwsgi_plugin() {
    on_every_server(|flavor| {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("uwsgi_plugin.so");
        fs::copy(library(flavor), &name).unwrap();
        let server = Setup::bare(&flavor.name, &flavor.binary)
            .option("plugin", &name.display().to_string())
            .raw();
        assert_eq!(server.connect("s").shell("echo $((6 * 7))"), "42\r\n");
    });
}

/// One library, loaded once, whatever name the loader is given.
#[test]
fn the_librarys_other_names_are_links() {
    on_every_server(|flavor| {
        for name in ["pty_plugin.so", "libforkptyrouter.so", "libforkptyrouter.so_plugin.so"] {
            let leads_to = fs::read_link(flavor.plugins.join(name));
            assert_eq!(leads_to.unwrap(), Path::new("forkptyrouter_plugin.so"), "{name}");
        }
        assert!(!library(flavor).is_symlink());
    });
}

/// Checks the line of a refusal, and that there is one only.
#[track_caller]
fn assert_refused(log: &str, facts: &[&str]) {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("built for uWSGI")).collect();
    assert_eq!(lines.len(), 1, "one line: {log}");
    for fact in facts {
        assert!(lines[0].contains(fact), "{fact:?} in {:?}", lines[0]);
    }
}

/// Tries to start a server that needs a plugin.
#[track_caller]
fn refuses(name: &str, binary: &Path, plugins: &Path, facts: &[&str]) {
    for plugin in ["forkptyrouter", "pty"] {
        let ended = Setup::bare(name, binary)
            .option("plugins-dir", &plugins.display().to_string())
            .option("need-plugin", plugin)
            .run();
        // An exit, not a signal.
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert_refused(&ended.log, facts);
    }
}

/// Every server with every library of another version.
#[test]
fn a_library_for_another_version_is_refused() {
    on_every_server(|server| {
        side_by_side(all().iter().filter(|other| other.version() != server.version()), |library| {
            eprintln!("the library for {} in {}", library.name, server.name);
            let (built, running) = (
                format!("built for uWSGI {}", library.version()),
                format!("loaded into uWSGI {}", server.version()),
            );
            let command = format!("make UWSGI={}", server.binary.display());
            let facts = [built.as_str(), &running, &command];
            refuses(&server.name, &server.binary, &library.plugins, &facts);

            // Where nobody needs it, the server lives on without it.
            let server = Setup::bare(&server.name, &server.binary)
                .plugin(&library.plugins, "forkptyrouter")
                .switch("master")
                .option("socket", "{dir}/other")
                .launch();
            server.wait_for_log("spawned uWSGI master process");
            assert_refused(&server.log(), &facts);
        });
    });
}

/// The plugins that a server has embedded change no structure.
#[test]
fn a_library_for_another_profile_of_the_same_structures_is_accepted() {
    let with_python = all().iter().find(|flavor| flavor.name == "pypi-2.0.31");
    let without = all().iter().find(|flavor| flavor.name == "pypi-2.0.31-nolang");
    let (Some(with_python), Some(without)) = (with_python, without) else {
        eprintln!("skipped: there are no two profiles of one version");
        return;
    };
    for (server, library) in [(with_python, without), (without, with_python)] {
        let server = Setup::bare(&server.name, &server.binary)
            .plugin(&library.plugins, "forkptyrouter")
            .raw();
        assert_eq!(server.connect("s").shell("echo $((6 * 7))"), "42\r\n");
    }
}

/// A build of the same version with other flags: a copy of the server whose
/// record of its own flags lacks one that its header looks at.
#[test]
fn a_library_for_other_flags_is_refused() {
    on_every_server(|flavor| {
        let asked = |option: &str| {
            let output = Command::new(&flavor.binary).arg(option).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let header = asked("--dot-h");
        let flags = asked("--cflags");
        let flag = flags
            .split_ascii_whitespace()
            .find(|flag| {
                flag.strip_prefix("-DUWSGI_").is_some_and(|rest| {
                    !rest.contains('=') && header.contains(&format!("#ifdef UWSGI_{rest}\n"))
                })
            })
            .unwrap_or_else(|| panic!("no flag that the header looks at: {flags}"));

        // The record is in hexadecimal digits.
        let digits =
            |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (wanted, other) = (digits(flag), digits(&format!("-W{}", "x".repeat(flag.len() - 2))));
        let mut binary = fs::read(&flavor.binary).unwrap();
        let at = binary
            .windows(wanted.len())
            .position(|window| window == wanted.as_bytes())
            .expect("the server's record of its flags");
        binary[at..at + other.len()].copy_from_slice(other.as_bytes());
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("uwsgi");
        executable::write(&copy, binary);

        let built_with = format!("built with [{}], running with []", &flag[2..]);
        let command = format!("make UWSGI={}", copy.display());
        refuses(&flavor.name, &copy, &flavor.plugins, &[&built_with, &command]);
    });
}
