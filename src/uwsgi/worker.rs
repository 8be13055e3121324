//! The process that the server has just forked.

use std::ptr::{addr_of, addr_of_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ffi;

type Hook = unsafe extern "C" fn();

/// Whether it is the first worker. (Mules and spoolers have number 0.)
pub fn is_first() -> bool {
    // SAFETY: a plain int that was set before the hook was called.
    unsafe { addr_of!(ffi::uwsgi.mywid).read() == 1 }
}

/// Our hook, and the one that it stands in front of.
static HOOKS: Mutex<[Option<Hook>; 2]> = Mutex::new([None, None]);

/// Has `hook` called in each forked process (worker, mule, spooler) before
/// any language plugin's post_fork hook.
///
/// The server calls the hooks of language plugins first, and those start the
/// application's threads: a prompt on such a thread would read the old
/// standard input, find its end, and run on it for ever. And in a mule it
/// calls no others.
///
/// To be called by the master, before it forks, once.
pub fn before_language_plugins(hook: Hook) {
    // SAFETY: the server's table of 256 plugins, of which none is NULL (the
    // free places share one that does nothing), on its only thread. The
    // structs live as long as the server; their hooks take no argument.
    unsafe {
        let plugins = addr_of_mut!(ffi::uwsgi.p).read();
        let first_with_hook = plugins
            .iter()
            .find(|plugin| plugin.as_ref().is_some_and(|plugin| plugin.post_fork.is_some()));
        if let Some(plugin) = first_with_hook.unwrap_or(&plugins[0]).as_mut() {
            *hooks() = [Some(hook), plugin.post_fork];
            plugin.post_fork = Some(ours_and_theirs);
        }
    }
}

unsafe extern "C" fn ours_and_theirs() {
    let hooks = *hooks();
    for hook in hooks.into_iter().flatten() {
        // SAFETY: a post_fork hook, called where the server calls it.
        unsafe { hook() };
    }
}

fn hooks() -> MutexGuard<'static, [Option<Hook>; 2]> {
    HOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}
