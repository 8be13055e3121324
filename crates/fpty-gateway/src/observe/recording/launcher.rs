//! The server's side of the recorder: it is started before anything is given up
//! (privileges, the root, a namespace), and kept over a reload.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::recording::Record;
use crate::host::host;
use crate::log::log;
use crate::process::ipc::{Hello, encode};
use fpty::error::{Context, Result};
use fpty::sys::Written;
use fpty::sys::dir::Folder;
use fpty::sys::shm_queue::Giver;
use fpty::sys::socket::Stream;

use super::recorder;

/// What the door is called where the next image of the server looks for it.
const NAME: &str = "FORKPTYROUTER_RECORDER";

/// How gateways and the recorder speak: one of another version of ours, which was
/// there before a reload, understands nothing of it.
const SPEAKS: &str = "3";

/// The door to the recorder, in the server and, by a fork, in each gateway.
static DOOR: Mutex<Option<Door>> = Mutex::new(None);

struct Door {
    stream: Stream,
    /// Where the recorder makes its files.
    folders: Vec<PathBuf>,
    /// Who started it.
    uid: u32,
    /// It understands us.
    understands: bool,
}

fn door() -> MutexGuard<'static, Option<Door>> {
    DOOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the recorder, where something is to be recorded; or takes over the
/// one of the server's image before a reload.
///
/// # Errors
/// A folder cannot be used: the line for the operator.
pub fn open(records: impl Iterator<Item = Record>) -> Result<()> {
    let before = host().take_kept_sockets(NAME);
    let before = before.and_then(|(fds, note)| Door::of(fds.into_iter().next()?, &note));
    let mut folders = Vec::new();
    for folder in records.filter_map(|record| record.folder) {
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
        if !before.understands && before.uid != uid {
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
        if before.understands && (other.is_none() || before.uid != uid) {
            before.install();
            return Ok(());
        }
    }
    let mut open = Vec::new();
    for path in &folders {
        let folder = Folder::open(path).context(named(path))?;
        if folder.is_open_to_others() {
            log(&format!(
                "forkptyrouter: others can take recordings away: {} is theirs, or they may write \
                 there",
                path.display()
            ));
        }
        open.push(folder);
    }
    let stream = recorder::start(open).context("cannot start the recorder")?;
    Door { stream, folders, uid, understands: true }.install();
    Ok(())
}

fn named(path: &Path) -> String {
    format!("option forkptyrouter-record = {}", path.display())
}

fn absolute(folder: &OsStr) -> Result<PathBuf> {
    std::path::absolute(folder).context(named(Path::new(folder)))
}

/// The server is about to execute itself anew: the next image takes over.
pub fn keep() {
    if let Some(door) = &*door() {
        let mut note = OsString::from(format!("{} {SPEAKS}", door.uid));
        for folder in &door.folders {
            note.push("\n");
            note.push(folder);
        }
        host().keep_over_exec(NAME, &[door.stream.as_fd()], &note);
    }
}

/// The number of a folder, as the recorder has it; after a reload that changed
/// it that may be another's.
pub fn number(folder: &OsStr) -> usize {
    let door = door();
    let path = absolute(folder).ok();
    let folders = door.iter().flat_map(|door| &door.folders);
    folders
        .zip(0..)
        .find(|(known, _)| Some(*known) == path.as_ref())
        .map_or(0, |(_, number)| number)
}

/// The path of a file in the folder of this number.
pub fn path(folder: usize, name: &str) -> String {
    let door = door();
    let folder = door.as_ref().and_then(|door| door.folders.get(folder));
    folder.map_or_else(|| name.to_owned(), |folder| folder.join(name).display().to_string())
}

/// Sends a recorder a queue and a channel, and another queue with what is to be
/// known of the first one. Returns whether there is one.
pub fn enter(hello: &Hello, queue: &Giver, channel: &Stream, before: Option<&Giver>) -> bool {
    let door = door();
    let mut descriptors = vec![queue.as_fd(), channel.as_fd()];
    descriptors.extend(before.map(AsFd::as_fd));
    let said = encode(hello);
    let sent = door.as_ref().map(|door| door.stream.write_with_descriptors(&said, &descriptors));
    matches!(sent, Some(Written::Bytes(_)))
}

impl Door {
    fn install(self) {
        host().inherited_by_gateways_only(self.stream.as_fd());
        *door() = Some(self);
    }

    /// One that was kept, under this note.
    fn of(fd: OwnedFd, note: &OsStr) -> Option<Self> {
        let mut lines = note.as_bytes().split(|byte| *byte == b'\n');
        let mut first = std::str::from_utf8(lines.next()?).ok()?.split(' ');
        let uid = first.next()?.parse().ok()?;
        let understands = first.next() == Some(SPEAKS);
        let folders: Vec<_> = lines.map(|line| PathBuf::from(OsStr::from_bytes(line))).collect();
        let stream = Stream::from(fd);
        (!folders.is_empty()).then_some(Self { stream, folders, uid, understands })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorder_of_another_version_is_known() {
        let of = |note: &str| {
            let (fd, _) = Stream::pair().expect("a pair");
            Door::of(OwnedFd::from(fd), OsStr::new(note))
        };
        let read = |note| of(note).map(|door| (door.uid, door.understands, door.folders.len()));
        assert_eq!(read("7 3\n/a\n/b"), Some((7, true, 2)));
        assert_eq!(read("7\n/a"), Some((7, false, 1)));
        assert_eq!(read("x 3\n/a"), None);
    }
}
