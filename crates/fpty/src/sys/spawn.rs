//! Starts the program of a session; see spawn.c for what happens between
//! vfork(2) and execve(2).

use std::ffi::{CStr, CString};
use std::io;

use super::DescriptorLimit;
use super::child::Pid;
use super::pty::Slave;
use crate::error::{Context, Error, Result};

/// The same in spawn.c.
#[repr(C)]
struct Plan {
    path: *const libc::c_char,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    terminal: libc::c_int,
    own_session: libc::c_int,
    death_signal: libc::c_int,
    restore_nofile: libc::c_int,
    nofile: libc::c_ulong,
    not_default: libc::c_ulong,
}

unsafe extern "C" {
    fn forkpty_spawn(plan: *const Plan, error: *mut libc::c_int) -> libc::pid_t;
    fn forkpty_signals_not_default() -> libc::c_ulong;
}

/// A program with its arguments and environment, ready to be started any
/// number of times, by a process that changes no signal's disposition any
/// more.
pub struct Program {
    path: CString,
    argv: Vec<CString>,
    envp: Vec<CString>,
    nofile: Option<DescriptorLimit>,
    job: bool,
    not_default: libc::c_ulong,
}

impl Program {
    /// A command with a blank goes through `shell -c`, another one is
    /// executed as it is, as the C plugin does.
    pub fn from_command(command: &CStr, shell: &CStr) -> Self {
        let blank = command.to_bytes().iter().any(|byte| matches!(byte, b' ' | b'\t'));
        if blank {
            return Self::through_shell(command, shell);
        }
        Self::of(command.to_owned(), vec![command.to_owned()])
    }

    /// A command that goes through `shell -c`.
    pub fn through_shell(command: &CStr, shell: &CStr) -> Self {
        Self::of(shell.to_owned(), vec![shell.to_owned(), c"-c".to_owned(), command.to_owned()])
    }

    fn of(path: CString, argv: Vec<CString>) -> Self {
        // SAFETY: only asks; no memory of ours is involved.
        let not_default = unsafe { forkpty_signals_not_default() };
        Self { path, argv, envp: Vec::new(), nofile: None, job: false, not_default }
    }

    /// It begins no session: it becomes the foreground job of ours, whose
    /// terminal it gets, and SIGHUP when the calling thread ends.
    pub fn as_job(mut self) -> Self {
        self.job = true;
        self
    }

    /// Sets the whole environment (`NAME=value`).
    pub fn environment(mut self, envp: Vec<CString>) -> Self {
        self.envp = envp;
        self
    }

    /// Gives the program the soft limit of descriptors from before it was raised.
    pub fn descriptor_limit(mut self, limit: Option<DescriptorLimit>) -> Self {
        self.nofile = limit.filter(|limit| limit.before != limit.now);
        self
    }

    /// Starts it as the leader of a new session whose controlling terminal is
    /// `slave` (see [`Program::as_job`] for the exception), with descriptors 0, 1 and 2 on it and no others, every signal
    /// at its default and none blocked. Variables in `more` take the place of those
    /// of the same name. Returns when it has been executed.
    ///
    /// # Errors
    /// It cannot be executed, or there can be no more processes.
    pub fn spawn(&self, slave: &Slave, more: &[CString]) -> Result<Pid> {
        let argv = pointers(&self.argv);
        let kept = self.envp.iter().filter(|pair| !more.iter().any(|new| same_name(pair, new)));
        let envp = pointers(kept.chain(more));
        let plan = Plan {
            path: self.path.as_ptr(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            terminal: slave.as_raw(),
            own_session: (!self.job).into(),
            death_signal: if self.job { libc::SIGHUP } else { 0 },
            restore_nofile: self.nofile.is_some().into(),
            nofile: self.nofile.map_or(0, |limit| limit.before),
            not_default: self.not_default,
        };
        let mut errno = 0;
        // SAFETY: all pointers of the plan are NUL-terminated strings, or
        // NULL-terminated arrays of such, that outlive the call; the child
        // has left our memory when it returns.
        let pid = unsafe { forkpty_spawn(&plan, &mut errno) };
        let Some(pid) = Pid::new(pid) else {
            return Err(io::Error::from_raw_os_error(errno)).context("cannot start a process");
        };
        if errno != 0 {
            pid.reap();
            return Err(self.refusal(errno));
        }
        Ok(pid)
    }

    fn refusal(&self, errno: i32) -> Error {
        let path = self.path.to_string_lossy();
        let hint = match errno {
            libc::ENOENT if !path.contains('/') => " (give a full path)",
            _ => "",
        };
        Error::new(format!("cannot execute {path}: {}{hint}", crate::error::errno_text(errno)))
    }
}

/// Whether two variables (`NAME=value`) have one name.
fn same_name(one: &CStr, other: &CStr) -> bool {
    let name = |pair: &CStr| pair.to_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::len);
    let (one_length, other_length) = (name(one), name(other));
    one_length == other_length
        && one_length.is_some_and(|end| one.to_bytes()[..end] == other.to_bytes()[..end])
}

fn pointers<'a>(strings: impl IntoIterator<Item = &'a CString>) -> Vec<*const libc::c_char> {
    strings
        .into_iter()
        .map(|string| string.as_ptr())
        .chain(std::iter::once(std::ptr::null()))
        .collect()
}
