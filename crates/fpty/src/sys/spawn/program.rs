//! Program to execute: paths, arguments and environment, user and working directory.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use crate::error::Error;
use crate::sys::DescriptorLimit;
use crate::text::shown_within;

/// Limit of a name that is shown, in bytes.
const LONGEST_NAME: usize = 512;

unsafe extern "C" {
    fn forkpty_signals_not_default() -> libc::c_ulong;
}

/// A program with its arguments and environment, ready to be started any
/// number of times, by a process that changes no signal's disposition any
/// more.
pub struct Program {
    /// Paths of the program, of which the first that exists is executed.
    pub(super) paths: Vec<CString>,
    pub(super) argv: Vec<CString>,
    pub(super) job: bool,
    pub(super) not_default: libc::c_ulong,
    pub(super) surroundings: Arc<ExecEnvironment>,
}

/// Surroundings of a program: its environment, limits, working directory and user; by
/// default those of this process.
#[derive(Debug, Default)]
pub struct ExecEnvironment {
    /// The whole environment (`NAME=value`).
    pub environment: Vec<CString>,
    /// The limit of descriptors, of which the program gets the soft one from before.
    pub descriptor_limit: Option<DescriptorLimit>,
    /// The working directory.
    pub folder: Option<CString>,
    /// The user.
    pub user: Option<ProgramUser>,
}

/// The user and the groups that a program runs as; it has no other groups.
#[derive(Debug)]
pub struct ProgramUser {
    /// The uid.
    pub uid: u32,
    /// The gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Step that failed, by its number above the errno; the same numbers are in spawn.c.
const STEP_USER: i32 = 1;
const STEP_FOLDER: i32 = 2;

impl Program {
    /// A command with a blank goes through `shell -c`, another one is
    /// executed as it is, as the C plugin does.
    pub fn from_command(command: &CStr, shell: &CStr) -> Self {
        let blank = command.to_bytes().iter().any(|byte| matches!(byte, b' ' | b'\t'));
        if blank {
            return Self::through_shell(command, shell);
        }
        Self::of(vec![command.to_owned()], vec![command.to_owned()])
    }

    /// A command that goes through `shell -c`.
    pub fn through_shell(command: &CStr, shell: &CStr) -> Self {
        let argv = vec![shell.to_owned(), c"-c".to_owned(), command.to_owned()];
        Self::of(vec![shell.to_owned()], argv)
    }

    /// A program with its arguments, its name the first of them: looked for
    /// along this PATH where it has no slash in it, as execvp(3) does.
    pub fn with_arguments(argv: Vec<CString>, path: &[u8]) -> Self {
        let name = argv.first().map(|name| name.to_bytes()).unwrap_or_default();
        let folders: Vec<&[u8]> = match name.contains(&b'/') || name.is_empty() {
            true => Vec::new(),
            false => path.split(|byte| *byte == b':').collect(),
        };
        let in_folder = |folder: &&[u8]| match folder {
            // The current one.
            [] => CString::new(name),
            _ => CString::new([*folder, b"/", name].concat()),
        };
        let mut paths: Vec<CString> = folders.iter().filter_map(|f| in_folder(f).ok()).collect();
        if paths.is_empty() {
            paths.extend(argv.first().cloned());
        }
        Self::of(paths, argv)
    }

    fn of(paths: Vec<CString>, argv: Vec<CString>) -> Self {
        // SAFETY: only asks; no memory of ours is involved.
        let not_default = unsafe { forkpty_signals_not_default() };
        Self { paths, argv, job: false, not_default, surroundings: Arc::default() }
    }

    /// Makes the program the foreground job of our session, instead of a session of its
    /// own: it gets our terminal, and SIGHUP when the calling thread ends.
    pub fn as_foreground_job(mut self) -> Self {
        self.job = true;
        self
    }

    /// Puts the program into surroundings, which many programs may share.
    pub fn within(mut self, surroundings: Arc<ExecEnvironment>) -> Self {
        self.surroundings = surroundings;
        self
    }

    /// The surroundings of the program.
    pub fn surroundings(&self) -> &Arc<ExecEnvironment> {
        &self.surroundings
    }

    /// The user that it runs as, where that is another one.
    pub fn user(&self) -> Option<u32> {
        self.surroundings.user.as_ref().map(|user| user.uid)
    }

    /// A variable of the program's environment.
    pub fn variable(&self, name: &[u8]) -> Option<&[u8]> {
        let mut pairs = self.surroundings.environment.iter().map(|pair| pair.to_bytes());
        pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
    }

    /// The error of a program that could not be executed, from its failure code.
    pub fn refusal(&self, failure: i32) -> Error {
        let (step, errno) = (failure >> 16, failure & 0xffff);
        let reason = crate::error::errno_text(errno);
        if step == STEP_USER {
            let uid = self.user().unwrap_or_default();
            return Error::new(format!("cannot become user {uid}: {reason}"));
        }
        if step == STEP_FOLDER {
            let folder = self.surroundings.folder.as_ref().map(|folder| folder.to_string_lossy());
            let folder = folder.unwrap_or_default();
            return Error::new(format!("cannot change to folder {folder}: {reason}"));
        }
        let name = self.argv.first().map(|name| name.to_string_lossy()).unwrap_or_default();
        let path = match self.paths.as_slice() {
            [one] => one.to_string_lossy(),
            _ => name,
        };
        // Whoever asks for it may have called it anything.
        let path = shown_within(&path, LONGEST_NAME);
        let hint = match errno {
            libc::ENOENT if self.paths.len() > 1 => " (in no folder of PATH)",
            libc::ENOENT if !path.contains('/') => " (give a full path)",
            _ => "",
        };
        Error::new(format!("cannot execute {path}: {reason}{hint}"))
    }
}

/// An environment in which some variables (`NAME=value`) take the place of
/// those of the same name.
pub fn with_variables(mut environment: Vec<CString>, more: &[CString]) -> Vec<CString> {
    environment.retain(|pair| !more.iter().any(|new| name(pair) == name(new)));
    environment.extend(more.iter().cloned());
    environment
}

/// The name of a variable (`NAME=value`).
pub(super) fn name(pair: &CStr) -> Option<&[u8]> {
    pair.to_bytes().split(|byte| *byte == b'=').next()
}
