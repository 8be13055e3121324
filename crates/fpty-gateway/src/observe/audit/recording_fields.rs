//! What the audit's line of an end has of the recording.

use serde::{Deserialize, Serialize};

use super::line::{Line, PATH, SHORT, Value};

/// What became of the recording of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The file.
    pub path: String,
    /// Its length; `None`: it is not known.
    pub bytes: Option<u64>,
    /// What is missing in it, in bytes.
    pub dropped: u64,
    /// The hash of what stands before its last line; `None`: it is not known.
    pub sha256: Option<String>,
}

/// What became of a session's recording: the last of its fields.
pub fn of_recording(line: &mut Line, recorded: &Recorded) {
    line.member("record", "path", Value::Text(&recorded.path, PATH))
        .member("record", "bytes", Value::number(recorded.bytes))
        .member("record", "dropped", Value::Number(recorded.dropped))
        .member("record", "sha256", Value::text(recorded.sha256.as_deref(), SHORT));
}
