//! The process that the server has just forked.

use std::ptr::{addr_of, addr_of_mut};
use std::sync::Mutex;

use super::guard::locked;
use crate::ffi;

type Hook = unsafe extern "C" fn();

/// Whether this process is the first worker. (Mules and spoolers have number 0.)
pub fn is_first() -> bool {
    // SAFETY: a plain int, which the server sets before it calls hooks.
    unsafe { addr_of!(ffi::uwsgi.mywid).read() == 1 }
}

/// State of the first worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstWorker {
    /// The worker runs, or is about to.
    Runs,
    /// The worker runs when there is work for it again (`cheap`, `cheaper`, `idle`).
    Cheaped,
    /// There are no workers: the server has no socket for requests.
    Never,
}

/// The state of the first worker. Called in the master.
pub fn first_worker() -> FirstWorker {
    // SAFETY: plain ints of the server's configuration, which is complete,
    // and a word of an array in shared memory, which has a place for the first worker
    // where the server has workers; only the master, which is this process, writes it.
    unsafe {
        if addr_of!(ffi::uwsgi.numproc).read() < 1 {
            return FirstWorker::Never;
        }
        let workers = addr_of!(ffi::uwsgi.workers).read();
        match (*workers.add(1)).cheaped {
            0 => FirstWorker::Runs,
            _ => FirstWorker::Cheaped,
        }
    }
}

/// The option by which the server may stop the first worker while it has
/// nothing to do.
pub fn may_be_cheaped() -> Option<&'static str> {
    // SAFETY: plain ints of the server's configuration, which is complete.
    let (cheaper, idle) = unsafe {
        (addr_of!(ffi::uwsgi.cheaper).read() != 0, addr_of!(ffi::uwsgi.idle).read() != 0)
    };
    cheaper.then_some("cheaper").or(idle.then_some("idle"))
}

/// Our hooks; and the hook of the server's table that they stand in front of.
static HOOKS: Mutex<(Vec<Hook>, Option<Hook>)> = Mutex::new((Vec::new(), None));

/// Has `hook` called in each forked process (worker, mule, spooler) before
/// any language plugin's post_fork hook.
///
/// The server calls the hooks of language plugins first, and those start the
/// application's threads: a prompt on such a thread would read the old
/// standard input, find its end, and run on it for ever. And in a mule it
/// calls no others.
///
/// To be called by the master, before it forks.
pub fn before_language_plugins(hook: Hook) {
    let mut hooks = locked(&HOOKS);
    hooks.0.push(hook);
    if hooks.0.len() > 1 {
        return;
    }
    // SAFETY: the server's table of 256 plugins, of which none is NULL (the
    // free places share one that does nothing), on its only thread. The
    // structs live as long as the server; their hooks take no argument.
    unsafe {
        let plugins = addr_of_mut!(ffi::uwsgi.p).read();
        let first_with_hook = plugins
            .iter()
            .find(|plugin| plugin.as_ref().is_some_and(|plugin| plugin.post_fork.is_some()));
        if let Some(plugin) = first_with_hook.unwrap_or(&plugins[0]).as_mut() {
            hooks.1 = plugin.post_fork;
            plugin.post_fork = Some(ours_and_theirs);
        }
    }
}

unsafe extern "C" fn ours_and_theirs() {
    let (ours, theirs) = locked(&HOOKS).clone();
    for hook in ours.into_iter().chain(theirs) {
        // SAFETY: a post_fork hook, called where the server calls it.
        unsafe { hook() };
    }
}
