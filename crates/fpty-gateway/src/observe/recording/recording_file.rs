//! The file of one session's recording, from its first line to its trailer.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

use sha2::{Digest, Sha256};

use super::asciicast::Asciicast;
use super::journal::{Entry, Journal};
use super::recorder_protocol::{Begin, Failure, Kind, Message, Resume};
use crate::observe::audit::RecordingResult;
use fpty::error::reason;
use fpty::sys::Size;
use fpty::sys::dir::Dir;

/// The room of the trailer below the limit, in bytes.
const TRAILER_ROOM: u64 = 512;

/// The most capacity of a buffer that a recording keeps, in bytes.
const KEPT_CAPACITY: usize = 32 * 1024;

/// The most names that are tried where a file exists.
const NAME_ATTEMPTS: u32 = 20;

/// The file of a recording.
pub struct RecordingFile {
    name: String,
    /// The name of the recording.
    pub of: RecordingName,
    part: u32,
    inode: u64,
    file: File,
    /// The last batch that has written to the file.
    batch: u64,
    asciicast: Asciicast,
    hash: Sha256,
    /// Unwritten lines.
    lines: Vec<u8>,
    /// The ends of lines with bytes of the session, and how many bytes.
    ends: Vec<(usize, usize)>,
    /// The length of the file.
    written: u64,
    limit: u64,
    dropped: u64,
    /// The time of the last message.
    at: u64,
    /// The start of the file, in the time of messages.
    from: u64,
    /// The reason why nothing more is written but the trailer.
    failure: Option<Failure>,
}

/// The name of a recording: the index of its folder, and its stem.
pub type RecordingName = (usize, String);

impl RecordingFile {
    /// Creates the file.
    ///
    /// # Errors
    /// The text of errno.
    pub fn begin(folder: &Dir, begin: &Begin, journal: &Journal) -> Result<Self, Failure> {
        let mut failure = io::ErrorKind::AlreadyExists.into();
        for number in 1..=NAME_ATTEMPTS {
            let name = match number {
                1 => begin.file(),
                _ => format!("{}-{number}.cast", begin.stem()),
            };
            match folder.create(&name) {
                Ok(file) => {
                    let mut recording = Self::of(name, file, begin);
                    recording.journal_length(journal, true);
                    return Ok(recording);
                }
                Err(error) => failure = error,
            }
            if failure.kind() != io::ErrorKind::AlreadyExists {
                break;
            }
        }
        Err(Failure::Error(reason(&failure)))
    }

    /// Creates the next file of a session, at this message.
    ///
    /// # Errors
    /// The system's words.
    pub fn resume(
        folder: &Dir,
        resume: &Resume,
        message: Message<'_>,
        journal: &Journal,
    ) -> Result<Self, Failure> {
        let mut begin = resume.begin.clone();
        begin.part += 1;
        begin.head.timestamp = begin.head.timestamp.saturating_add(message.at / 1_000_000);
        let recording = Self::begin(folder, &begin, journal)?;
        Ok(Self { from: message.at, dropped: resume.dropped, ..recording })
    }

    fn of(name: String, file: File, begin: &Begin) -> Self {
        let mut lines = Vec::new();
        let asciicast = Asciicast::begin(&begin.head, &mut lines);
        Self {
            name,
            of: (begin.folder, begin.name.clone()),
            part: begin.part,
            inode: file.metadata().map_or(0, |file| file.ino()),
            file,
            batch: 0,
            asciicast,
            hash: Sha256::new(),
            lines,
            ends: Vec::new(),
            written: 0,
            limit: begin.limit.map_or(u64::MAX, |limit| limit.saturating_sub(TRAILER_ROOM)),
            dropped: 0,
            at: 0,
            from: 0,
            failure: None,
        }
    }

    /// The part, the missing bytes so far, and why nothing more is written, if that is so.
    pub fn progress(&self) -> (u32, u64, Option<Failure>) {
        (self.part, self.dropped, self.failure.clone())
    }

    /// Notes the length in the journal, before a batch changes the file.
    fn journal_length(&mut self, journal: &Journal, is_new: bool) {
        if self.batch == journal.batch() {
            return;
        }
        self.batch = journal.batch();
        // It may be shorter than what was written: somebody has emptied it.
        let length = self.file.metadata().map_or(self.written, |file| file.len());
        let (folder, name, inode) = (self.of.0, self.name.clone(), self.inode);
        journal.note(&Entry { folder, name, inode, length, is_new });
    }

    /// Borrows the unused buffer, where it has none of its own.
    pub fn borrow_buffer(&mut self, spare_buffer: &mut Vec<u8>) {
        if self.lines.capacity() == 0 {
            std::mem::swap(&mut self.lines, spare_buffer);
        }
    }

    /// Returns a large buffer: a thousand sessions that were busy once do not keep one
    /// each.
    pub fn return_buffer(&mut self, spare_buffer: &mut Vec<u8>) {
        if self.lines.is_empty() && self.lines.capacity() > KEPT_CAPACITY {
            let room = std::mem::take(&mut self.lines);
            if room.capacity() > spare_buffer.capacity() {
                *spare_buffer = room;
            }
        }
    }

    /// Encodes a message of the session.
    ///
    /// # Errors
    /// Nothing more is written from here on, but the trailer.
    pub fn note(&mut self, message: Message<'_>, journal: &Journal) -> Result<(), Failure> {
        let message = Message { at: message.at.saturating_sub(self.from), ..message };
        let Message { kind, at, body, .. } = message;
        self.at = self.at.max(at);
        let is_of_session = matches!(kind, Kind::Output | Kind::Input);
        if kind == Kind::Missing || self.failure.is_some() {
            self.dropped = self.dropped.saturating_add(message.lost());
        }
        if self.failure.is_some() {
            return Ok(());
        }
        let (before, asciicast) = (self.lines.len(), self.asciicast.clone());
        self.line(message);
        let mut there = body.len();
        while self.written + self.lines.len() as u64 > self.limit {
            // As much of it as there is room for.
            self.lines.truncate(before);
            self.asciicast = asciicast.clone();
            there = if is_of_session { there * 3 / 4 } else { 0 };
            if there == 0 {
                break;
            }
            self.line(Message { body: &body[..there], ..message });
        }
        if is_of_session {
            self.ends.push((self.lines.len(), there));
            self.dropped += (body.len() - there) as u64;
        }
        if there == body.len() {
            return Ok(());
        }
        self.write(journal)?;
        self.failure = Some(Failure::Full);
        Err(Failure::Full)
    }

    fn line(&mut self, message: Message<'_>) {
        let Message { kind, at, body, .. } = message;
        match kind {
            Kind::Output => self.asciicast.output(at, body, &mut self.lines),
            Kind::Input => self.asciicast.input(at, body, &mut self.lines),
            Kind::Missing => {
                let missing = message.lost();
                self.asciicast.mark(at, &format!("{missing} bytes are missing"), &mut self.lines);
            }
            Kind::Resize => {
                if let [r1, r2, c1, c2] = *body {
                    let (rows, cols) = (u16::from_le_bytes([r1, r2]), u16::from_le_bytes([c1, c2]));
                    self.asciicast.resize(at, Size { rows, cols }, &mut self.lines);
                }
            }
            Kind::Begin | Kind::End | Kind::Resume | Kind::Rest | Kind::Over => {}
        }
    }

    /// Writes the unwritten lines.
    ///
    /// # Errors
    /// As [`RecordingFile::note`]. The file then ends with a whole line.
    pub fn write(&mut self, journal: &Journal) -> Result<(), Failure> {
        if !self.lines.is_empty() {
            self.journal_length(journal, false);
        }
        let (count, outcome) = write_all(&mut self.file, &self.lines);
        let last = self.lines[..count].iter().rposition(|byte| *byte == b'\n');
        let whole = last.map_or(0, |at| at + 1);
        self.hash.update(&self.lines[..whole]);
        self.written += whole as u64;
        self.lines.clear();
        let lost: usize =
            self.ends.drain(..).filter(|(end, _)| *end > whole).map(|(_, length)| length).sum();
        self.dropped += lost as u64;
        let Err(error) = outcome else {
            return Ok(());
        };
        self.truncate_tail(count - whole);
        self.failure = Some(Failure::Error(reason(&error)));
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Truncates bytes off the end: the file may be shorter than what was written, if
    /// somebody has emptied it.
    fn truncate_tail(&self, count: usize) {
        let length = self.file.metadata().map_or(0, |file| file.len());
        if count > 0 && length >= count as u64 {
            let _ = self.file.set_len(length - count as u64);
        }
    }

    /// Ends the recording, with the exit status where it is known. Returns the result.
    pub fn end(mut self, status: Option<i32>, journal: &Journal) -> RecordingResult {
        if matches!(self.failure, None | Some(Failure::Full)) {
            self.asciicast.end(self.at, status, &mut self.lines);
        }
        let _ = self.write(journal);
        let sha256 = format!("{:x}", std::mem::take(&mut self.hash).finalize());
        let mut line = Vec::new();
        self.asciicast.trailer(self.written, &sha256, self.dropped, &mut line);
        self.journal_length(journal, false);
        // Where it does not fit it is not there, and nothing of it.
        match write_all(&mut self.file, &line) {
            (count, Ok(())) => self.written += count as u64,
            (count, Err(_)) => self.truncate_tail(count),
        }
        let (path, bytes, dropped) = (self.name, Some(self.written), self.dropped);
        // The hash is that of the whole file then.
        RecordingResult { path, bytes, dropped, sha256: Some(sha256) }
    }
}

/// Writes as much as there is room for. Returns how much that was.
fn write_all(file: &mut File, mut bytes: &[u8]) -> (usize, io::Result<()>) {
    let all = bytes.len();
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return (all - bytes.len(), Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (all - bytes.len(), Err(error)),
        }
    }
    (all, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(limit: Option<u64>) -> Begin {
        Begin { limit, ..Begin::named("20260101T000000Z-root-0123abcd") }
    }

    fn output(body: &[u8]) -> Message<'_> {
        Message { kind: Kind::Output, session: 0, at: 1, body }
    }

    /// Text before the last line, whose hash is in that line.
    fn checked(text: &str) -> String {
        let (before, last) = text.trim_end().rsplit_once('\n').expect("lines");
        let before = format!("{before}\n");
        let hash = format!("{:x}", Sha256::digest(before.as_bytes()));
        assert!(last.contains(&format!("sha256={hash}")), "{last}");
        assert!(last.contains(&format!("bytes={} ", before.len())), "{last}");
        before
    }

    #[test]
    fn the_last_line_has_the_hash_of_those_before_it() {
        let place = tempfile::tempdir().expect("a directory");
        let folder = Dir::open(place.path()).expect("a folder");
        let journal = Journal::new().expect("memory");
        let path = place.path().join("20260101T000000Z-root-0123abcd.cast");
        std::fs::write(&path, "foreign").expect("a foreign file");
        let mut recording = RecordingFile::begin(&folder, &begin(None), &journal).expect("a file");
        assert_eq!(recording.note(output(b"one\n"), &journal), Ok(()));
        assert_eq!(recording.write(&journal), Ok(()));
        assert_eq!(recording.note(output(b"two\n"), &journal), Ok(()));
        let outcome = recording.end(Some(3), &journal);
        assert_eq!(outcome.path, "20260101T000000Z-root-0123abcd-2.cast");
        let text = std::fs::read_to_string(place.path().join(&outcome.path)).expect("a file");
        assert_eq!(outcome.bytes, Some(text.len() as u64));
        let before = checked(&text);
        assert_eq!(Some(format!("{:x}", Sha256::digest(before.as_bytes()))), outcome.sha256);
        assert!(before.ends_with("\"two\\n\"]\n[0.000000, \"x\", \"3\"]\n"), "{before}");
        assert_eq!(std::fs::read(&path).expect("a file"), b"foreign");
    }

    #[test]
    fn a_file_becomes_no_longer_than_it_may() {
        let place = tempfile::tempdir().expect("a directory");
        let folder = Dir::open(place.path()).expect("a folder");
        let journal = Journal::new().expect("memory");
        let mut recording =
            RecordingFile::begin(&folder, &begin(Some(4096)), &journal).expect("a file");
        let mut given = 0;
        let failure = loop {
            if let Err(failure) = recording.note(output(&[b'\x1b'; 100]), &journal) {
                break failure;
            }
            given += 100;
        };
        assert_eq!(failure, Failure::Full);
        assert_eq!(recording.note(output(b"more"), &journal), Ok(()));
        let outcome = recording.end(Some(0), &journal);
        assert!(outcome.bytes.is_some_and(|it| it <= 4096 && it > 3500), "{outcome:?}");
        assert!(given > 300);
        let text = std::fs::read_to_string(place.path().join(&outcome.path)).expect("a file");
        checked(&text);
        let there = text.matches("u001b").count() as u64;
        assert!(there > given);
        assert_eq!(there + outcome.dropped, given + 104);
        assert!(
            text.contains("\"x\", \"0\"")
                && text.contains(&format!("dropped={} ", outcome.dropped))
        );
    }

    #[test]
    fn a_full_disk_leaves_whole_lines() {
        // Every write to it fails.
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let journal = Journal::new().expect("memory");
        let mut recording = RecordingFile::of(String::from("x"), full, &begin(None));
        assert_eq!(recording.note(output(b"lost, too"), &journal), Ok(()));
        let failure = recording.write(&journal).expect_err("no room");
        assert!(matches!(failure, Failure::Error(why) if why.contains("space")));
        assert_eq!(recording.note(output(b"lost"), &journal), Ok(()));
        let outcome = recording.end(None, &journal);
        assert_eq!((outcome.bytes, outcome.dropped), (Some(0), 13));
    }

    #[test]
    fn one_that_is_emptied_meanwhile_has_no_hole() {
        let place = tempfile::tempdir().expect("a directory");
        let folder = Dir::open(place.path()).expect("a folder");
        let journal = Journal::new().expect("memory");
        let mut recording = RecordingFile::begin(&folder, &begin(None), &journal).expect("a file");
        let path = place.path().join(&recording.name);
        assert_eq!(recording.note(output(b"one"), &journal), Ok(()));
        assert_eq!(recording.write(&journal), Ok(()));
        std::fs::File::options().write(true).truncate(true).open(&path).expect("emptied");
        assert_eq!(recording.note(output(b"two"), &journal), Ok(()));
        recording.end(Some(0), &journal);
        let text = std::fs::read_to_string(&path).expect("a file");
        assert!(text.starts_with("[0.000000, \"o\", \"two\"]\n"), "{text:?}");
        assert!(text.ends_with('\n') && !text.contains('\0'), "{text:?}");
    }

    #[test]
    fn what_goes_on_begins_with_its_next_message() {
        let place = tempfile::tempdir().expect("a directory");
        let folder = Dir::open(place.path()).expect("a folder");
        let journal = Journal::new().expect("memory");
        let resume = Resume { begin: begin(None), dropped: 7, ends: false };
        let message = Message { at: 65_000_000, ..output(b"later") };
        let mut recording =
            RecordingFile::resume(&folder, &resume, message, &journal).expect("a file");
        assert_eq!(recording.note(message, &journal), Ok(()));
        let outcome = recording.end(Some(0), &journal);
        let name = "20260101T000000Z-root-0123abcd-part2.cast";
        assert_eq!((outcome.dropped, outcome.path.as_str()), (7, name));
        let text = std::fs::read_to_string(place.path().join(name)).expect("a file");
        assert!(text.contains("\"timestamp\":66,"), "{text}");
        assert!(text.contains("\n[0.000000, \"o\", \"later\"]\n"), "{text}");
        checked(&text);
    }

    /// Killed in the midst of a batch: what it has written is taken back.
    #[test]
    fn a_batch_notes_its_files_before_it_writes_to_them() {
        let place = tempfile::tempdir().expect("a directory");
        let folders = [Dir::open(place.path()).expect("a folder")];
        let journal = Journal::new().expect("memory");
        journal.begin(7, 1);
        let mut recording =
            RecordingFile::begin(&folders[0], &begin(None), &journal).expect("a file");
        let path = place.path().join(&recording.name);
        assert_eq!(recording.note(output(b"one"), &journal), Ok(()));
        assert_eq!(recording.write(&journal), Ok(()));
        let before = std::fs::read_to_string(&path).expect("a file");
        journal.begin(7, 2);
        for text in [b"two", b"six"] {
            assert_eq!(recording.note(output(text), &journal), Ok(()));
            assert_eq!(recording.write(&journal), Ok(()));
        }
        recording.end(Some(0), &journal);
        assert!(std::fs::read_to_string(&path).expect("a file").len() > before.len());
        journal.take().expect("a file").undo(1, &folders);
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), before);
        // One that the batch has made is not there.
        journal.begin(7, 3);
        let mut recording =
            RecordingFile::begin(&folders[0], &begin(None), &journal).expect("a file");
        let path = place.path().join(&recording.name);
        assert_eq!(recording.write(&journal), Ok(()));
        assert!(path.exists());
        journal.take().expect("a file").undo(2, &folders);
        assert!(!path.exists());
    }
}
