//! The server's side of the recorder: it is started before anything is given up
//! (privileges, the root, a namespace), and kept over a reload.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::record::Record;
use crate::uwsgi::{kept, log::log};
use fpty::error::{Context, Result};
use fpty::sys::Written;
use fpty::sys::folder::Folder;
use fpty::sys::socket::Stream;

use super::process;

/// What the door is called where the next image of the server looks for it.
const NAME: &str = "FORKPTYROUTER_RECORDER";

/// The door to the recorder, in the server and, by a fork, in each gateway.
static DOOR: Mutex<Option<Door>> = Mutex::new(None);

struct Door {
    stream: Stream,
    /// Where the recorder makes its files.
    folder: PathBuf,
    /// Who started it.
    uid: u32,
}

fn door() -> MutexGuard<'static, Option<Door>> {
    DOOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the recorder, where something is to be recorded; or takes over the
/// one of the server's image before a reload.
///
/// # Errors
/// The folder cannot be used: the line for the operator.
pub fn open(record: &Record) -> Result<()> {
    let before = kept::take(NAME).and_then(|(fd, note)| Door::of(fd, &note));
    let Some(folder) = &record.folder else {
        return Ok(());
    };
    let typed = Path::new(folder);
    let what = || format!("option forkptyrouter-record = {}", typed.display());
    let path = std::path::absolute(typed).context(what())?;
    let uid = nix::unistd::geteuid().as_raw();
    if let Some(before) = before.filter(|before| !before.stream.has_hung_up()) {
        let is_the_same = before.folder == path;
        if !is_the_same && before.uid != uid {
            log(&format!(
                "forkptyrouter: recordings still go to {}: the server has no privileges any more \
                 to use {}; stop it and start it again",
                before.folder.display(),
                path.display()
            ));
        }
        if is_the_same || before.uid != uid {
            before.install();
            return Ok(());
        }
    }
    let open = Folder::open(&path).context(what())?;
    if open.is_open_to_others() {
        log(&format!(
            "forkptyrouter: others can take recordings away: {} is theirs, or they may write there",
            path.display()
        ));
    }
    let stream = process::start(vec![open]).context("cannot start the recorder")?;
    Door { stream, folder: path, uid }.install();
    Ok(())
}

/// The server is about to execute itself anew: the next image takes over.
pub fn keep() {
    if let Some(door) = &*door() {
        let mut note = OsString::from(format!("{}:", door.uid));
        note.push(&door.folder);
        kept::keep(NAME, door.stream.as_fd(), &note);
    }
}

/// Whoever has nothing to do with recordings closes it.
pub fn close() {
    *door() = None;
}

/// Where files are made.
pub fn folder() -> Option<PathBuf> {
    door().as_ref().map(|door| door.folder.clone())
}

/// Sends a recorder a queue and a channel. Returns whether there is one.
pub fn enter(queue: &OwnedFd, channel: &Stream) -> bool {
    let door = door();
    let sent = door
        .as_ref()
        .map(|door| door.stream.write_with_descriptors(b"+", &[queue.as_fd(), channel.as_fd()]));
    matches!(sent, Some(Written::Bytes(_)))
}

impl Door {
    fn install(self) {
        kept::protect(self.stream.as_fd());
        *door() = Some(self);
    }

    /// One that was kept, under this note.
    fn of(fd: OwnedFd, note: &OsStr) -> Option<Self> {
        let colon = note.as_bytes().iter().position(|byte| *byte == b':')?;
        let (uid, folder) = note.as_bytes().split_at(colon);
        let uid = std::str::from_utf8(uid).ok()?.parse().ok()?;
        let folder = PathBuf::from(OsStr::from_bytes(&folder[1..]));
        Some(Self { stream: Stream::from(fd), folder, uid })
    }
}
