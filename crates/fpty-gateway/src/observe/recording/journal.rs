//! The recorder's journal, for the recorder after a killed one.
//!
//! A batch stays in a gateway's queue until it is in the files: the next recorder finds it
//! there again. So what a killed recorder has written of a batch that was not done must come
//! out of the files, or it would be there twice. Before the first write to a file its length
//! goes into this journal, in memory of the process that starts the next recorder.
//!
//! One queue at a time: the entries are those of the batch that is being written, and the
//! batch is done when its queue says so.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::process::ipc::{decode, encode};
use crate::process::shared_memory;
use fpty::sys::dir::Dir;
use fpty::sys::shm::SharedMemory;

/// The most files of a batch: more than its messages can name.
const MAX_ENTRIES: usize = 1 << 15;

/// Words before the entries: their count, the queue, and its start once the batch is done.
const HEAD: usize = 3;

/// Words of an entry: its length, and the entry as JSON.
const WORDS: usize = 1 + 48;

/// The journal.
pub struct Journal {
    memory: SharedMemory<AtomicU64>,
    /// The number of the batch.
    batch: Cell<u64>,
}

/// A file before a batch changes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The index of the file's folder.
    pub folder: usize,
    /// The name.
    pub name: String,
    /// The inode.
    pub inode: u64,
    /// The length.
    pub length: u64,
    /// The batch creates the file.
    pub is_new: bool,
}

/// A batch that was not done, perhaps.
pub struct UnfinishedBatch {
    /// The queue of the batch.
    pub queue: u64,
    next_start: u64,
    entries: Vec<Entry>,
}

impl Journal {
    /// A journal in memory that children share.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self { memory: SharedMemory::new(HEAD + MAX_ENTRIES * WORDS)?, batch: Cell::new(1) })
    }

    /// Starts a batch of a queue, which starts at `next_start` when the batch is done.
    pub fn begin(&self, queue: u64, next_start: u64) {
        let words = self.memory.words();
        words[0].store(0, Ordering::Release);
        words[1].store(queue, Ordering::Relaxed);
        words[2].store(next_start, Ordering::Relaxed);
        self.batch.set(self.batch.get() + 1);
    }

    /// The batch is done.
    pub fn end(&self) {
        self.memory.words()[0].store(0, Ordering::Release);
    }

    /// The number of the batch: a file is noted once in each.
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

    /// Takes what the recorder before has left.
    pub fn take(&self) -> Option<UnfinishedBatch> {
        let (head, entries) = self.memory.words().split_at(HEAD);
        let count = usize::try_from(head[0].swap(0, Ordering::Acquire)).unwrap_or(0);
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let read = |words: &[AtomicU64]| {
            let (length, words) = words.split_first()?;
            decode(&shared_memory::read(words, usize::try_from(word(length)).ok()?))
        };
        let entries: Vec<Entry> = entries.chunks(WORDS).take(count).filter_map(read).collect();
        let unfinished =
            UnfinishedBatch { queue: word(&head[1]), next_start: word(&head[2]), entries };
        (!unfinished.entries.is_empty()).then_some(unfinished)
    }
}

impl UnfinishedBatch {
    /// Takes what the batch has written out of the files, unless it was done: then its
    /// queue has the next start.
    pub fn undo(self, next_start: u64, folders: &[Dir]) {
        if next_start == self.next_start {
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
        let folders = [Dir::open(place.path()).expect("a folder")];
        let text = |name: &str| std::fs::read_to_string(place.path().join(name));
        let made = |name: &str| {
            let mut file = folders[0].create(name).expect("a file");
            file.write_all(b"before").expect("bytes");
            let inode = file.metadata().expect("a file").ino();
            (file, Entry { folder: 0, name: name.into(), inode, length: 6, is_new: false })
        };
        let journal = Journal::new().expect("memory");
        assert!(journal.take().is_none());
        for is_over in [true, false] {
            let suffix = if is_over { "over" } else { "not" };
            let (mut one, entry) = made(&format!("one-{suffix}"));
            let (_new, new) = made(&format!("new-{suffix}"));
            let (_other, other) = made(&format!("other-{suffix}"));
            let before = journal.batch();
            journal.begin(7, 100);
            assert_ne!(journal.batch(), before);
            journal.note(&entry);
            journal.note(&Entry { is_new: true, ..new.clone() });
            journal.note(&Entry { inode: other.inode + 1000, length: 1, ..other.clone() });
            one.write_all(b", and behind").expect("bytes");
            let unfinished = journal.take().expect("entries");
            assert_eq!(unfinished.queue, 7);
            assert_eq!(unfinished.entries[0], entry);
            unfinished.undo(if is_over { 100 } else { 50 }, &folders);
            let wanted = if is_over { "before, and behind" } else { "before" };
            assert_eq!(text(&entry.name).expect("a file"), wanted);
            assert_eq!(text(&new.name).is_ok(), is_over);
            assert_eq!(text(&other.name).expect("a file"), "before");
        }
        journal.begin(7, 100);
        journal.note(&made("third").1);
        journal.end();
        assert!(journal.take().is_none());
    }
}
