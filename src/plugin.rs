//! The exported symbols: the two plugin structs that the server's loader
//! looks up, and the check that runs before it does.

use std::ffi::{OsStr, c_char, c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use once_cell::sync::Lazy;

use crate::ffi;
use crate::pty_options;
use crate::uwsgi::gateway;
use crate::uwsgi::host::Uwsgi;
use crate::uwsgi::options::{OptionTable, receive};
use crate::uwsgi::sockets::{self, Owner};
use crate::uwsgi::{
    abi, exec_handoff,
    guard::{exit, guard, locked, start},
    inherited, stopping, worker,
};
use fpty::error::Result;
use fpty_gateway::config::option_table;
use fpty_gateway::config::options::{self, GatewayConfig};
use fpty_gateway::config::socket_options::SocketRequest;
use fpty_gateway::host::{self, Host, SocketRole};
use fpty_gateway::instance;
use fpty_gateway::log::log;

/// The gateways' options as they are read, on the server's only thread.
static GATEWAY: Lazy<Mutex<GatewayConfig>> = Lazy::new(Mutex::default);

static GATEWAY_OPTIONS: OptionTable<{ option_table::name_count(&options::OPTIONS) + 1 }> =
    OptionTable::new(&options::OPTIONS, gateway_option);

/// The pty plugin's options as they are read, on the server's only thread.
static PTY: Lazy<Mutex<pty_options::PtyOptions>> = Lazy::new(Mutex::default);

static PTY_OPTIONS: OptionTable<{ option_table::name_count(&pty_options::OPTIONS) + 1 }> =
    OptionTable::new(&pty_options::OPTIONS, pty_option);

/// Symbol that the server's loader looks up for `--plugin forkptyrouter`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut forkptyrouter_plugin: ffi::uwsgi_plugin = {
    // SAFETY: NULLs, zeros and None: a plugin without a name or a hook.
    let mut plugin: ffi::uwsgi_plugin = unsafe { std::mem::zeroed() };
    plugin.name = c"forkptyrouter".as_ptr();
    plugin.options = GATEWAY_OPTIONS.as_ptr();
    plugin.jail = Some(gateway_before_all);
    plugin.init = Some(gateway_init);
    plugin.post_init = Some(gateway_post_init);
    plugin.post_fork = Some(gateway_post_fork);
    plugin.master_cycle = Some(gateway_master_cycle);
    plugin.master_cleanup = Some(gateway_end);
    plugin
};

/// Another name of [`forkptyrouter_plugin`], at the same address: the linker
/// lays it there (`--defsym` in build.rs). What is written here only has it
/// exported. uWSGI's own build does without: what it embeds must not define a
/// name that others may have, and it exports by a list of its own.
#[cfg(uwsgi_plugin)]
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static uwsgi_plugin: u8 = 0;

/// Symbol that the server's loader looks up for `--plugin pty`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut pty_plugin: ffi::uwsgi_plugin = {
    // SAFETY: NULLs, zeros and None: a plugin without a name or a hook.
    let mut plugin: ffi::uwsgi_plugin = unsafe { std::mem::zeroed() };
    plugin.name = c"pty".as_ptr();
    plugin.options = PTY_OPTIONS.as_ptr();
    plugin.init = Some(pty_init);
    plugin.post_init = Some(sockets_are_known);
    plugin.post_fork = Some(pty_post_fork);
    plugin.master_cycle = Some(pty_master_cycle);
    plugin
};

/// Runs when the library is loaded, before the server reads a plugin struct.
/// A plugin without a name is one that the server refuses.
// Not in a test program, which no server loads.
#[cfg_attr(not(test), used, unsafe(link_section = ".init_array"))]
#[cfg_attr(test, allow(dead_code))]
static CHECK: extern "C" fn() = {
    extern "C" fn check() {
        // Or a socket of ours gets such a number, which the server, too, takes
        // for something else.
        fpty::sys::stdio::fill_closed();
        host::set(&Uwsgi);
        if exec_handoff::close_on_exec_again() {
            inherited::forbid_inspection();
        }
        let outcome = std::panic::catch_unwind(abi::check)
            .unwrap_or_else(|_| Err(String::from("forkptyrouter: cannot tell the server's build")));
        if let Err(line) = outcome {
            // The server's log may not be set up yet.
            fpty::sys::stdio::say(&line);
            // SAFETY: the loader runs constructors on one thread, before
            // anybody can see the symbols.
            unsafe {
                forkptyrouter_plugin.name = std::ptr::null();
                pty_plugin.name = std::ptr::null();
            }
        }
    }
    check
};

unsafe extern "C" fn gateway_option(name: *mut c_char, value: *mut c_char, _: *mut c_void) {
    // SAFETY: the server's own strings.
    unsafe { receive(name, value, set_gateway_option) };
}

fn set_gateway_option(name: &str, value: &OsStr) -> Result<()> {
    let asked = {
        let mut config = locked(&GATEWAY);
        option_table::apply_option(&options::OPTIONS, &mut *config, name, value)?;
        std::mem::take(&mut config.socket_requests)
    };
    asked.into_iter().try_for_each(|asked| match asked {
        SocketRequest::Socket { address, protocol, rules } => {
            sockets::add(&address, Owner::Gateway, SocketRole::Terminal(protocol), rules)
        }
        SocketRequest::Zerg(address) => sockets::add_from_zerg(&address),
    })
}

unsafe extern "C" fn pty_option(name: *mut c_char, value: *mut c_char, _: *mut c_void) {
    let set = |name: &str, value: &OsStr| {
        option_table::apply_option(&pty_options::OPTIONS, &mut *locked(&PTY), name, value)
    };
    // SAFETY: the server's own strings.
    unsafe { receive(name, value, set) };
}

/// Runs before anything is given up: privileges, the root, a namespace. (The
/// server calls it for plugins that build jails, in each of its versions, and
/// goes on when it returns.)
unsafe extern "C" fn gateway_before_all(
    _: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    _: *mut *mut c_char,
) {
    start("forkptyrouter", "the start", || {
        let config = locked(&GATEWAY).clone();
        instance::before_jail(sockets::is_requested(Owner::Gateway).then_some(&config))
    });
}

/// Binds the sockets and registers the gateways.
unsafe extern "C" fn gateway_init() -> c_int {
    start("forkptyrouter", "the start", || {
        let mut config = locked(&GATEWAY).clone();
        // While the arguments are known.
        Uwsgi.instance();
        for remark in &config.remarks {
            log(&format!("forkptyrouter: {remark}"));
        }
        if !sockets::is_requested(Owner::Gateway) {
            return Ok(());
        }
        if let Some(stats) = &config.stats {
            sockets::add(stats, Owner::Gateway, SocketRole::Statistics, 0)?;
        }
        config.resolve()?;
        *locked(&GATEWAY) = config.clone();
        sockets::bind(
            Owner::Gateway,
            |number| config.socket_options(number).map(|own| own.ownership).unwrap_or_default(),
            |number, kind| config.socket_options(number).map_or(Ok(()), |own| own.check_kind(kind)),
        )?;
        instance::before_gateways(&config);
        if let Some(words) = instance::stop_words() {
            stopping::set_memory(words);
        }
        worker::before_language_plugins(gateway_post_fork);
        gateway::register(config.processes, config.harakiri, |ordinal| {
            let config = locked(&GATEWAY).clone();
            instance::run_gateway(ordinal, config)
        })
    });
    0
}

/// The server has found and bound all of its sockets.
unsafe extern "C" fn sockets_are_known() {
    guard("the start", (), sockets::keep_from_the_server);
}

/// Called when the server has bound all of its sockets and registered all gateways, ours
/// and others'.
unsafe extern "C" fn gateway_post_init() {
    guard("the start", (), || {
        sockets::keep_from_the_server();
        if sockets::is_requested(Owner::Gateway) {
            inherited::install();
        }
    });
}

/// A process of the server has been forked that is no gateway.
unsafe extern "C" fn gateway_post_fork() {
    guard("a forked process", (), inherited::close_all);
}

/// The master's turn, for the first time when it has set its handlers.
unsafe extern "C" fn gateway_master_cycle() {
    guard("the master", (), stopping::install);
}

/// The master ends or is about to execute itself anew; the gateways have been
/// killed.
unsafe extern "C" fn gateway_end() {
    guard("the end", (), || {
        inherited::before_exec();
        let config = locked(&GATEWAY).clone();
        instance::after_gateways(&config);
    });
}

/// Runs the client, or binds the sockets of the shared terminal.
unsafe extern "C" fn pty_init() -> c_int {
    start("pty", "the start", || {
        let config = locked(&PTY).clone();
        if let Some(client) = config.client()? {
            exit(guard("the pty client", fpty::exit_status::EXIT_LOST.into(), || {
                match config.control_request() {
                    Some(question) => fpty::client::control::run(&client, &question),
                    None => fpty::client::run(&client),
                }
            }));
        }
        crate::pty_server::bind(&config.server)?;
        if sockets::is_requested(Owner::Pty) {
            worker::before_language_plugins(pty_post_fork);
        }
        Ok(())
    });
    0
}

/// The master's turn, once a second or more often: nobody waits in vain for a
/// shared terminal that there is not.
unsafe extern "C" fn pty_master_cycle() {
    guard("the shared terminal", (), crate::pty_server::unavailable::reject_waiting);
}

/// A process of the server has been forked: the first worker gets the shared
/// terminal.
unsafe extern "C" fn pty_post_fork() {
    // Once in each process, whoever calls first.
    static STARTED_IN: AtomicU32 = AtomicU32::new(0);
    guard("the shared terminal", (), || {
        if STARTED_IN.swap(std::process::id(), Ordering::Relaxed) == std::process::id() {
            return;
        }
        let config = locked(&PTY).server.clone();
        if let Err(error) = crate::pty_server::start(&config) {
            log(&format!("pty: no shared terminal: {error}"));
        }
    });
}
