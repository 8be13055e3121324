//! The exported symbols: the two plugin structs that the server's loader
//! looks up, and the check that runs before it does.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Mutex;

use once_cell::sync::Lazy;

use crate::config::router::{Key, OPTIONS, Router};
use crate::error::{Error, Result};
use crate::ffi;
use crate::proto::Protocol;
use crate::uwsgi::gateway::{self, Role};
use crate::uwsgi::options::{Implies, OptionTable, Spec};
use crate::uwsgi::{abi, guard::guard, log::log, options, server};

/// The router's options as they are read, on the server's only thread.
static ROUTER: Lazy<Mutex<Router>> = Lazy::new(Mutex::default);

static ROUTER_OPTIONS: OptionTable<{ OPTIONS.len() + 1 }> = {
    let mut specs =
        [const { Spec { name: c"", takes_value: false, help: c"", implies: Implies::Nothing } };
            OPTIONS.len()];
    let mut at = 0;
    while at < OPTIONS.len() {
        let option = &OPTIONS[at];
        specs[at] = Spec {
            name: option.name,
            takes_value: option.takes_value,
            help: option.help,
            implies: match option.key {
                Key::Listen(_) | Key::Zerg => Implies::Master,
                _ => Implies::Nothing,
            },
        };
        at += 1;
    }
    OptionTable::new(&specs, router_option)
};

/// What the server's loader looks up: `--plugin forkptyrouter`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut forkptyrouter_plugin: ffi::uwsgi_plugin = {
    // SAFETY: NULLs, zeros and None: a plugin without a name or a hook.
    let mut plugin: ffi::uwsgi_plugin = unsafe { std::mem::zeroed() };
    plugin.name = c"forkptyrouter".as_ptr();
    plugin.options = ROUTER_OPTIONS.as_ptr();
    plugin.init = Some(router_init);
    plugin
};

/// Runs when the library is loaded, before the server reads a plugin struct.
/// A plugin without a name is one that the server refuses.
#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static CHECK: extern "C" fn() = {
    extern "C" fn check() {
        let outcome = std::panic::catch_unwind(abi::check)
            .unwrap_or_else(|_| Err(String::from("forkptyrouter: cannot tell the server's build")));
        if let Err(line) = outcome {
            // The server's log may not be set up yet.
            eprintln!("{line}");
            // SAFETY: the loader runs constructors on one thread, before
            // anybody can see the symbols.
            unsafe {
                forkptyrouter_plugin.name = std::ptr::null();
            }
        }
    }
    check
};

unsafe extern "C" fn router_option(name: *mut c_char, value: *mut c_char, _: *mut c_void) {
    // SAFETY: the server's own strings.
    unsafe { options::receive(name, value, set_router_option) };
}

fn set_router_option(name: &str, value: &str) -> Result<()> {
    let option = OPTIONS
        .iter()
        .find(|option| option.name.to_bytes() == name.as_bytes())
        .ok_or_else(|| Error::new(format!("option {name} is not one of the router's")))?;
    ROUTER
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .set(option.key, name, value)?;
    match option.key {
        Key::Listen(Protocol::Raw) => gateway::add_socket(value, Role::Raw),
        Key::Listen(Protocol::Uwsgi) => gateway::add_socket(value, Role::Uwsgi),
        Key::Zerg => gateway::add_sockets_of_zerg(value),
        _ => Ok(()),
    }
}

/// Binds the sockets and registers the gateways.
unsafe extern "C" fn router_init() -> c_int {
    let outcome = guard("the start", Err(Error::new("cannot start")), || {
        let config = ROUTER.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        for remark in &config.remarks {
            log(&format!("forkptyrouter: {remark}"));
        }
        if !gateway::has_sockets() {
            return Ok(());
        }
        if let Some(stats) = &config.stats {
            gateway::add_socket(stats, Role::Stats)?;
        }
        gateway::bind_sockets()?;
        gateway::register(config.processes, config.harakiri, |gateway| {
            let config = ROUTER.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            crate::router::run(gateway, config)
        })
    });
    if let Err(error) = outcome {
        log(&format!("forkptyrouter: {error}"));
        server::exit(1);
    }
    0
}
