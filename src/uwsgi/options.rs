//! Options as the server wants them: an array of C structs, each calling one
//! function of ours.

use std::cell::UnsafeCell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;

use super::guard::guard;
use super::log::log;
use super::server;
use crate::ffi;
use fpty::error::Result;

/// One option.
pub struct Spec {
    /// Its name.
    pub name: &'static CStr,
    /// Whether it takes a value.
    pub takes_value: bool,
    /// Its line in `--help`.
    pub help: &'static CStr,
    /// What naming it implies.
    pub implies: Implies,
}

impl Spec {
    /// A place that is not filled yet.
    pub const NONE: Self =
        Self { name: c"", takes_value: false, help: c"", implies: Implies::Nothing };

    /// One option.
    pub const fn new(
        name: &'static CStr,
        takes_value: bool,
        help: &'static CStr,
        implies: Implies,
    ) -> Self {
        Self { name, takes_value, help, implies }
    }
}

/// What naming an option implies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implies {
    /// Nothing.
    Nothing,
    /// A master process: without one the server forks the gateway and exits.
    Master,
    /// A quiet start: the terminal is for somebody's output.
    Quiet,
}

/// Receives an option's name and value (empty where there is none).
pub type Receive = fn(&str, &OsStr) -> Result<()>;

/// The server's array of `N - 1` options and its end mark.
pub struct OptionTable<const N: usize>(UnsafeCell<[ffi::uwsgi_option; N]>);

// SAFETY: written at compile time; the server reads it on its only thread.
unsafe impl<const N: usize> Sync for OptionTable<N> {}

impl<const N: usize> OptionTable<N> {
    /// Builds the array, at compile time. `call` is what the server calls.
    pub const fn new(
        specs: &[Spec],
        call: unsafe extern "C" fn(*mut c_char, *mut c_char, *mut c_void),
    ) -> Self {
        assert!(specs.len() + 1 == N, "the array has room for the options and an end mark");
        // SAFETY: NULLs, zeros and None are what the end mark is made of.
        let mut table: [ffi::uwsgi_option; N] = unsafe { std::mem::zeroed() };
        let mut at = 0;
        while at < specs.len() {
            let spec = &specs[at];
            table[at].name = spec.name.as_ptr().cast_mut();
            // getopt(3)'s no_argument and required_argument.
            table[at].type_ = if spec.takes_value { 1 } else { 0 } as c_int;
            table[at].help = spec.help.as_ptr().cast_mut();
            table[at].func = Some(call);
            table[at].flags = match spec.implies {
                Implies::Nothing => 0,
                Implies::Master => ffi::UWSGI_OPT_MASTER as u64,
                Implies::Quiet => ffi::UWSGI_OPT_NO_INITIAL as u64,
            };
            at += 1;
        }
        Self(UnsafeCell::new(table))
    }

    /// For the plugin's struct.
    pub const fn as_ptr(&self) -> *mut ffi::uwsgi_option {
        self.0.get().cast()
    }
}

/// Passes an option on. Nonsense ends the start with a line that says so:
/// a server that runs with something else than asked for helps nobody.
///
/// # Safety
/// `name` and `value` are NUL-terminated strings or NULL, as the server's
/// `uwsgi_manage_opt` passes them.
pub unsafe fn receive(name: *const c_char, value: *const c_char, receive: Receive) {
    let bytes = |string: *const c_char| match string.is_null() {
        true => &[][..],
        // SAFETY: see above; the server changes neither meanwhile.
        false => unsafe { CStr::from_ptr(string) }.to_bytes(),
    };
    // Our own names, and values of any bytes.
    let (name, value) = (String::from_utf8_lossy(bytes(name)), OsStr::from_bytes(bytes(value)));
    let accepted = guard("an option", false, || match receive(&name, value) {
        Ok(()) => true,
        Err(error) => {
            log(&format!("forkptyrouter: {error}"));
            false
        }
    });
    if !accepted {
        server::exit(1);
    }
}
