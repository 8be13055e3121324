//! What the recorder was about to write when it was killed.
//!
//! What it takes out of a gateway's queue stays there until it is in the files:
//! the next recorder finds it again. So what one has written of that and was not
//! done with must come out of its files, or it would be there twice. Before the
//! first write to a file it notes here how long that is, in memory of the
//! process that starts the next one.
//!
//! One queue at a time: the entries are those of the batch that is being
//! written, and the batch is over when its queue says so.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::process::ipc::{decode, encode};
use crate::process::shared_memory;
use fpty::sys::dir::Folder;
use fpty::sys::shm::Shared;

/// Files of a batch: more than messages that come at once can name.
const MOST: usize = 1 << 15;

/// Words before the entries: how many, of which queue, and where that begins
/// once the batch is over.
const HEAD: usize = 3;

/// Words of an entry: how long it is, and the entry, whatever its name.
const WORDS: usize = 1 + 48;

/// The memory.
pub struct Ledger {
    memory: Shared<AtomicU64>,
    /// Which batch it is.
    batch: Cell<u64>,
}

/// A file, as it is before a batch changes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its folder's number.
    pub folder: usize,
    /// Its name.
    pub name: String,
    /// Its inode.
    pub inode: u64,
    /// Its length.
    pub length: u64,
    /// It is made by this batch.
    pub is_new: bool,
}

/// A batch that was not finished, perhaps.
pub struct Unfinished {
    queue: u64,
    begins_at: u64,
    entries: Vec<Entry>,
}

impl Ledger {
    /// Memory for one; all that is forked from here shares it.
    ///
    /// # Errors
    /// There is none.
    pub fn new() -> io::Result<Self> {
        Ok(Self { memory: Shared::new(HEAD + MOST * WORDS)?, batch: Cell::new(1) })
    }

    /// A batch begins: what comes of a queue, which begins there when the batch
    /// is over.
    pub fn begin(&self, queue: u64, begins_at: u64) {
        let words = self.memory.words();
        words[0].store(0, Ordering::Release);
        words[1].store(queue, Ordering::Relaxed);
        words[2].store(begins_at, Ordering::Relaxed);
        self.batch.set(self.batch.get() + 1);
    }

    /// It is over.
    pub fn end(&self) {
        self.memory.words()[0].store(0, Ordering::Release);
    }

    /// Which batch it is: a file is noted once in each.
    pub fn batch(&self) -> u64 {
        self.batch.get()
    }

    /// Notes a file, before the batch writes to it.
    pub fn note(&self, entry: &Entry) {
        let (count, entries) = self.memory.words().split_at(HEAD);
        let number = count[0].load(Ordering::Relaxed);
        let place = usize::try_from(number).ok().and_then(|at| entries.chunks(WORDS).nth(at));
        let (Some([length, words @ ..]), text) = (place, encode(entry)) else { return };
        if !shared_memory::write(words, &text) {
            return;
        }
        length.store(text.len() as u64, Ordering::Relaxed);
        // Last: what is not complete is not there.
        count[0].store(number + 1, Ordering::Release);
    }

    /// What a recorder before us has left here.
    pub fn take(&self) -> Option<Unfinished> {
        let (head, entries) = self.memory.words().split_at(HEAD);
        let count = usize::try_from(head[0].swap(0, Ordering::Acquire)).unwrap_or(0);
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let read = |words: &[AtomicU64]| {
            let (length, words) = words.split_first()?;
            decode(&shared_memory::read(words, usize::try_from(word(length)).ok()?))
        };
        let entries: Vec<Entry> = entries.chunks(WORDS).take(count).filter_map(read).collect();
        let unfinished = Unfinished { queue: word(&head[1]), begins_at: word(&head[2]), entries };
        (!unfinished.entries.is_empty()).then_some(unfinished)
    }
}

impl Unfinished {
    /// Whether it is of this queue.
    pub fn is_of(&self, queue: u64) -> bool {
        self.queue == queue
    }

    /// Takes out of the files what the batch has written, unless it was over:
    /// its queue begins where it would then.
    pub fn undo(self, begins_at: u64, folders: &[Folder]) {
        if begins_at == self.begins_at {
            return;
        }
        for entry in self.entries {
            let Some(folder) = folders.get(entry.folder) else { continue };
            let length = (!entry.is_new).then_some(entry.length);
            // What is another file by now is not ours to change.
            let _ = folder.cut(&entry.name, entry.inode, length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_was_not_finished_is_undone_and_nothing_else() {
        let place = tempfile::tempdir().expect("a directory");
        let folders = [Folder::open(place.path()).expect("a folder")];
        let text = |name: &str| std::fs::read_to_string(place.path().join(name));
        let made = |name: &str| {
            let mut file = folders[0].create(name).expect("a file");
            file.write_all(b"before").expect("bytes");
            let inode = file.metadata().expect("a file").ino();
            (file, Entry { folder: 0, name: name.into(), inode, length: 6, is_new: false })
        };
        let ledger = Ledger::new().expect("memory");
        assert!(ledger.take().is_none());
        for is_over in [true, false] {
            let suffix = if is_over { "over" } else { "not" };
            let (mut one, entry) = made(&format!("one-{suffix}"));
            let (_new, new) = made(&format!("new-{suffix}"));
            let (_other, other) = made(&format!("other-{suffix}"));
            let before = ledger.batch();
            ledger.begin(7, 100);
            assert_ne!(ledger.batch(), before);
            ledger.note(&entry);
            ledger.note(&Entry { is_new: true, ..new.clone() });
            ledger.note(&Entry { inode: other.inode + 1000, length: 1, ..other.clone() });
            one.write_all(b", and behind").expect("bytes");
            let unfinished = ledger.take().expect("entries");
            assert!(unfinished.is_of(7) && !unfinished.is_of(8));
            assert_eq!(unfinished.entries[0], entry);
            unfinished.undo(if is_over { 100 } else { 50 }, &folders);
            let wanted = if is_over { "before, and behind" } else { "before" };
            assert_eq!(text(&entry.name).expect("a file"), wanted);
            assert_eq!(text(&new.name).is_ok(), is_over);
            assert_eq!(text(&other.name).expect("a file"), "before");
        }
        ledger.begin(7, 100);
        ledger.note(&made("third").1);
        ledger.end();
        assert!(ledger.take().is_none());
    }
}
