//! Replay of a session's last output for programs that attach and have no terminal
//! emulator, without the queries that terminals answer.

use crate::scrollback::checkpoints::Checkpoint;
use crate::terminal::QueryFilter;
use crate::terminal::modes::Modes;

/// Replay of the output to a terminal of so many rows, and the modes that are in force after it.
/// What was on the terminal goes into its scrollback. The alternate screen is left empty: a program
/// that uses it draws all of it when the size changes.
pub fn replay(checkpoint: Checkpoint, output: &[u8], rows: u16) -> (Vec<u8>, Modes) {
    let mut bytes = vec![b'\r'];
    bytes.resize(1 + usize::from(rows), b'\n');
    bytes.extend_from_slice(b"\x1b[H\x1b[J");
    let is_cut = checkpoint.from > 0;
    let before = checkpoint.modes.clone();
    let modes = checkpoint.modes_after(output);
    if modes.is_alternate() {
        modes.restore(&mut bytes);
        modes.restore_unemulated(&mut bytes);
        bytes.extend_from_slice(b"\x1b[H\x1b[J");
    } else {
        before.restore(&mut bytes);
        before.restore_unemulated(&mut bytes);
        // From the beginning of a line, so that nothing is shown by half.
        let line = output.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        QueryFilter::default().filter(&output[if is_cut { line } else { 0 }..], &mut bytes);
    }
    modes.resume_sequence(&mut bytes);
    (bytes, modes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrollback::{ScrollbackReader, ScrollbackWriter};
    use crate::sys::Size;

    /// The screen of another terminal after a replay, and the replay.
    fn screen(output: &[u8]) -> (vt100::Parser, Vec<u8>) {
        let mut remains =
            ScrollbackWriter::new(16 * 1024, Size { rows: 24, cols: 80 }).expect("memory");
        output.chunks(1000).for_each(|piece| remains.write(piece));
        let ring = remains.share_file().expect("its file");
        let seen = ScrollbackReader::open(ring).expect("a ring").output(None);
        let (checkpoint, output) = seen.expect("output");
        let (bytes, _) = replay(checkpoint, &output, 24);
        let mut parser = vt100::Parser::new(24.try_into().unwrap(), 80.try_into().unwrap(), 1000);
        parser.process(b"mine\r\n");
        parser.process(&bytes);
        (parser, bytes)
    }

    #[test]
    fn lines_are_shown_again_and_questions_are_not_asked() {
        let (parser, bytes) = screen(b"one\r\n\x1b[6n\x1b]52;c;aGk=\x07\x1b[31mred\x1b[m\r\n$ ");
        assert_eq!(parser.screen().contents(), "one\nred\n$ ");
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("[6n") && !text.contains("]52"), "{text:?}");
    }

    #[test]
    fn of_much_the_last_whole_lines() {
        let all: String = (0..9000).map(|number| format!("line {number}\r\n")).collect();
        let (parser, bytes) = screen(all.as_bytes());
        assert!(parser.screen().contents().ends_with("line 8998\nline 8999"));
        let text = String::from_utf8_lossy(&bytes);
        let first = text.lines().find(|line| line.contains("ine ")).expect("a line");
        assert!(first.contains("line "), "{first:?}");
    }

    #[test]
    fn another_screen_is_left_to_its_program() {
        let (parser, _) = screen(b"$ vi\r\n\x1b[?1049h\x1b[?1000h\x1b[2;2Htext\x1b[?1h");
        let screen = parser.screen();
        assert!(screen.alternate_screen() && screen.application_cursor());
        assert_eq!(screen.contents(), "");
        assert_ne!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None);
    }
}
