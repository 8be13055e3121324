//! The server, as the gateway needs it.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use super::sockets::{self, Owner, Role};
use super::{exec_handoff, gateway, inherited, log, metrics, server};
use fpty::error::Result;
use fpty::proto::Protocol;
use fpty_gateway::host::{Host, Kept, MetricKind, Socket, SocketRole};

/// The uWSGI that has loaded the library.
pub struct Uwsgi;

impl Host for Uwsgi {
    fn version(&self) -> &str {
        server::version()
    }

    fn instance(&self) -> Option<String> {
        server::instance()
    }

    fn shell(&self) -> CString {
        server::shell()
    }

    fn write_log(&self, line: &str) {
        log::write(line);
    }

    fn log_packet(&self) -> Option<usize> {
        server::log_packet()
    }

    fn statistics_by_http(&self) -> bool {
        server::stats_http()
    }

    fn sockets(&self) -> Result<Vec<Socket>> {
        let socket = |socket: sockets::Socket| {
            let role = match socket.role {
                Role::Raw => SocketRole::Terminal(Protocol::Raw),
                Role::Uwsgi => SocketRole::Terminal(Protocol::Uwsgi),
                Role::Stats => SocketRole::Statistics,
                Role::Shared | Role::Watched => return None,
            };
            let sockets::Socket { listener, name, rules, .. } = socket;
            Some(Socket { listener, role, name, rules })
        };
        Ok(sockets::bound(Owner::Router)?.into_iter().filter_map(socket).collect())
    }

    fn export_metric(&self, name: &'static CStr, kind: MetricKind, number: &'static AtomicU64) {
        metrics::register(name, kind, number);
    }

    fn inherited_by_gateways_only(&self, fd: BorrowedFd<'_>) {
        inherited::by_gateways_only(fd);
    }

    fn keep_over_exec(&self, name: &str, fds: &[BorrowedFd<'_>], note: &OsStr) {
        exec_handoff::keep(name, fds, note);
    }

    fn take_kept_sockets(&self, name: &str) -> Option<Kept> {
        exec_handoff::take(name)
    }

    fn take_kept_memory(&self, name: &str) -> Option<(OwnedFd, OsString)> {
        exec_handoff::take_memory(name)
    }

    fn is_stopping(&self) -> bool {
        server::stops()
    }

    fn arm_watchdog(&self) {
        gateway::arm_harakiri();
    }

    fn disarm_watchdog(&self) {
        gateway::disarm_harakiri();
    }

    fn exit(&self, status: i32) -> ! {
        server::exit(status)
    }
}
