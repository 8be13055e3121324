//! Painted screens, looked at with two emulators: that of a session that was
//! never left, and that of a terminal which was shown something else before.

use super::*;
use crate::scrollback::checkpoints::{CheckpointWriter, NOTES_LENGTH};
use proptest::prelude::*;

const SIZE: Dimensions = (12, 40);

/// Content of a ring of this capacity after this output, written in these pieces.
fn left(pieces: &[&[u8]], capacity: usize) -> DetachedOutput {
    let mut area = vec![0; NOTES_LENGTH];
    let mut trail = CheckpointWriter::new(capacity, SIZE, |at, bytes: &[u8]| {
        area[at..at + bytes.len()].copy_from_slice(bytes);
    });
    for piece in pieces {
        trail.follow(piece, |at, bytes| area[at..at + bytes.len()].copy_from_slice(bytes));
    }
    let output = pieces.concat();
    let area: &[u8; NOTES_LENGTH] = area.as_slice().try_into().unwrap();
    let checkpoint = Checkpoint::oldest(area, capacity, output.len() as u64).unwrap();
    let output = output[checkpoint.from as usize..].to_vec();
    (checkpoint, output)
}

fn emulator((rows, cols): Dimensions, scrollback: usize) -> vt100::Parser {
    vt100::Parser::new(rows.try_into().unwrap(), cols.try_into().unwrap(), scrollback)
}

/// All that an emulator of another make sees: every cell, and the modes.
fn seen(output: &[&[u8]], (rows, cols): Dimensions) -> Vec<String> {
    let mut parser = emulator((rows, cols), 0);
    for piece in output {
        parser.process(piece);
    }
    let screen = parser.screen();
    let mut seen = vec![format!(
        "{:?} hidden {} alternate {} keypad {} keys {} paste {} mouse {:?} {:?}",
        screen.cursor_position(),
        screen.hide_cursor(),
        screen.alternate_screen(),
        screen.application_keypad(),
        screen.application_cursor(),
        screen.bracketed_paste(),
        screen.mouse_protocol_mode(),
        screen.mouse_protocol_encoding(),
    )];
    for row in 0..rows {
        for col in 0..cols {
            let cell = screen.cell(row, col).unwrap();
            let blank = matches!(cell.contents(), "" | " ");
            let contents = if blank { " " } else { cell.contents() };
            seen.push(format!(
                "{row},{col} {contents} {:?} {:?} {}{}{}{}",
                // A blank's colour is not to be seen.
                if blank { vt100::Color::Default } else { cell.fgcolor() },
                cell.bgcolor(),
                !blank && cell.bold(),
                !blank && cell.italic(),
                cell.underline(),
                cell.inverse(),
            ));
        }
    }
    seen
}

/// A terminal that a person has been working at.
const BEFORE: &[u8] = b"$ ls\r\na  b  c\r\n$ fpty -a x /s\r\n";

#[track_caller]
fn assert_same(pieces: &[&[u8]], more: &[u8]) {
    let output = pieces.concat();
    let painted = paint(left(pieces, 1 << 16), SIZE);
    let expected = seen(&[&output, more], SIZE);
    let found = seen(&[BEFORE, &painted.bytes, more], SIZE);
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(&painted.bytes));
    }
}

#[test]
fn screens_of_all_kinds() {
    for (output, more) in [
        ("$ echo half-typed", " line\r\n"),
        ("one\r\ntwo\r\nthree\x1b[A\x1b[5G", "x"),
        // In the last column, before the wrap.
        (&"x".repeat(40), "y"),
        (&"wide \u{4e16}\u{754c} ".repeat(9), "e\u{301}"),
        ("e\u{301}\u{302}x\u{65e5}\u{672c}", "\u{301}"),
        ("\x1b[1;4;31;48;5;200mred", " and more"),
        ("shell\r\n\x1b[?1049h\x1b[2J\x1b[3;9r\x1b[5;5Hin vim\x1b[?25l", "\x1b[9;1H\n\nx"),
        ("main\r\n\x1b[?1049h\x1b[Hother\x1b[31m", "\x1b[?1049lback"),
        ("\x1b[?2004h\x1b[?1000;1006h\x1b[?1h\x1b=$ ", ""),
        ("\x1b[4;8r\x1b[8;1H", "\r\nscrolls"),
        // In the midst of a sequence, a character, a string.
        ("a\x1b[1;3", "1mred"),
        ("a\x1b", "[1mbold"),
        ("\u{4e16}\u{754c}", ""),
        ("a\x1b]2;tit", "le\x07b"),
        (&"line\r\n".repeat(100), "end"),
        ("\x1b[?7lno wrap", &"z".repeat(60)),
        ("\x1b[2;3Hsaved\x1b7\x1b[9;9H", "\x1b8here"),
    ] {
        assert_same(&[output.as_bytes()], more.as_bytes());
    }
    for cut in 1..3 {
        let (begun, rest) = "x\u{4e16}".as_bytes().split_at(1 + cut);
        assert_same(&[begun], rest);
    }
}

#[test]
fn no_question_is_asked_again_and_no_clipboard_set() {
    let asked = b"\x1b[c\x1b[>c\x1b[6n\x1b]10;?\x07\x1b]11;?\x1b\\\x1b]52;c;aGk=\x07\x1b[?2026$p\
        \x1bP+q544e\x1b\\\x1b[?u\x1b[18t\x05\x1b]4;1;?\x07\x1b_Gi=1,a=q\x1b\\\x1bZ\x1b[5n\x1b[x";
    let painted = paint(left(&[b"$ ", asked, b"x\r\n"], 1 << 16), SIZE).bytes;
    let text = String::from_utf8_lossy(&painted);
    let told = paint(left(&[b"$ ", b"x\r\n"], 1 << 16), SIZE).bytes;
    assert_eq!(text, String::from_utf8_lossy(&told));
    // The crate's own filter of questions finds none.
    let mut through = Vec::new();
    crate::terminal::QueryFilter::default().filter(&painted, &mut through);
    assert_eq!(String::from_utf8_lossy(&through), text);
}

#[test]
fn the_last_lines_go_into_the_scrollback() {
    let output: String = (0..1000).map(|n| format!("line {n}\r\n")).collect();
    let painted = paint(left(&[output.as_bytes()], 1 << 16), SIZE);
    let mut parser = emulator(SIZE, 100_000);
    parser.process(BEFORE);
    parser.process(&painted.bytes);
    parser.screen_mut().set_scrollback(usize::MAX);
    let top = parser.screen().contents();
    assert!(top.starts_with("$ ls\na  b  c\n$ fpty -a x /s\n"), "{top}");
    let lines = parser.screen().scrollback();
    // Three and the one that the cursor was in; of the others all but eleven.
    assert_eq!(lines, 4 + 1000 - 11);
}

#[test]
fn modes_from_before_the_ring_are_in_force() {
    let modes: &[u8] = b"\x1b[?1049h\x1b[?2004h\x1b[?1h\x1b[3;9r\x1b[?25l\x1b[32m";
    let text = "\x1b[5;1Hhello".repeat(200);
    let painted = paint(left(&[modes, text.as_bytes()], 1000), SIZE);
    let found = seen(&[BEFORE, &painted.bytes, b"!\x1b[9;1H\r\nx"], SIZE);
    let expected = seen(&[modes, text.as_bytes(), b"!\x1b[9;1H\r\nx"], SIZE);
    assert_eq!(found, expected);
}

#[test]
fn a_ring_that_begins_within_something_is_no_text() {
    for output in ["\x1b[5;1Hhello\x1b[1;31mred\x1b[m", "\u{4e16}\u{754c}", "\x1b]2;title\x07ab"] {
        let output = output.repeat(100);
        for capacity in 150..190 {
            let painted = paint(left(&[output.as_bytes()], capacity), SIZE).bytes;
            let text = String::from_utf8_lossy(&painted);
            assert!(!text.contains("1Hhello") && !text.contains('\u{fffd}'), "{text:?}");
            assert!(!text.contains("le\x07") && !text.contains("]title"), "{text:?}");
        }
    }
}

#[test]
fn what_was_said_in_one_size_is_shown_in_another() {
    let line = "a long line that wraps in forty columns, where it was written";
    for (rows, cols) in [(24, 80), (10, 33), (5, 10), (1, 1), (200, 200)] {
        let painted = paint(left(&[b"one\r\n", line.as_bytes()], 1 << 16), (rows, cols));
        let mut parser = emulator((rows, cols), 1000);
        parser.process(&painted.bytes);
        if cols > 60 {
            assert_eq!(parser.screen().contents(), format!("one\n{line}"));
        }
    }
}

#[test]
fn who_watches_sees_lines_where_they_are() {
    let output: String = (0..30).map(|n| format!("line {n}\r\n")).collect();
    let more = "next\r\nlast\r\n$ ";
    let painted = restore_for_viewer(left(&[output.as_bytes()], 1 << 16), (30, 100));
    let mut parser = emulator((30, 100), 0);
    parser.process(BEFORE);
    parser.process(&painted.bytes);
    parser.process(more.as_bytes());
    let expected = "line 21\nline 22\nline 23\nline 24\nline 25\nline 26\nline 27\nline 28\nline 29\n\
                  next\nlast\n$ ";
    assert_eq!(parser.screen().contents(), expected);
    let mut undone = Vec::new();
    painted.modes.reset(&mut undone);
    assert_eq!(String::from_utf8_lossy(&undone), "\x1b[r\x1b[9999;1H");
    // No room: as it fits.
    let painted = restore_for_viewer(left(&[output.as_bytes()], 1 << 16), (5, 100));
    let mut parser = emulator((5, 100), 0);
    parser.process(&painted.bytes);
    assert_eq!(parser.screen().contents(), "line 26\nline 27\nline 28\nline 29");
}

/// Processor time of this thread: how busy the machine is does not count.
fn used() -> Duration {
    let id = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    Duration::from(nix::time::clock_gettime(id).unwrap())
}

#[test]
fn a_trap_costs_the_picture_only() {
    let bomb = "\x1b[65535b".repeat(30_000);
    let start = used();
    let painted = paint(left(&[b"\x1b[?2004hx", bomb.as_bytes()], 1 << 20), SIZE);
    assert!(used() - start < RESTORE_TIMEOUT * 4);
    assert!(String::from_utf8_lossy(&painted.bytes).contains("\x1b[?2004h"));
}

/// Output of programs, as far as both emulators know it.
fn said() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-z ]{1,30}",
        "[\u{4e00}-\u{4e20}]{1,6}",
        (1u16..16, 1u16..45).prop_map(|(row, col)| format!("\x1b[{row};{col}H")),
        prop::sample::select(vec![0u16, 1, 3, 4, 7, 31, 44, 92, 103])
            .prop_map(|n| format!("\x1b[{n}m")),
        (1u16..6, "[ABCDLMPX@]").prop_map(|(n, last)| format!("\x1b[{n}{last}")),
        (0u16..3, "[JK]").prop_map(|(n, last)| format!("\x1b[{n}{last}")),
        (1u16..5, 6u16..12).prop_map(|(top, bottom)| format!("\x1b[{top};{bottom}r")),
        prop::sample::select(vec![
            "\r\n",
            "\r\n",
            "\n",
            "\x08",
            "\t",
            "\x1b[r",
            "\x1bM",
            "\x1b7",
            "\x1b8",
            "\x1b[?1049h",
            "\x1b[?1049l",
            "\x1b[?25l",
            "\x1b[?25h",
            "\x1b[?2004h",
            "\x1b[?1h",
            "\x1b[4h",
            "\x1b[4l",
            "\x1b[?7l",
            "\x1b[?7h",
            "\x1b(0qqq\x1b(B",
            "\x1b[?6h",
            "\x1b[?6l",
        ])
        .prop_map(str::to_owned),
    ]
    .prop_map(String::into_bytes)
}

fn dump(output: &[&[u8]], size: Dimensions) -> String {
    let mut term = Term::new(1000, of(size));
    for piece in output {
        term.process(piece);
    }
    String::from_utf8_lossy(&term.contents(ContentRegion::Screen)).into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn painted_again_it_is_the_same(
        said in prop::collection::vec(said(), 0..60), more in prop::collection::vec(said(), 0..9),
        cut in 0usize..10,
    ) {
        let output = said.concat();
        let (begun, rest) = output.split_at(output.len().saturating_sub(cut));
        let more = [rest, &more.concat()].concat();
        let painted = paint(left(&[begun], 1 << 16), SIZE).bytes;
        // Lines that nobody wrote to, and blank ones, look the same.
        let blank = [&[b'\n'; 12][..], b"\x1b[H"].concat();
        let found = dump(&[BEFORE, &painted, &more], SIZE);
        let expected = dump(&[&blank, begun, &more], SIZE);
        prop_assert_eq!(
            seen(&[found.as_bytes()], SIZE), seen(&[expected.as_bytes()], SIZE),
            "{:?} {:?}", String::from_utf8_lossy(begun), String::from_utf8_lossy(&more)
        );
    }

    #[test]
    fn any_output_is_painted(
        output in prop::collection::vec(prop_oneof![said(), any::<[u8; 3]>().prop_map(Vec::from)], 0..60),
        capacity in 1usize..2000, rows in 1u16..40, cols in 1u16..100,
    ) {
        let pieces: Vec<&[u8]> = output.iter().map(Vec::as_slice).collect();
        let painted = paint(left(&pieces, capacity), (rows, cols));
        prop_assert!(painted.bytes.len() < 1 << 20);
    }
}

/// A terminal of 8 bits would obey what stands in a title, and answer it.
#[test]
fn a_title_holds_no_control_of_8_bits() {
    for title in [b"\x1b]2;c\x87?\x9b6n\x1b\\$ ".as_slice(), b"\x1b]2;c\xc2\x9b6n\x07$ "] {
        let painted = paint(left(&[title], 16_384), SIZE);
        let text = String::from_utf8(painted.bytes).expect("text");
        assert!(!text.chars().any(|c| ('\u{80}'..='\u{9f}').contains(&c)), "{text:?}");
    }
}
