use super::*;
use proptest::prelude::*;

/// Queries that a terminal answers, and sequences that set its clipboard.
const LEFT_OUT: &[&[u8]] = &[
    b"\x05",
    b"\x1bZ",
    b"\x1b[c",
    b"\x1b[0c",
    b"\x1b[>c",
    b"\x1b[>0c",
    b"\x1b[=c",
    b"\x1b[5n",
    b"\x1b[6n",
    b"\x1b[?6n",
    b"\x1b[?996n",
    b"\x1b[>q",
    b"\x1b[>0q",
    b"\x1b[?u",
    b"\x1b[?4m",
    b"\x1b[?1g",
    b"\x1b[?1;1;0S",
    b"\x1b[x",
    b"\x1b[11t",
    b"\x1b[13t",
    b"\x1b[13;2t",
    b"\x1b[14t",
    b"\x1b[14;2t",
    b"\x1b[15t",
    b"\x1b[16t",
    b"\x1b[18t",
    b"\x1b[19t",
    b"\x1b[20t",
    b"\x1b[021t",
    b"\x1b[4$p",
    b"\x1b[?2026$p",
    b"\x1b[1$w",
    b"\x1b[2$w",
    b"\x1b[1$u",
    b"\x1b[&u",
    b"\x1b[\"v",
    b"\x1b['|",
    b"\x1b[1;0;1;1;9;9*y",
    b"\x1b[1*z",
    b"\x1b[1+p",
    b"\x1b[#R",
    b"\x1b[#|",
    b"\x1b[?2048h",
    b"\xc2\x9b6n",
    b"\x9b6n",
    b"\xc2\x9a",
    b"\x1b]10;?\x07",
    b"\x1b]11;?\x1b\\",
    b"\x1b]4;1;?\x07",
    b"\x1b]4;1;rgb:0/0/0;2;?\x9c",
    b"\xc2\x9d12;?\xc2\x9c",
    b"\x1b]50;?\x07",
    b"\x1b]21;foreground=?\x1b\\",
    b"\x1b]22;?__current__\x1b\\",
    b"\x1b]99;i=1:p=?;\x1b\\",
    b"\x1b]52;c;aGVsbG8=\x07",
    b"\x1b]52;c;aGVs\r\nbG8=\x1b\\",
    b"\x1b]52;c;?\x07",
    b"\x1b]5522;type=read;Lg==\x1b\\",
    b"\x1b]60\x1b\\",
    b"\x1b]1337;ReportCellSize\x07",
    b"\x1b]1337;Copy=:aGVsbG8=\x07",
    b"\x1bP$qm\x1b\\",
    b"\x1bP$q q\x1b\\",
    b"\x1bP+q544e\x1b\\",
    b"\xc2\x90+q544e\xc2\x9c",
    b"\x1bP+Qfoo\x1b\\",
    b"\x1bP@kitty-cmd{}\x1b\\",
    b"\x1bPpS(E)\x1b\\",
    b"\x1bPtmux;\x1b\x1b[6n\x1b\\",
    b"\x1bPtmux;\x1b\x1b]52;c;aGVsbG8=\x1b\x1b\\\x1b\\",
    b"\x1b_Gi=1,a=q;AAAA\x1b\\",
];

/// Sequences that only show or set something.
const KEPT: &[&[u8]] = &[
    b"text\r\n",
    b"\t\x08\x07",
    "\u{e9}\u{5b57}\u{1f600}\u{9bc}".as_bytes(),
    b"\x1b[m",
    b"\x1b[1;31m",
    b"\x1b[38:2::1:2:3m",
    b"\x1b[2J\x1b[H",
    b"\x1b[?25l",
    b"\x1b[?1049h",
    b"\x1b[?12c",
    b"\x1b[>4n",
    b"\x1b[>4;2m",
    b"\x1b[2 q",
    b"\x1b[1q",
    b"\x1b[u",
    b"\x1b[>1u",
    b"\x1b[<u",
    b"\x1b[=1u",
    b"\x1b[!p",
    b"\x1b[62;1\"p",
    b"\x1b[22;2t",
    b"\x1b[8;24;80t",
    b"\x1b[>1t",
    b"\x1b[1;1;5;5$x",
    b"\x1b[2*x",
    b"\x1b[3S",
    b"\xc2\x9b31m",
    b"\x1b(B",
    b"\x1b#8",
    b"\x1b7\x1b8\x1bM\x1b=",
    b"\x1bktitle\x1b\\",
    b"\x1b]0;what?\x07",
    b"\x1b]2;?\x1b\\",
    b"\x1b]7;file://host/?\x1b\\",
    b"\x1b]8;;http://host/?a=?\x1b\\link\x1b]8;;\x1b\\",
    b"\x1b]10;red\x07",
    b"\x1b]4;1;rgb:ff/00/00\x07",
    b"\x1b]104\x07",
    b"\x1b]133;A\x07",
    b"\x1b]1337;File=:AAAA\x07",
    b"\x1b]L5\x1b\\",
    b"\x1bPq#0;2;0;0;0~\x1b\\",
    b"\x1bP1$tx\x1b\\",
    b"\x1bP+p544e\x1b\\",
    b"\x1b^nothing\x1b\\",
    b"\x1b_nothing\x1b\\",
];

fn filtered(output: &[u8]) -> Vec<u8> {
    let mut through = Vec::new();
    QueryFilter::default().filter(output, &mut through);
    through
}

#[track_caller]
fn shows(output: &[u8], wanted: &[u8]) {
    let shown = filtered(output);
    assert_eq!(
        String::from_utf8_lossy(&shown),
        String::from_utf8_lossy(wanted),
        "of {:?}",
        String::from_utf8_lossy(output)
    );
}

#[test]
fn queries_and_the_clipboard_are_left_out() {
    for query in LEFT_OUT {
        shows(&[b"a", *query, b"b"].concat(), b"ab");
    }
}

#[test]
fn what_only_shows_is_kept() {
    for shown in KEPT {
        shows(shown, shown);
    }
}

/// A sequence that a query has cut off still ends.
#[test]
fn nothing_is_left_open_where_something_was_left_out() {
    shows(b"\x1b]2;title\x1b[6nm", b"\x1b]2;title\x1b\\m");
    shows(b"\x1b]2;title\xc2\x9b6nm", b"\x1b]2;title\x1b\\m");
    shows(b"\x1b[3\x1b[6n1m", b"1m");
    shows(b"\x1b\x1b[6nc", b"c");
    shows(b"\x1b(\x1b[6nB", b"B");
    shows(b"\x1b[6\xc3\xa9n", "\u{e9}n".as_bytes());
    shows(b"\x1b]10;?\x1b[6nm", b"m");
    // What a terminal obeys within it is not the query's.
    shows(b"\x1b[6\r\nn", b"\r\n");
    shows(b"\x1b[3\x051m", b"\x1b[31m");
}

#[test]
fn what_is_given_up_is_void() {
    shows(b"\x1b[6\x18n", b"\x1b[6\x18n");
    shows(b"\x1b]52;c;AAAA\x18x", b"\x18x");
    shows(b"\x1b[6\x1b[1m", b"\x1b[1m");
}

/// A long string is known by its beginning and is not kept in memory.
#[test]
fn long_strings() {
    for (begin, end, is_kept) in [
        (&b"\x1b]52;c;"[..], &b"\x07"[..], false),
        (b"\x1b]1337;File=:", b"\x07", true),
        (b"\x1b]2;", b"\x1b\\", true),
        (b"\x1bPq", b"\x1b\\", true),
        (b"\x1bP$q", b"\x1b\\", false),
        (b"\x1bPtmux;", b"\x1b\\", false),
        (b"\x1b_G", b"\xc2\x9c", false),
        (b"\x1b[", b"n", false),
    ] {
        let string = [begin, &[b'1'; 3 * MAX_SEQUENCE], end].concat();
        let mut queries = QueryFilter::default();
        let mut through = Vec::new();
        queries.filter(&string[..2 * MAX_SEQUENCE], &mut through);
        assert!(queries.is_undecided() && queries.held.len() <= MAX_SEQUENCE);
        queries.filter(&string[2 * MAX_SEQUENCE..], &mut through);
        assert!(!queries.is_undecided());
        queries.filter(b"\x1b[6nafter", &mut through);
        let wanted = if is_kept { [&string, &b"after"[..]].concat() } else { b"after".to_vec() };
        assert!(through == wanted, "{begin:?}: {} bytes of {}", through.len(), wanted.len());
    }
}

/// One who comes in the midst of a query gets none of it; of anything else,
/// all.
#[test]
fn who_comes_in_the_midst_of_a_sequence() {
    for (sequence, wanted) in LEFT_OUT
        .iter()
        .map(|query| (*query, &b""[..]))
        .chain(KEPT.iter().map(|shown| (*shown, *shown)))
    {
        for cut in 0..sequence.len() {
            let (mut queries, mut shown) = (QueryFilter::default(), Vec::new());
            queries.filter(&sequence[..cut], &mut shown);
            let mut copy = queries.is_undecided().then(|| queries.clone());
            match &mut copy {
                Some(copy) => copy.filter(&sequence[cut..], &mut shown),
                None if wanted.is_empty() && cut > 0 => panic!("{sequence:?} is decided at {cut}"),
                None => queries.filter(&sequence[cut..], &mut shown),
            }
            assert_eq!(shown, wanted, "{sequence:?} cut at {cut}");
            assert!(copy.is_none_or(|copy| !copy.is_undecided()));
        }
    }
}

/// Bytes that make sequences likely.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => proptest::sample::select(b"\x1b[]P_\\?>$;=q nct60123\x07\x18\x9b\x9c\x9d\xc2\xe2\x05m".to_vec())
            .prop_map(|byte| vec![byte]),
        1 => proptest::sample::select([LEFT_OUT, KEPT].concat()).prop_map(<[u8]>::to_vec),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        1 => Just(b"\x1bPtmux;".to_vec()),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// An ESC that means nothing goes, and what stood around it must be no character then
/// that goes on with the string.
#[test]
fn the_end_of_a_string_stays_its_end() {
    assert_eq!(filtered(b"\x9d2;\xc3\x1b\x9c\x1b[m."), b"\x9d2;\xc3\x1b\\\x1b[m.");
}

proptest! {
    #[test]
    fn it_does_not_matter_how_output_is_cut(
        output in likely(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(output.len() + 1)).collect();
        cuts.extend([0, output.len()]);
        cuts.sort_unstable();
        let (mut queries, mut through) = (QueryFilter::default(), Vec::new());
        for pair in cuts.windows(2) {
            queries.filter(&output[pair[0]..pair[1]], &mut through);
        }
        prop_assert_eq!(through, filtered(&output));
    }

    #[test]
    fn what_came_through_holds_no_query(output in likely()) {
        // Whatever it begins ends.
        let once = filtered(&[output, b"\x18.".to_vec()].concat());
        prop_assert_eq!(filtered(&once), once);
    }

    #[test]
    fn each_is_left_out_or_kept_beside_others(
        pieces in proptest::collection::vec(
            (any::<bool>(), any::<proptest::sample::Index>()), 0..20,
        )
    ) {
        let (mut output, mut wanted) = (Vec::new(), Vec::new());
        for (is_kept, which) in pieces {
            if is_kept {
                output.extend_from_slice(KEPT[which.index(KEPT.len())]);
                wanted.extend_from_slice(KEPT[which.index(KEPT.len())]);
            } else {
                output.extend_from_slice(LEFT_OUT[which.index(LEFT_OUT.len())]);
            }
        }
        prop_assert_eq!(filtered(&output), wanted);
    }
}
