//! The gate that everything C calls goes through.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fpty::error::{Error, Result};
use fpty::text::panic_message;
use fpty_gateway::log::log;

/// Runs what C called; a panic is logged and becomes `on_panic`, because an
/// unwinding that reaches a C frame would abort the server.
pub fn guard<R>(what: &str, on_panic: R, body: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(payload) => {
            log(&format!("forkptyrouter: internal error in {what}: {}", panic_message(&*payload)));
            on_panic
        }
    }
}

/// Runs a part of a plugin's start that C called. Where `body` fails or panics the server
/// ends with a line that says so: a server that runs with something else than asked for
/// helps nobody.
pub fn start(plugin: &str, what: &str, body: impl FnOnce() -> Result<()>) {
    if let Err(error) = guard(what, Err(Error::new("cannot start")), body) {
        log(&format!("{plugin}: {error}"));
        exit(1);
    }
}

/// The content of a mutex: after a panic that is as good as before.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process as the server itself does: its exit handlers run.
pub fn exit(status: i32) -> ! {
    // SAFETY: called on the main thread of a process that starts or has nothing else to
    // do, without a lock that an exit handler takes.
    unsafe { libc::exit(status) }
}
