//! Asks the target server for its header and flags, and builds against them.
//!
//! The layout of uWSGI's structures differs between versions and between
//! builds of one version, so nothing of the server is kept in this
//! repository. The target is
//!
//! * `UWSGI`: the server's binary (default: `uwsgi` on `PATH`), asked with
//!   `--dot-h` and `--cflags`; or
//! * `UWSGI_DOT_H` and `UWSGI_BUILD_CFLAGS`: a header file and the flags, for
//!   uWSGI's own build, where there is no binary to ask yet.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "src/uwsgi/fingerprint.rs"]
mod fingerprint;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Items of the bindings: the types, functions and globals that `src/uwsgi` uses, and
/// those that they refer to.
const TYPES: &[&str] = &[
    "uwsgi_plugin",
    "uwsgi_option",
    "uwsgi_server",
    "uwsgi_shared",
    "uwsgi_gateway",
    "uwsgi_gateway_socket",
];
const FUNCTIONS: &[&str] = &[
    "uwsgi_log",
    "uwsgi_new_gateway_socket",
    "uwsgi_new_gateway_socket_from_fd",
    "register_gateway",
    "bind_to_tcp",
    "bind_to_unix",
    "uwsgi_getsockname",
    "uwsgi_get_shared_socket_fd_by_num",
    "uwsgi_connect",
    "uwsgi_attach_fd",
    "uwsgi_binsh",
    "uwsgi_add_safe_fd",
    "uwsgi_register_metric",
];
const CONSTANTS: &[&str] = &[
    "UWSGI_OPT_MASTER",
    "UWSGI_OPT_NO_INITIAL",
    "MAX_GATEWAYS",
    "UWSGI_VERSION",
    "UWSGI_METRIC_COUNTER",
    "UWSGI_METRIC_GAUGE",
];

fn main() {
    if let Err(error) = build() {
        // Cargo shows a panic's backtrace and a returned error in Debug form;
        // this is the one clear line that a person needs.
        eprintln!("\nforkptyrouter: {error}\n");
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);

    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=uwsgi-headers");
    println!("cargo:rerun-if-changed=src/uwsgi/fingerprint.rs");
    for name in ["UWSGI", "UWSGI_DOT_H", "UWSGI_BUILD_CFLAGS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }

    let server = target_server()?;
    let headers = out.join("server");
    fs::create_dir_all(&headers)?;
    fs::write(headers.join("uwsgi.h"), &server.header)?;

    let macros = macros(&server.flags)?;
    bindings(&here, &headers, &macros, &out.join("bindings.rs"))?;

    let facts = fingerprint::of(&server.header, &server.flags);
    fs::write(
        out.join("built_for.rs"),
        format!(
            "/// The server that this library was built for.\n\
             pub static BUILT_FOR: Fingerprint = Fingerprint {{\n\
             version: Cow::Borrowed({:?}), header: {:#x}, flags: Cow::Borrowed({:?}) }};\n",
            facts.version, facts.header, facts.flags
        ),
    )?;

    // nodelete: probing for an option may dlclose a library whose threads and
    // handlers live. RELRO and immediate binding: no writable GOT.
    for flag in ["-z,nodelete", "-z,relro", "-z,now"] {
        println!("cargo:rustc-cdylib-link-arg=-Wl,{flag}");
    }
    // See src/plugin.rs. The archive for uWSGI's own build lacks that name.
    println!("cargo:rustc-check-cfg=cfg(uwsgi_plugin)");
    if env::var_os("UWSGI_DOT_H").is_none() {
        println!("cargo:rustc-cfg=uwsgi_plugin");
        println!("cargo:rustc-cdylib-link-arg=-Wl,--defsym=uwsgi_plugin=forkptyrouter_plugin");
    }
    Ok(())
}

/// The header and the flags of the server that we build for.
struct Server {
    header: String,
    flags: String,
}

fn target_server() -> Result<Server> {
    if let Ok(path) = env::var("UWSGI_DOT_H") {
        println!("cargo:rerun-if-changed={path}");
        let header = fs::read_to_string(&path)
            .map_err(|error| format!("cannot read the server's header {path}: {error}"))?;
        let flags = env::var("UWSGI_BUILD_CFLAGS").map_err(
            |_| "UWSGI_DOT_H is set, UWSGI_BUILD_CFLAGS is not: both describe the target server",
        )?;
        return Ok(Server { header, flags });
    }
    let binary = server_binary()?;
    println!("cargo:rerun-if-changed={}", binary.display());
    let header = ask(&binary, "--dot-h")?;
    if !header.contains("struct uwsgi_plugin") {
        return Err(format!("{} --dot-h did not print uWSGI's header", binary.display()).into());
    }
    let flags = ask(&binary, "--cflags")?;
    Ok(Server { header, flags })
}

fn server_binary() -> Result<PathBuf> {
    let wanted = env::var_os("UWSGI")
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| OsString::from("uwsgi"));
    let wanted = PathBuf::from(wanted);
    if wanted.components().count() > 1 {
        return wanted.canonicalize().map_err(|error| {
            format!("the target server {}: {error}; set UWSGI to a uWSGI binary", wanted.display())
                .into()
        });
    }
    env::var_os("PATH")
        .iter()
        .flat_map(env::split_paths)
        .map(|folder| folder.join(&wanted))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            format!(
                "no target server: there is no {} on PATH; run `make`, which gets one, \
                 or set UWSGI=/path/to/uwsgi",
                wanted.display()
            )
            .into()
        })
}

/// Runs the server with one option and returns what it printed.
fn ask(binary: &Path, option: &str) -> Result<String> {
    let mut command = Command::new(binary);
    command.arg(option);
    // uWSGI takes options from the environment, too.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("UWSGI_") {
            command.env_remove(name);
        }
    }
    let output = command
        .output()
        .map_err(|error| format!("cannot run the target server {}: {error}", binary.display()))?;
    if !output.status.success() {
        return Err(format!(
            "{} {option} failed ({}): {}",
            binary.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )
        .into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The `-D` flags of the server, less the two lists of embedded plugins:
/// those refer to objects that only the server has.
fn macros(flags: &str) -> Result<Vec<String>> {
    Ok(shlex::split(flags)
        .ok_or_else(|| format!("the server's flags cannot be split as a shell would: {flags}"))?
        .into_iter()
        .filter(|flag| flag.starts_with("-D"))
        .filter(|flag| !flag.contains("_EMBEDDED_PLUGINS"))
        .collect())
}

fn bindings(here: &Path, headers: &Path, macros: &[String], target: &Path) -> Result<()> {
    let stand_ins = here.join("uwsgi-headers/stand-ins");
    let mut builder = bindgen::Builder::default()
        .header(here.join("uwsgi-headers/wrapper.h").display().to_string())
        .clang_arg(format!("-I{}", headers.display()))
        .clang_arg(format!("-I{}", stand_ins.display()))
        .clang_args(macros)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .layout_tests(true)
        .derive_debug(false)
        .derive_copy(false)
        .generate_comments(false)
        .allowlist_var("uwsgi");
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in CONSTANTS {
        builder = builder.allowlist_var(name);
    }
    // bindgen panics where it cannot load libclang.
    std::panic::set_hook(Box::new(|_| {}));
    let generated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.generate()));
    let _ = std::panic::take_hook();
    generated
        .map_err(|payload| {
            let why = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("bindgen failed");
            let why = why.lines().next().unwrap_or_default();
            format!("{why} (Debian: apt-get install libclang-dev; LIBCLANG_PATH names its folder)")
        })?
        .map_err(|error| format!("bindgen cannot read the server's header: {error}"))?
        .write_to_file(target)?;
    Ok(())
}
