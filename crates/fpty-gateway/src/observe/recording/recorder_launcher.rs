//! The server's side of the recorder: it is started before privileges, the root or a
//! namespace are given up, and its handle is kept over a reload.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::recording_options::RecordOptions;
use crate::host::host;
use crate::log::log;
use crate::process::ipc::{Hello, encode};
use fpty::error::{Context, Result};
use fpty::sys::WriteOutcome;
use fpty::sys::dir::Dir;
use fpty::sys::shm_queue::Producer;
use fpty::sys::socket::Stream;

use super::producer::RecorderLink;
use super::recorder;

/// The name of the registration socket for the next image of the server.
const NAME: &str = "FORKPTYROUTER_RECORDER";

/// The version of the protocol between gateways and the recorder: a recorder of another
/// version may be left from before a reload.
const PROTOCOL_VERSION: &str = "3";

/// The handle of the recorder, in the server and, by fork(2), in each gateway.
static RECORDER: Mutex<Option<RecorderHandle>> = Mutex::new(None);

struct RecorderHandle {
    stream: Stream,
    /// The folders of its files.
    folders: Vec<PathBuf>,
    /// The uid that started the recorder.
    uid: u32,
    /// The recorder has the same version of the protocol.
    is_compatible: bool,
}

fn handle() -> MutexGuard<'static, Option<RecorderHandle>> {
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the recorder, where something is to be recorded; or takes over that of the image
/// before a reload.
///
/// # Errors
/// A folder cannot be used: the line for the operator.
pub fn start(records: impl Iterator<Item = RecordOptions>) -> Result<()> {
    let before = host().take_kept_sockets(NAME);
    let before = before.and_then(|(fds, note)| RecorderHandle::of(fds.into_iter().next()?, &note));
    let mut folders = Vec::new();
    for folder in records.filter_map(|record| record.dir) {
        let path = absolute(&folder)?;
        if !folders.contains(&path) {
            folders.push(path);
        }
    }
    if folders.is_empty() {
        return Ok(());
    }
    let uid = nix::unistd::geteuid().as_raw();
    if let Some(before) = before.filter(|before| !before.stream.has_hung_up()) {
        if !before.is_compatible && before.uid != uid {
            log("forkptyrouter: nothing is recorded: the recorder is of another version, and the \
                 server has no privileges any more to start another; stop it and start it again");
            return Ok(());
        }
        let other = folders.iter().find(|folder| !before.folders.contains(folder));
        if let Some(other) = other.filter(|_| before.uid != uid) {
            log(&format!(
                "forkptyrouter: recordings still go to {}: the server has no privileges any more \
                 to use {}; stop it and start it again",
                before.folders[0].display(),
                other.display()
            ));
        }
        if before.is_compatible && (other.is_none() || before.uid != uid) {
            before.install();
            return Ok(());
        }
    }
    let mut open = Vec::new();
    for path in &folders {
        let folder = Dir::open(path).context(named(path))?;
        if folder.is_writable_by_others() {
            log(&format!(
                "forkptyrouter: others can take recordings away: {} is theirs, or they may write \
                 there",
                path.display()
            ));
        }
        open.push(folder);
    }
    let stream = recorder::start(open).context("cannot start the recorder")?;
    RecorderHandle { stream, folders, uid, is_compatible: true }.install();
    Ok(())
}

fn named(path: &Path) -> String {
    format!("option forkptyrouter-record = {}", path.display())
}

fn absolute(folder: &OsStr) -> Result<PathBuf> {
    std::path::absolute(folder).context(named(Path::new(folder)))
}

/// Keeps the handle over an exec of the server.
pub fn before_exec() {
    if let Some(handle) = &*handle() {
        let mut note = OsString::from(format!("{} {PROTOCOL_VERSION}", handle.uid));
        for folder in &handle.folders {
            note.push("\n");
            note.push(folder);
        }
        host().keep_over_exec(NAME, &[handle.stream.as_fd()], &note);
    }
}

/// The index of a folder at the recorder; after a reload that changed the options it may
/// be another's.
pub fn folder_number(folder: &OsStr) -> usize {
    let handle = handle();
    let path = absolute(folder).ok();
    let mut folders = handle.iter().flat_map(|handle| &handle.folders);
    folders.position(|known| Some(known) == path.as_ref()).unwrap_or(0)
}

/// The path of a file in the folder of this index.
pub fn file_path(folder: usize, name: &str) -> String {
    let handle = handle();
    let folder = handle.as_ref().and_then(|handle| handle.folders.get(folder));
    folder.map_or_else(|| name.to_owned(), |folder| folder.join(name).display().to_string())
}

/// Connects to the recorder, with a queue, and, where the recorder before had that queue, a
/// second one with its sessions; `None`: there is no recorder.
pub fn connect(hello: &Hello, queue: Producer, before: Option<&Producer>) -> Option<RecorderLink> {
    let (channel, its_channel) = Stream::pair().ok()?;
    let mut descriptors = vec![queue.as_fd(), its_channel.as_fd()];
    descriptors.extend(before.map(AsFd::as_fd));
    let sent = handle().as_ref()?.stream.write_with_descriptors(&encode(hello), &descriptors);
    matches!(sent, WriteOutcome::Bytes(_)).then_some(RecorderLink { queue, channel })
}

impl RecorderHandle {
    fn install(self) {
        host().inherited_by_gateways_only(self.stream.as_fd());
        *handle() = Some(self);
    }

    /// The handle that was kept with this note.
    fn of(fd: OwnedFd, note: &OsStr) -> Option<Self> {
        let mut lines = note.as_bytes().split(|byte| *byte == b'\n');
        let mut first = std::str::from_utf8(lines.next()?).ok()?.split(' ');
        let uid = first.next()?.parse().ok()?;
        let is_compatible = first.next() == Some(PROTOCOL_VERSION);
        let folders: Vec<_> = lines.map(|line| PathBuf::from(OsStr::from_bytes(line))).collect();
        let stream = Stream::from(fd);
        (!folders.is_empty()).then_some(Self { stream, folders, uid, is_compatible })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorder_of_another_version_is_known() {
        let of = |note: &str| {
            let (fd, _) = Stream::pair().expect("a pair");
            RecorderHandle::of(OwnedFd::from(fd), OsStr::new(note))
        };
        let read =
            |note| of(note).map(|handle| (handle.uid, handle.is_compatible, handle.folders.len()));
        assert_eq!(read("7 3\n/a\n/b"), Some((7, true, 2)));
        assert_eq!(read("7\n/a"), Some((7, false, 1)));
        assert_eq!(read("x 3\n/a"), None);
    }
}
