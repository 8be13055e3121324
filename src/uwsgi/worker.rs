//! The process that the server has just forked.

use std::ptr::{addr_of, addr_of_mut};
use std::sync::Mutex;

use crate::ffi;

type Hook = unsafe extern "C" fn();

/// Whether it is the first worker. (Mules and spoolers have number 0.)
pub fn is_first() -> bool {
    // SAFETY: a plain int that was set before the hook was called.
    unsafe { addr_of!(ffi::uwsgi.mywid).read() == 1 }
}

/// The hook that ours stands in front of.
static NEXT: Mutex<Option<Hook>> = Mutex::new(None);

/// Has `hook` called in each forked process before any language plugin's
/// post_fork hook, where one has such a hook.
///
/// The server calls the hooks of language plugins first, and those start the
/// application's threads: a prompt on such a thread would read the old
/// standard input, find its end, and run on it for ever.
///
/// To be called by the master, before it forks.
pub fn before_language_plugins(hook: Hook) {
    // SAFETY: the server's table of 256 plugins, of which none is NULL, on
    // its only thread. The structs live as long as the server; their hooks
    // are called with no argument.
    unsafe {
        let plugins = addr_of_mut!(ffi::uwsgi.p).read();
        for plugin in plugins {
            let Some(plugin) = plugin.as_mut() else {
                continue;
            };
            if let Some(next) = plugin.post_fork {
                if std::ptr::fn_addr_eq(next, first as Hook) {
                    return;
                }
                *NEXT.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(next);
                *OURS.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(hook);
                plugin.post_fork = Some(first);
                return;
            }
        }
    }
}

static OURS: Mutex<Option<Hook>> = Mutex::new(None);

/// Ours, then the one that was there.
unsafe extern "C" fn first() {
    for hook in [&OURS, &NEXT] {
        let hook = *hook.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(hook) = hook {
            // SAFETY: a post_fork hook, called where the server calls it.
            unsafe { hook() };
        }
    }
}
