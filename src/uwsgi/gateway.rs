//! Gateways on the server's own list, so that the server forks, respawns and
//! ends what is ours.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{addr_of, addr_of_mut};

use once_cell::sync::OnceCell;

use super::guard::guard;
use super::inherited;
use super::sockets::Owner;
use crate::ffi;
use fpty::error::{Error, Result};
use fpty_gateway::log::log;

/// The name of our gateways, which is that of their sockets' owner: by it the
/// server finds out which sockets a gateway keeps. It is one in memory, too: by its
/// address ours are told from others.
static NAME: &CStr = Owner::Gateway.name();

/// All gateways on the server's list, in its order.
pub(super) fn all() -> &'static [ffi::uwsgi_gateway] {
    // SAFETY: an array in memory shared with the master, which changes neither
    // names nor order after the start, and writes each process id as one word.
    unsafe {
        let shared = (*addr_of_mut!(ffi::uwsgi)).shared;
        let count = usize::try_from((*shared).gateways_cnt).unwrap_or(0);
        let gateways: &[_] = &(*shared).gateways;
        gateways.get(..count).unwrap_or(gateways)
    }
}

/// Whether a gateway of the server's list is ours.
pub(super) fn is_ours(gateway: &ffi::uwsgi_gateway) -> bool {
    gateway.name.cast_const() == NAME.as_ptr()
}

/// Main function of a gateway process, by its number among ours.
type Run = fn(usize) -> Result<()>;

/// The main function, and its harakiri in seconds; set once, before the first gateway is
/// registered.
static RUN: OnceCell<(Run, Option<u32>)> = OnceCell::new();

/// The number of this gateway process on the server's list, where the master kills it
/// by a harakiri.
static WATCHED: OnceCell<usize> = OnceCell::new();

/// Registers the gateways. Without a master the server forks them at once.
///
/// # Errors
/// The server's table of gateways is full.
pub fn register(count: u32, harakiri: Option<u32>, run: Run) -> Result<()> {
    let _ = RUN.set((run, harakiri));
    for _ in 0..count {
        // SAFETY: name and function live as long as the process.
        let gateway = unsafe {
            ffi::register_gateway(
                NAME.as_ptr().cast_mut(),
                Some(gateway_main),
                std::ptr::null_mut(),
            )
        };
        if gateway.is_null() {
            return Err(Error::new(format!(
                "cannot register {count} gateways: the server has room for {} in all",
                ffi::MAX_GATEWAYS
            )));
        }
    }
    Ok(())
}

/// A gateway process begins here; when it returns, the server ends it.
unsafe extern "C" fn gateway_main(id: c_int, _: *mut c_void) {
    guard("the gateway", (), || {
        inherited::keep_in_gateway();
        let Some((run, harakiri)) = RUN.get() else {
            return;
        };
        let id = usize::try_from(id).unwrap_or(0);
        // SAFETY: a plain int that is set while options are read and only read afterwards.
        let has_master = unsafe { addr_of!(ffi::uwsgi.master_process).read() != 0 };
        if harakiri.is_some() && has_master {
            let _ = WATCHED.set(id);
        }
        let ordinal = all().iter().take(id).filter(|other| is_ours(other)).count();
        if let Err(error) = run(ordinal) {
            log(&format!("forkptyrouter: the gateway ends: {error}"));
        }
    });
}

/// Arms the harakiri of a gateway that has work: where that takes longer the master
/// kills it. Disarms it where the gateway is about to wait, for any time.
pub fn set_harakiri(armed: bool) {
    let (Some(id), Some((_, Some(seconds)))) = (WATCHED.get(), RUN.get()) else {
        return;
    };
    let at = if armed { fpty::sys::unix_time() + i64::from(*seconds) } else { 0 };
    // SAFETY: this gateway's element of an array in memory shared with the master, which
    // reads the word once a second.
    unsafe {
        let shared = (*addr_of_mut!(ffi::uwsgi)).shared;
        if let Some(deadline) = (*shared).gateways_harakiri.get_mut(*id) {
            std::ptr::from_mut(deadline).write_volatile(at);
        }
    }
}
