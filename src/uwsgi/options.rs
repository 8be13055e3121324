//! Options as the server wants them: an array of C structs, each calling one
//! function of ours.

use std::cell::UnsafeCell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;

use super::guard::start;
use crate::ffi;
use fpty::error::Result;
use fpty_gateway::config::option_table::{self, Implies, OptionRow, OptionSpec};

/// Receives an option's name and value (empty where there is none).
pub type Receive = fn(&str, &OsStr) -> Result<()>;

/// The server's array of `N - 1` options and its end mark.
pub struct OptionTable<const N: usize>(UnsafeCell<[ffi::uwsgi_option; N]>);

// SAFETY: the array is written at compile time; the server reads it on its only thread.
unsafe impl<const N: usize> Sync for OptionTable<N> {}

impl<const N: usize> OptionTable<N> {
    /// Builds the array, at compile time. `call` is what the server calls.
    pub const fn new<C>(
        rows: &[OptionRow<C>],
        call: unsafe extern "C" fn(*mut c_char, *mut c_char, *mut c_void),
    ) -> Self {
        assert!(
            option_table::name_count(rows) + 1 == N,
            "there is room for the options and an end mark"
        );
        // SAFETY: all zero is a valid option: NULL, 0 and None, which is also the end mark.
        let mut table: [ffi::uwsgi_option; N] = unsafe { std::mem::zeroed() };
        let (mut at, mut row) = (0, 0);
        while row < rows.len() {
            let OptionSpec { names, takes_value, help, implies, .. } = &rows[row].spec;
            let mut name = 0;
            while name < names.len() {
                table[at].name = names[name].as_ptr().cast_mut();
                // getopt(3)'s no_argument and required_argument.
                table[at].type_ = *takes_value as c_int;
                table[at].help = help.as_ptr().cast_mut();
                table[at].func = Some(call);
                table[at].flags = match implies {
                    Implies::Nothing => 0,
                    Implies::Master => ffi::UWSGI_OPT_MASTER as u64,
                    Implies::Quiet => ffi::UWSGI_OPT_NO_INITIAL as u64,
                };
                (at, name) = (at + 1, name + 1);
            }
            row += 1;
        }
        Self(UnsafeCell::new(table))
    }

    /// The array, for the plugin's struct.
    pub const fn as_ptr(&self) -> *mut ffi::uwsgi_option {
        self.0.get().cast()
    }
}

/// Passes an option on. Nonsense ends the start with a line that says so.
///
/// # Safety
/// `name` and `value` are NUL-terminated strings or NULL, as the server's
/// `uwsgi_manage_opt` passes them.
pub unsafe fn receive(name: *const c_char, value: *const c_char, receive: Receive) {
    let bytes = |string: *const c_char| match string.is_null() {
        true => &[][..],
        // SAFETY: a NUL-terminated string by this function's contract, which the server does
        // not change during the call.
        false => unsafe { CStr::from_ptr(string) }.to_bytes(),
    };
    // Names are those of the table, in ASCII; a value may have any bytes.
    let (name, value) = (String::from_utf8_lossy(bytes(name)), OsStr::from_bytes(bytes(value)));
    start("forkptyrouter", "an option", || receive(&name, value));
}
