//! Sockets on the server's own list, so that the server keeps and closes what
//! is ours as it does with its own; and those that somebody has bound and passed to the
//! server (`fd://N`).

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::addr_of_mut;
use std::sync::Mutex;

use nix::unistd::AccessFlags;

use super::exec_handoff::close_with_exec;
use super::guard::locked;
use crate::ffi;
use fpty::error::{Context, Error, Result};
use fpty::proto::Protocol;
use fpty::sys::bind::{self, Ownership};
use fpty::sys::socket::ListeningSocket;
use fpty_gateway::config::socket_options::SocketKind;
use fpty_gateway::host::{Socket, SocketRole};
use fpty_gateway::log::log;

/// The longest socket path that the server binds, in bytes.
const LONGEST_PATH: usize = 102;

/// Owner of a socket: one of our plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The plugin forkptyrouter: its gateways keep the socket, workers do not.
    Gateway,
    /// The shared terminal: workers keep the socket.
    Pty,
}

impl Owner {
    /// The owner's name on the server's list, which is compared by its text.
    pub const fn name(self) -> &'static CStr {
        match self {
            Owner::Gateway => c"uWSGI forkptyrouter",
            Owner::Pty => c"uWSGI pty",
        }
    }
}

/// A terminal in raw mode, also the one that is shared.
pub const RAW: SocketRole = SocketRole::Terminal(Protocol::Raw);

/// The roles of sockets by their number, which the server keeps in the lower bits of a
/// socket's `mode`.
const ROLES: [SocketRole; 3] = [RAW, SocketRole::Terminal(Protocol::Uwsgi), SocketRole::Statistics];

/// The lowest bit of the number of a socket's rules in its `mode`.
const RULES: c_int = 8;

/// Adds a socket that will be bound when the server starts, with the rules of
/// this number.
///
/// # Errors
/// There are too many sockets, or the address holds a NUL byte.
pub fn add(address: &OsStr, owner: Owner, role: SocketRole, rules: usize) -> Result<()> {
    let rules = c_int::try_from(rules).ok().filter(|number| *number < 65_536);
    let rules = rules.ok_or_else(|| Error::new("there are too many sockets"))?;
    let address = CString::new(address.as_bytes())
        .map_err(|_| Error::new("an address holds a NUL byte"))?
        // The server keeps the pointer for as long as it lives.
        .into_raw();
    let role = ROLES.iter().zip(0..).find(|(known, _)| **known == role).map_or(0, |(_, at)| at);
    // SAFETY: options are read on the server's only thread; both strings live as long as
    // the process. The server returns a new entry of its list, or ends the process.
    unsafe {
        let socket = ffi::uwsgi_new_gateway_socket(address, owner.name().as_ptr().cast_mut());
        (*socket).no_defer = 1;
        (*socket).mode = role | rules << RULES;
        // Workers close sockets that are not shared.
        (*socket).shared = (owner == Owner::Pty).into();
    }
    Ok(())
}

/// Adds the sockets that a zerg server hands out.
///
/// # Errors
/// The zerg server cannot be reached, or hands out no sockets.
pub fn add_from_zerg(address: &OsStr) -> Result<()> {
    const MOST: c_int = 64;
    let failed =
        |why: &str| Error::new(format!("zerg server {}: {why}", address.to_string_lossy()));
    let path =
        CString::new(address.as_bytes()).map_err(|_| failed("the address holds a NUL byte"))?;
    // SAFETY: a NUL-terminated string, of which the server makes a copy.
    let connection = unsafe { ffi::uwsgi_connect(path.as_ptr().cast_mut(), 30, 0) };
    if connection < 0 {
        return Err(failed("cannot connect"));
    }
    let (code, mut count) = (c"uwsgi-zerg", MOST);
    // SAFETY: a connected socket, and a code with its length. The server returns NULL, or
    // a malloc'ed array of at least `MOST` numbers, of which those without a descriptor
    // are -1; the array is not used after free(3).
    let descriptors = unsafe {
        let code = (code.as_ptr().cast_mut(), code.count_bytes());
        let sockets = ffi::uwsgi_attach_fd(connection, &mut count, code.0, code.1);
        libc::close(connection);
        if sockets.is_null() {
            return Err(failed("it sent something else than sockets"));
        }
        let descriptors = std::slice::from_raw_parts(sockets, MOST as usize).to_vec();
        libc::free(sockets.cast());
        descriptors
    };
    if descriptors.iter().all(|fd| *fd < 0) {
        return Err(failed("it has no sockets"));
    }
    for fd in descriptors.into_iter().filter(|fd| *fd >= 0) {
        // Not by uwsgi_new_gateway_socket_from_fd, which takes the length of a NULL name
        // where the socket is one of IPv6.
        let name = name_of(fd).ok_or_else(|| failed("it sent an unusable socket"))?;
        add(OsStr::from_bytes(&name), Owner::Gateway, RAW, 0)?;
        // The entry that was just added has no descriptor yet.
        sockets_of(Owner::Gateway)
            .filter(|socket| socket.fd == -1 && bytes(socket.name) == name)
            .for_each(|socket| socket.fd = fd);
    }
    Ok(())
}

/// Binds a plugin's sockets, each with the mode and owner that its rules say;
/// these are asked whether they fit what it is.
///
/// # Errors
/// The line for the operator. (Where the server's own bind fails, it says so
/// itself and exits.)
pub fn bind(
    owner: Owner,
    ownership: impl Fn(usize) -> Ownership,
    fits: impl Fn(usize, SocketKind) -> Result<()>,
) -> Result<()> {
    // As when the library was loaded: the server may have closed a standard descriptor
    // since.
    fpty::sys::stdio::fill_closed();
    for socket in sockets_of(owner) {
        let raw_name = bytes(socket.name).to_vec();
        // The name as text: for a number in it, and for messages.
        let name = text(socket.name);
        let (role, rules) = role_and_rules(socket.mode);
        let was_bound = socket.fd >= 0 || name.starts_with('=') || name.starts_with("fd://");
        // Sockets that are bound here close with an exec: a reload binds them anew, and a
        // program of a hook or an application would keep the address in use.
        let (fd, raw_name, shared) = if socket.fd >= 0 {
            close_with_exec(socket.fd, true);
            (socket.fd, raw_name, false)
        } else if let Some(number) = name.strip_prefix('=') {
            let fd = shared_socket(number, &name)?;
            (fd, name_of(fd).unwrap_or(raw_name), true)
        } else if let Some(number) = name.strip_prefix("fd://") {
            let number = number_in(&name, number, "a descriptor's number")?;
            let fd = take_passed(number).map_err(|error| Error::new(format!("{name}: {error}")))?;
            (fd, name_of(fd).unwrap_or(raw_name), owner == Owner::Pty)
        } else {
            if is_abstract(&raw_name) {
                fits(rules, SocketKind::Abstract)?;
            }
            let fd = bind_address(&raw_name, socket.name, ownership(rules))?;
            close_with_exec(fd, true);
            (fd, raw_name, owner == Owner::Pty)
        };
        let name = String::from_utf8_lossy(&raw_name);
        let listener = ListeningSocket::of_the_server(fd)
            .map_err(|error| Error::new(format!("{name}: {error}")))?;
        if was_bound {
            fits(rules, SocketKind::Passed(Some(listener.transport())))?;
        }
        socket.fd = fd;
        socket.shared = shared.into();
        rename(socket, &raw_name);
        if role == SocketRole::Statistics {
            log(&format!("*** forkptyrouter stats server enabled on {name} fd: {fd} ***"));
        } else {
            log(&format!("{} bound on {name} fd {fd}", owner.name().to_string_lossy()));
        }
    }
    Ok(())
}

fn role_and_rules(mode: c_int) -> (SocketRole, usize) {
    let number = |number: c_int| usize::try_from(number).unwrap_or(0);
    let role = ROLES.get(number(mode & ((1 << RULES) - 1))).copied();
    (role.unwrap_or(RAW), number(mode >> RULES))
}

/// The number in an address of another's socket; else it is not `what`.
fn number_in(name: &str, number: &str, what: &str) -> Result<c_int> {
    let number = number.trim().parse().ok().filter(|number| *number >= 0);
    number.ok_or_else(|| Error::new(format!("{name}: not {what}")))
}

fn shared_socket(number: &str, name: &str) -> Result<c_int> {
    let number = number_in(name, number, "the number of a shared socket")?;
    // SAFETY: the server looks the number up in a list.
    match unsafe { ffi::uwsgi_get_shared_socket_fd_by_num(number) } {
        -1 => Err(Error::new(format!("{name}: there is no shared socket {number}"))),
        fd => Ok(fd),
    }
}

/// Whether an address is a UNIX socket's that has no path.
fn is_abstract(name: &[u8]) -> bool {
    // SAFETY: a plain int of the server's configuration, which is complete.
    let all = unsafe { (*addr_of_mut!(ffi::uwsgi)).abstract_socket != 0 };
    !name.contains(&b':') && (all || name.starts_with(b"@") || name.starts_with(b"\\0"))
}

fn bind_address(name: &[u8], raw_name: *mut c_char, ownership: Ownership) -> Result<c_int> {
    // SAFETY: the fields are plain ints of the server's configuration, which is complete,
    // read and written on the server's only thread. The names are NUL-terminated. A bind
    // that fails logs why and ends the process.
    unsafe {
        let server = addr_of_mut!(ffi::uwsgi);
        let backlog = (*server).listen_queue;
        if let Some(colon) = name.iter().rposition(|byte| *byte == b':') {
            let port = String::from_utf8_lossy(&name[colon + 1..]);
            if port.parse::<u16>().is_err() {
                let name = String::from_utf8_lossy(name);
                return Err(Error::new(format!("{name}: not a port: {port}")));
            }
            // A client that waits for a prompt sends nothing: accept must not
            // wait for its first byte.
            let deferred = std::mem::replace(&mut (*server).no_defer_accept, 1);
            let fd = ffi::bind_to_tcp(raw_name, backlog, raw_name.add(colon));
            (*server).no_defer_accept = deferred;
            return Ok(fd);
        }
        if !is_abstract(name) {
            check_path(name)?;
            return bind_path(name, backlog, ownership);
        }
        Ok(ffi::bind_to_unix(raw_name, backlog, (*server).chmod_socket, (*server).abstract_socket))
    }
}

/// Binds a socket that is reachable only once it has its mode and its owner.
/// (The server's own bind gives it both afterwards, by its path.)
fn bind_path(name: &[u8], backlog: c_int, ownership: Ownership) -> Result<c_int> {
    let shown = String::from_utf8_lossy(name);
    let path = Path::new(OsStr::from_bytes(name));
    // SAFETY: plain ints of the server's configuration, which is complete.
    let (changes, mode) = unsafe {
        let server = addr_of_mut!(ffi::uwsgi);
        ((*server).chmod_socket != 0, (*server).chmod_socket_value)
    };
    // `chmod-socket` without a value is 666, as for the server's own sockets.
    let of_server = || changes.then_some(if mode == 0 { 0o666 } else { mode });
    let mode = ownership.mode.or_else(of_server);
    let listener = bind::bind_unix(path, Ownership { mode, ..ownership }, backlog)
        .map_err(|error| Error::new(format!("cannot bind {shown}: {error}")))?;
    Ok(listener.into_raw_fd())
}

/// Checks a path: bind(2) would fail at it with fewer words.
///
/// # Errors
/// The path is too long, or its folder does not exist: the line for the operator.
fn check_path(bytes: &[u8]) -> Result<()> {
    let name = String::from_utf8_lossy(bytes);
    if bytes.len() > LONGEST_PATH {
        return Err(Error::new(format!(
            "cannot bind {name}: a socket's path has at most {LONGEST_PATH} bytes"
        )));
    }
    let folder = Path::new(OsStr::from_bytes(bytes)).parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    nix::unistd::eaccess(folder, AccessFlags::W_OK | AccessFlags::X_OK)
        .context(format!("cannot bind {name}: folder {}", folder.display()))
}

/// A plugin's sockets, bound before the process was forked.
///
/// # Errors
/// A socket is not a listening socket any more.
pub fn bound(owner: Owner) -> Result<Vec<Socket>> {
    let socket = |socket: &mut ffi::uwsgi_gateway_socket| {
        let (role, rules) = role_and_rules(socket.mode);
        let listener = ListeningSocket::of_the_server(socket.fd)?;
        Ok(Socket { listener, role, name: text(socket.name), rules })
    };
    sockets_of(owner).map(socket).collect()
}

/// Whether a plugin was asked for any socket.
pub fn is_requested(owner: Owner) -> bool {
    sockets_of(owner).next().is_some()
}

/// Closes a plugin's sockets in a process that has no use for them.
pub fn close(owner: Owner) {
    for socket in sockets_of(owner) {
        // SAFETY: a descriptor that only this plugin uses, and not in this process; the
        // server's list has -1 for it from here on.
        unsafe { libc::close(socket.fd) };
        socket.fd = -1;
    }
}

/// A plugin's sockets on the server's list, in the order of the options. They are
/// not to be walked by two at once.
fn sockets_of(owner: Owner) -> impl Iterator<Item = &'static mut ffi::uwsgi_gateway_socket> {
    // SAFETY: a list to which the server only appends, on this thread.
    let mut next = unsafe { (*addr_of_mut!(ffi::uwsgi)).gateway_sockets };
    let each = std::iter::from_fn(move || {
        // SAFETY: NULL, or an entry of that list, to which no other reference exists.
        let socket = unsafe { next.as_mut() }?;
        next = socket.next;
        Some(socket)
    });
    each.filter(move |socket| bytes(socket.owner) == owner.name().to_bytes())
}

/// One of the server's strings, which it keeps; empty for NULL.
fn bytes(string: *const c_char) -> &'static [u8] {
    if string.is_null() {
        return &[];
    }
    // SAFETY: a NUL-terminated string of the server's configuration.
    unsafe { CStr::from_ptr(string) }.to_bytes()
}

/// A server's string for messages; bytes that are not UTF-8 as U+FFFD.
fn text(string: *const c_char) -> String {
    String::from_utf8_lossy(bytes(string)).into_owned()
}

fn rename(socket: &mut ffi::uwsgi_gateway_socket, name: &[u8]) {
    if let Ok(name) = CString::new(name) {
        socket.name_len = name.count_bytes();
        socket.name = name.into_raw();
    }
}

/// The address that a socket is bound to, in the server's notation.
fn name_of(fd: c_int) -> Option<Vec<u8>> {
    // SAFETY: the server returns a new string, the literal "" or NULL.
    let name = unsafe { ffi::uwsgi_getsockname(fd) };
    (!name.is_null()).then(|| bytes(name).to_vec())
}

/// The sockets of this plugin that the service manager passed.
static OF_THE_SERVICE_MANAGER: Mutex<Vec<c_int>> = Mutex::new(Vec::new());

/// Takes the socket of this number; returns a copy of it, which closes with an
/// exec. The number itself stays open, for the server after a reload.
///
/// To be called before the server looks for sockets of the service manager,
/// and [`keep_from_the_server`] after that.
///
/// # Errors
/// The number is no listening socket, or no descriptor is left.
fn take_passed(number: c_int) -> Result<c_int> {
    ListeningSocket::of_the_server(number)?;
    if is_of_the_service_manager(number) {
        locked(&OF_THE_SERVICE_MANAGER).push(number);
    }
    // SAFETY: the server puts the number on a list.
    unsafe { ffi::uwsgi_add_safe_fd(number) };
    // SAFETY: fcntl(2) with two numbers.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error()).context("cannot copy the descriptor");
    }
    Ok(copy)
}

/// The server takes every socket that the service manager passed for one of
/// its own (sd_listen_fds(3)): its workers would accept our clients. Takes ours
/// off its list, before it counts its workers.
pub fn keep_from_the_server() {
    let ours = locked(&OF_THE_SERVICE_MANAGER);
    if ours.is_empty() {
        return;
    }
    // SAFETY: a list of the server's, which has one thread now and is not within a walk
    // of the list; an entry that is taken off is not freed.
    unsafe {
        let mut next = addr_of_mut!((*addr_of_mut!(ffi::uwsgi)).sockets);
        while let Some(socket) = (*next).as_mut() {
            if ours.contains(&socket.fd) {
                *next = socket.next;
            } else {
                next = &mut socket.next;
            }
        }
    }
}

fn is_of_the_service_manager(number: c_int) -> bool {
    let variable = |name| std::env::var(name).ok()?.trim().parse::<u32>().ok();
    variable("LISTEN_PID") == Some(std::process::id())
        && u32::try_from(number).is_ok_and(|number| {
            number >= 3 && variable("LISTEN_FDS").is_some_and(|count| number - 3 < count)
        })
}
