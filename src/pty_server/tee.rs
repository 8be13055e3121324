//! The tee: a copy of the terminal's output for the server's log (`pty-log`).

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use fpty::sys::WriteOutcome;
use fpty::sys::stdio::Output;

/// Limit of output that waits for the log, in bytes; the rest is lost to it.
const MAX_WAITING: usize = 256 * 1024;

/// How long the rest of a line is waited for before its beginning is logged:
/// what a log engine gets in one packet is one entry.
const LINE_TIMEOUT: Duration = Duration::from_millis(100);

/// Copy of the output to the log, and bytes that the log has not taken.
pub struct LogTee {
    output: Output,
    /// The most that one packet may hold, where packets are what it takes.
    packet: Option<usize>,
    queue: VecDeque<u8>,
    lost: usize,
    blocked: bool,
    /// Time at which the beginning of a line is logged without its rest.
    due: Option<Instant>,
}

impl LogTee {
    /// A copy for this output, in packets of at most so many bytes.
    pub fn new(output: Output, packet: Option<usize>) -> Self {
        let packet = packet.map(|bytes| bytes.max(1));
        Self { output, packet, queue: VecDeque::new(), lost: 0, blocked: false, due: None }
    }

    /// The descriptor to wait for, where the log took nothing more.
    pub fn awaited(&self) -> Option<BorrowedFd<'_>> {
        self.blocked.then(|| self.output.as_fd())
    }

    /// Time at which to call [`LogTee::flush`] whatever happens.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes output; what it has no room for is lost, and the copy says so in
    /// its place. Returns whether somebody still takes it.
    pub fn push(&mut self, output: &[u8]) -> bool {
        if self.lost > 0 && self.queue.len() < MAX_WAITING / 2 {
            let lost = std::mem::take(&mut self.lost);
            // A write to a VecDeque never fails.
            let _ = write!(
                self.queue,
                "\r\npty: {lost} bytes of output are missing here: the log was too slow\r\n"
            );
        }
        let room = if self.lost > 0 { 0 } else { MAX_WAITING.saturating_sub(self.queue.len()) };
        let kept = output.len().min(room);
        self.queue.extend(&output[..kept]);
        self.lost += output.len() - kept;
        self.flush()
    }

    /// Logs what waits, as far as the log takes it. Returns whether the log can still be
    /// written.
    pub fn flush(&mut self) -> bool {
        let rest_is_due = self.due.is_some_and(|due| due <= Instant::now());
        self.blocked = false;
        loop {
            let waiting = self.queue.make_contiguous();
            let count = match self.packet {
                None => waiting.len(),
                Some(most) => match packet(waiting, most) {
                    0 if rest_is_due => waiting.len(),
                    count => count,
                },
            };
            if count == 0 {
                break;
            }
            match self.output.write(&waiting[..count]) {
                WriteOutcome::Bytes(taken) => drop(self.queue.drain(..taken)),
                WriteOutcome::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                WriteOutcome::Closed => return false,
            }
        }
        let before = self.due.filter(|_| !rest_is_due);
        let waits = !self.queue.is_empty() && !self.blocked;
        self.due = waits.then(|| before.unwrap_or_else(|| Instant::now() + LINE_TIMEOUT));
        true
    }
}

/// How many bytes one packet takes: whole lines; of a line that is too long as many whole
/// characters as there is room for; nothing of a line that may yet become whole.
fn packet(waiting: &[u8], most: usize) -> usize {
    let within = &waiting[..waiting.len().min(most)];
    if let Some(newline) = within.iter().rposition(|byte| *byte == b'\n') {
        return newline + 1;
    }
    if waiting.len() < most {
        return 0;
    }
    let continues = |at: &usize| waiting.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let whole = (1..=most).rev().take(4).find(|end| !continues(end));
    whole.unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_whole_lines_or_as_much_of_one_as_it_takes() {
        assert_eq!(packet(b"", 8), 0);
        assert_eq!(packet(b"one\ntwo\nx", 9), 8);
        assert_eq!(packet(b"one\ntwo\n", 8), 8);
        assert_eq!(packet(b"one\ntwo\n", 7), 4);
        assert_eq!(packet(b"$ ", 8), 0);
        assert_eq!(packet(b"12345678", 8), 8);
        assert_eq!(packet(b"123456789\n", 8), 8);
        assert_eq!(packet("1234567\u{e9}".as_bytes(), 8), 7);
        assert_eq!(packet("\u{1f600}\u{1f600}".as_bytes(), 7), 4);
        assert_eq!(packet("\u{1f600}".as_bytes(), 2), 2);
        assert_eq!(packet(&[0x80; 9], 8), 8);
    }

    /// Packets in a log that is a socket of packets.
    fn logged(reader: &std::os::fd::OwnedFd) -> Vec<String> {
        let mut packets = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count) = nix::unistd::read(reader, &mut buffer) {
            packets.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
        packets
    }

    fn log_of_packets(most: usize) -> (LogTee, std::os::fd::OwnedFd) {
        let (writer, reader) = fpty::sys::socket::Stream::pair().unwrap();
        let copy = LogTee::new(Output::of(writer.as_fd()).unwrap(), Some(most));
        (copy, reader.into())
    }

    #[test]
    fn the_beginning_of_a_line_waits_for_its_rest_but_not_for_long() {
        let (mut copy, log) = log_of_packets(16);
        assert!(copy.push(b"a line\nand a"));
        assert_eq!(logged(&log), ["a line\n"]);
        assert!(copy.due().is_some());
        assert!(copy.push(b"nother\n"));
        assert_eq!(logged(&log), ["and another\n"]);
        assert!(copy.due().is_none());
        assert!(copy.push(b"$ "));
        copy.due = Some(Instant::now());
        assert!(copy.flush());
        assert_eq!(logged(&log), ["$ "]);
    }

    #[test]
    fn what_is_lost_is_told_in_its_place() {
        let (mut copy, log) = log_of_packets(4096);
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let mut given = 0;
        while copy.lost == 0 {
            assert!(copy.push(&line));
            given += line.len();
        }
        assert!(copy.awaited().is_some());
        given -= copy.lost;
        let mut all = String::new();
        loop {
            let some = logged(&log).concat();
            if some.is_empty() {
                break;
            }
            all.push_str(&some);
            assert!(copy.flush());
        }
        assert_eq!(all.len() + copy.queue.len(), given);
        assert!(copy.push(b"more\n"));
        let told = logged(&log).concat();
        assert!(told.contains(" bytes of output are missing here"), "{told}");
        assert!(told.ends_with("\r\nmore\n"), "{told}");
    }
}
