//! The tracker against a terminal emulator, in any fragmentation, and against
//! bytes that nobody sane would keep.

use super::parser::{MAX_TITLE, Osc};
use super::*;
use proptest::prelude::*;
use shpool_vterm::{ContentRegion, Size, Term};

impl PartialEq for Parser {
    /// Remains of a sequence that has ended make no difference, nor does the kind of a
    /// string that is passed by.
    fn eq(&self, other: &Self) -> bool {
        let under_way = |parser: &Self| {
            let (parameters, subparameters) = parser.parameters();
            let numbers = (parser.count, parameters.to_vec(), subparameters);
            let is_title = parser.osc == Osc::Title && parser.osc().is_some();
            let title = is_title.then(|| parser.title.clone());
            (parser.marker, parser.intermediate, numbers, title)
        };
        let is_ground = self.is_ground() || under_way(self) == under_way(other);
        self.state_number() == other.state_number() && is_ground
    }
}

impl Eq for Parser {}

fn of(output: &[u8]) -> Modes {
    let mut modes = Modes::default();
    modes.follow(output);
    modes
}

fn told(tell: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    tell(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_terminal_that_nobody_told_anything_is_told_nothing() {
    let modes = of(b"plain text\r\n\x1b[1;31mred\x1b[0m \x1b[5;6H\x1b[2J\x1b]7;file://h/d\x07");
    assert_eq!(modes.private, PrivateModes::default());
    assert_eq!(told(|out| modes.reset(out)), "");
    assert_eq!(told(|out| modes.restore(out)), "");
    assert_eq!(told(|out| modes.restore_unemulated(out)), "");
}

#[test]
fn what_an_editor_turns_on_is_turned_off() {
    let on = "\x1b[?1049h\x1b[?1h\x1b=\x1b[?2004h\x1b[?1004h\x1b[?1006;1000h\x1b[2;23r\x1b[?25l\
              \x1b[4 q\x1b[>4;2m\x1b[>1u";
    let undone = told(|out| of(on.as_bytes()).reset(out));
    let mut modes = of(on.as_bytes());
    modes.follow(undone.as_bytes());
    let (saved, parser) = (modes.saved, modes.parser.clone());
    let fresh = Modes { saved, parser, ..Modes::default() };
    assert_eq!(modes, fresh, "{undone:?}");
    assert!(undone.ends_with("\x1b[?1049l"), "{undone:?}");
    assert!(!undone.contains("7h") && !undone.contains("?5l"), "{undone:?}");
}

#[test]
fn a_sequence_that_is_cut_is_ended() {
    for cut in ["\x1b", "\x1b[?10", "\x1b]2;tit", "\x1b]52;c;", "\x1bPq#0", "\x1b("] {
        let undone = told(|out| of(cut.as_bytes()).reset(out));
        assert_eq!(undone, "\x18\x1b\\", "{cut:?}");
        let mut modes = of(cut.as_bytes());
        modes.follow(undone.as_bytes());
        assert!(!modes.is_in_sequence());
    }
}

#[test]
fn what_is_cancelled_is_over() {
    for begun in ["\x1b]2;tit", "\x1b]52;c;", "\x1bPq#0", "\x1b^x", "\x1b[1", "\x1b[1<"] {
        for cancel in ["\x18", "\x1a"] {
            let modes = of([begun, cancel, "\x1b[?2004h"].concat().as_bytes());
            assert!(modes.has_bracketed_paste() && modes.title().is_empty(), "{begun:?}");
            assert!(!of([begun, cancel].concat().as_bytes()).is_in_sequence(), "{begun:?}");
        }
    }
}

#[test]
fn titles_links_questions() {
    let mut modes = of(b"\x1b]0;one\x07\x1b]2;two;three\x1b\\\x1b]8;id=1;http://x\x1b\\link");
    assert_eq!((modes.title().as_str(), modes.link), ("two;three", true));
    assert_eq!(told(|out| modes.reset(out)), "\x1b]8;;\x1b\\");
    modes.follow(b"\x1b]8;;\x07\x1b[>c\x1b[=c\x1b[?c\x1b[1c");
    assert!(!modes.link && !modes.take_da1_request());
    for question in [&b"\x1b[c"[..], b"\x1b[0c", b"\x1bZ"] {
        modes.follow(question);
        assert!(modes.take_da1_request() && !modes.take_da1_request());
    }
    let long = [b"\x1b]2;".as_slice(), &[b'x'; 5000], b"\x07"].concat();
    assert_eq!(of(&long).title().len(), MAX_TITLE);
    assert_eq!(told(|out| of(b"\x1b]2;a\xc2\x9bb\x07").restore(out)), "\x1b]2;ab\x1b\\");
}

#[test]
fn colours_that_were_set_are_taken_back() {
    let set =
        "\x1b]11;#102030\x07\x1b]4;1;red\x1b\\\x1b]12;?\x07\x1b]4;2;?\x07\x1b]10;rgb:0/0/0\x07";
    let mut modes = of(set.as_bytes());
    assert_eq!(told(|out| modes.reset(out)), "\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\");
    modes.follow(b"\x1b]110\x07\x1b]104;1\x1b\\");
    assert_eq!(told(|out| modes.reset(out)), "\x1b]111\x1b\\");
    modes.follow(b"\x1b]111\x1b\\");
    assert_eq!(told(|out| modes.reset(out)), "");
}

#[test]
fn keyboards_have_a_stack_for_each_screen() {
    let mut modes = of(b"\x1b[>1u\x1b[?1049h\x1b[>3u\x1b[>5u\x1b[=2;2u");
    assert_eq!(told(|out| modes.restore_unemulated(out)), "\x1b[>3u\x1b[>7u");
    assert_eq!(told(|out| modes.reset(out)), "\x1b[<2u\x1b[?1049l\x1b[<1u");
    modes.follow(b"\x1b[<9u\x1b[?1049l\x1b[<u");
    assert_eq!(told(|out| modes.reset(out)), "");
    for _ in 0..100 {
        modes.follow(b"\x1b[>1u");
    }
    assert_eq!(modes.keyboards[0].depth, 8);
}

/// One sequence that changes modes, or does not.
fn sequence() -> impl Strategy<Value = Vec<u8>> {
    let private = prop::sample::select(vec![
        1u16, 6, 7, 12, 25, 69, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004, 47, 1047,
        1048, 1049, 2, 3, 1234,
    ]);
    let mode = (prop::collection::vec(private, 1..4), prop::sample::select(vec!['h', 'l']));
    let attribute = prop_oneof![
        (0u16..110)
            .prop_filter("what is cut", |n| ![38, 48, 58].contains(n))
            .prop_map(|n| n.to_string()),
        Just(String::new()),
        (prop::sample::select(vec![38u16, 48, 58]), 0u16..300)
            .prop_map(|(n, i)| format!("{n};5;{i}")),
        (0u8..200, 0u8..9).prop_map(|(r, g)| format!("38;2;{r};{g};7")),
        (0u8..200, 0u8..9).prop_map(|(r, g)| format!("48:2::{r}:{g}:7")),
        (0u16..9).prop_map(|kind| format!("4:{kind}")),
        Just(String::from("58:5:3")),
        Just(String::from("38:2:1:2:3")),
    ];
    let attributes = prop::collection::vec(attribute, 0..5).prop_map(|all| all.join(";"));
    prop_oneof![
        mode.prop_map(|(modes, last)| {
            let modes: Vec<String> = modes.iter().map(u16::to_string).collect();
            format!("\x1b[?{}{last}", modes.join(";"))
        }),
        attributes.prop_map(|all| format!("\x1b[{all}m")),
        (0u16..24, 0u16..25).prop_map(|(top, bottom)| format!("\x1b[{top};{bottom}r")),
        (0u16..12).prop_map(|shape| format!("\x1b[{shape} q")),
        ("[()*+]", "[0AB]").prop_map(|(slot, set)| format!("\x1b{slot}{set}")),
        prop::sample::select(vec![
            "\x0e",
            "\x0f",
            "\x1bn",
            "\x1bo",
            "\x1b=",
            "\x1b>",
            "\x1b7",
            "\x1b8",
            "\x1b[s",
            "\x1b[u",
            "\x1bc",
            "\x1b[!p",
            "\x1b[4h",
            "\x1b[4l",
            "\x1b[c",
            "\x1b[>c",
            "text",
            "\r\n",
            "\x1b[2J",
            "\x1b[5;7H",
            "\x1b]52;c;aGk=\x07",
            "\x1b[3;9s",
            "\x1b[?25$p",
            "\x1b]2;title; two\x1b\\",
            "\x1b]11;#123\x07",
            "\x1b]111\x07",
            "\x1b]4;1;red\x1b\\",
            "\x1b]0;other\x07",
            "\x1b]2;\x07",
            "\x1bP+q544e\x1b\\",
            "\x1b[?1h\x1b[1\x1b[?7l",
            "\x1b[?2\x18004h",
            "\x1b_Gq\x1b\\",
            "\x1b[1;2;3;4;5r",
            "\x1b[1:2m",
            "\x1b[?1;;7l",
            "\x1b[?1$h",
            "\x1b[?1:2h",
        ])
        .prop_map(str::to_owned),
    ]
    .prop_map(String::into_bytes)
}

const SCREEN: Size = Size { width: 40, height: 24 };

/// Modes of a terminal that is given the emulator's contents after this output; without
/// those that only the tracker knows.
fn by_emulator(output: &[u8]) -> Modes {
    let mut term = Term::new(100, SCREEN);
    term.process(output);
    of(&term.contents(ContentRegion::All))
}

/// Modes without those that the emulator restores in another way, or not.
fn comparable(mut modes: Modes) -> Modes {
    // In the parser no field means anything between two sequences.
    modes.parser = Parser::default();
    modes.private_saved = PrivateModes::default();
    modes.saved = [SavedCursor::default(); 2];
    modes.da1_requested = false;
    modes.link = false;
    modes.colours = 0;
    if modes.alternate != 0 {
        modes.alternate = 1049;
    }
    let height = SCREEN.height as u16;
    // As large as the screen, or larger: none.
    if modes.region.last == 0 || modes.region.last > height {
        modes.region.last = height;
    }
    modes.region.first = modes.region.first.max(1);
    if modes.region.first >= modes.region.last {
        modes.region.first = 0;
    }
    modes.margins = Region::default();
    modes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_emulator_has_the_same_modes(all in prop::collection::vec(sequence(), 0..20)) {
        let output = all.concat();
        let (ours, theirs) = (comparable(of(&output)), comparable(by_emulator(&output)));
        prop_assert_eq!(ours, theirs, "{:?}", String::from_utf8_lossy(&output));
    }

    #[test]
    fn what_is_restored_is_the_same(all in prop::collection::vec(sequence(), 0..20)) {
        let modes = of(&all.concat());
        let told = told(|out| { modes.restore(out); modes.restore_unemulated(out); });
        prop_assert_eq!(comparable(of(told.as_bytes())), comparable(modes), "{:?}", told);
    }

    #[test]
    fn what_is_undone_is_as_it_was(all in prop::collection::vec(sequence(), 0..20)) {
        let mut modes = of(&all.concat());
        let told = told(|out| modes.reset(out));
        modes.follow(told.as_bytes());
        let mut wanted = Modes { title: modes.title.clone(), ..Modes::default() };
        wanted.keyboards = modes.keyboards;
        prop_assert_eq!(comparable(modes), comparable(wanted), "{:?}", told);
    }

    #[test]
    fn any_bytes_in_any_pieces_are_the_same(
        all in prop::collection::vec(prop_oneof![sequence(), prop::collection::vec(any::<u8>(), 0..9)], 0..20),
        cut in 1usize..20,
    ) {
        let output = all.concat();
        let mut modes = Modes::default();
        for piece in output.chunks(cut) {
            modes.follow(piece);
            // As if it had been kept, and somebody else went on.
            let kept = Modes::from_bytes(&modes.to_bytes());
            prop_assert_eq!(kept.as_ref(), Some(&modes));
        }
        prop_assert_eq!(modes, of(&output));
    }

    #[test]
    fn bytes_of_anybody_do_nothing_to_a_terminal(
        mut bytes in prop::collection::vec(any::<u8>(), SIZE), output in any::<Vec<u8>>(),
    ) {
        bytes[0] = 1;
        let mut modes = Modes::from_bytes(bytes.as_slice().try_into().unwrap()).unwrap();
        for tell in [Modes::restore, Modes::restore_unemulated, Modes::reset] {
            let told = told(|out| tell(&modes, out));
            // Without the ESC it is a title's text.
            let sets_clipboard = told.contains("\x1b]52");
            prop_assert!(!sets_clipboard && !told.contains('\u{9b}'), "{:?}", told);
            prop_assert!(!of(told.as_bytes()).da1_requested);
        }
        modes.follow(&output);
        let _ = modes.to_bytes();
    }
}
