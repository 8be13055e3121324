//! Fuzz targets (`fuzz/`, feature `fuzzing`): messages of other processes and of clients are
//! decoded. Each takes any bytes and panics where something is not as it has to be.

pub use crate::connection::client_hello::{ClientHello, Handshake, HandshakeStep};
use crate::control::peers::attach_request::AttachMatch;
use crate::control::peers::{Message, PeerRequest};
use crate::control::session_page::Page;
use crate::observe::audit::EndReason;
use crate::observe::recording::asciicast::{Asciicast, CastHeader, Format};
use crate::observe::recording::recorder_protocol as recorder;
use crate::observe::recording::recorder_protocol::{Answer, Begin, Kind};
use crate::process::ipc::{decode, encode};
use crate::process::supervisor::supervisor_protocol;
use fpty::proto::SessionEnd;
use fpty::sys::Size;

/// Messages between gateways.
pub fn peers(bytes: &[u8]) {
    if let Some(message) = Message::decode(bytes) {
        assert_eq!(
            Message::decode(&message.encode()).map(|it| it.encode()),
            Some(message.encode())
        );
        if let Some(question) = decode::<PeerRequest>(message.body) {
            assert_eq!(decode(&encode(&question)), Some(question));
        }
    }
    if let Some(found) = decode::<AttachMatch>(bytes) {
        assert_eq!(decode(&encode(&found)), Some(found));
    }
    if let Some(piece) = Page::decode(bytes) {
        let found = piece.found().count();
        assert!(found <= bytes.len());
        assert_eq!(Page::decode(&piece.encode()), Some(piece));
    }
}

/// Messages to the supervisor, and from it to the next gateway.
pub fn supervisor(bytes: &[u8]) {
    let message = supervisor_protocol::decode(bytes, Vec::new());
    if let Some(supervisor_protocol::Message::Session(mut record, _)) = message {
        // What another process writes into the log, it writes once.
        let _ = record.last.take(EndReason::Lost, None);
        assert_eq!(record.last.take(EndReason::Lost, None), None);
        if let Some((payload, _)) = &record.ended {
            if let Some(ended) = SessionEnd::read(payload) {
                assert!(SessionEnd::read(&ended.packet()[fpty::proto::HEADER..]).is_some());
            }
        }
    }
}

/// Arguments of an exec request.
pub fn arguments(bytes: &[u8]) {
    if let Ok(words) = crate::connection::exec_request::arguments(bytes) {
        let mut again = Vec::new();
        words.iter().for_each(|word| again.extend_from_slice(word.to_bytes_with_nul()));
        assert_eq!(again.strip_suffix(b"\0"), Some(bytes.strip_suffix(b"\0").unwrap_or(bytes)));
    }
}

/// Messages in the recorder's queue, cut at every so many bytes; and the file that is written:
/// lines of JSON, and nothing that a terminal obeys.
pub fn recorder(bytes: &[u8], cut: usize) {
    let mut whole = bytes;
    let mut messages = Vec::new();
    let complete = loop {
        match recorder::next(&mut whole) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => break true,
            Err(recorder::ProtocolError) => break false,
        }
    };
    let (mut pending, mut count) = (Vec::new(), 0);
    let mut makes_sense = true;
    for piece in bytes.chunks(cut.max(1)) {
        pending.extend_from_slice(piece);
        let mut rest = pending.as_slice();
        while makes_sense {
            match recorder::next(&mut rest) {
                Ok(Some(message)) => {
                    assert_eq!(message, messages[count]);
                    count += 1;
                }
                Ok(None) => break,
                Err(recorder::ProtocolError) => makes_sense = false,
            }
        }
        let done = pending.len() - rest.len();
        pending.drain(..done);
    }
    assert_eq!((count, makes_sense), (messages.len(), complete));
    for format in [Format::V2, Format::V3] {
        write(&messages, format);
    }
    let _ = serde_json::from_slice::<Answer>(bytes);
}

fn write(messages: &[recorder::Message<'_>], format: Format) {
    let (mut out, mut shown) = (Vec::new(), String::new());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let begin = messages.iter().find(|message| message.kind == Kind::Begin);
    let begin = begin.and_then(|begin| serde_json::from_slice::<Begin>(begin.body).ok());
    let named =
        begin.map_or_else(|| text(messages.first().map_or(b"", |it| it.body)), |it| it.name);
    let head = CastHeader {
        format,
        rows: 24,
        cols: 80,
        timestamp: 1,
        command: named.clone(),
        title: named.clone(),
        term: Some(named),
    };
    let mut cast = Asciicast::begin(&head, &mut out);
    for message in messages {
        match message.kind {
            Kind::Output => cast.output(message.at, message.body, &mut out),
            Kind::Input => cast.input(message.at, message.body, &mut out),
            Kind::Resize => {
                let size = Size { rows: 1, cols: u16::try_from(message.at).unwrap_or(9) };
                cast.resize(message.at, size, &mut out);
            }
            _ => cast.mark(message.at, &text(message.body), &mut out),
        }
    }
    cast.end(u64::MAX, Some(-1), &mut out);
    cast.trailer(1, "0", 2, &mut out);
    let lines = String::from_utf8(out).unwrap_or_else(|error| panic!("{error}"));
    assert!(lines.ends_with('\n'));
    for line in lines.lines().filter(|line| !line.starts_with('#')) {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        if value[1] == "o" {
            shown.push_str(value[2].as_str().unwrap_or_default());
        }
    }
    let all: Vec<u8> = messages
        .iter()
        .filter(|message| message.kind == Kind::Output)
        .flat_map(|message| message.body.iter().copied())
        .collect();
    assert_eq!(shown, text(&all));
}
