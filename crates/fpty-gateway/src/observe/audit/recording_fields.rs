//! The fields of a recording in the audit's line of an end.

use serde::{Deserialize, Serialize};

use super::line::{AuditLine, PATH, SHORT, Value};

/// Result of a session's recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingResult {
    /// The file.
    pub path: String,
    /// The file's length, in bytes; `None`: it is not known.
    pub bytes: Option<u64>,
    /// Missing bytes of the output.
    pub dropped: u64,
    /// The hash of what stands before its last line; `None`: it is not known.
    pub sha256: Option<String>,
}

impl RecordingResult {
    /// The result of a recording of which the file's length and hash are not known.
    pub fn unknown(path: &str, dropped: u64) -> Self {
        Self { path: path.to_owned(), bytes: None, dropped, sha256: None }
    }
}

/// Writes the fields of a recording, the last of its line.
pub fn write_recording(line: &mut AuditLine, recorded: &RecordingResult) {
    line.member("record", "path", Value::Text(&recorded.path, PATH))
        .member("record", "bytes", Value::number(recorded.bytes))
        .member("record", "dropped", Value::Number(recorded.dropped))
        .member("record", "sha256", Value::text(recorded.sha256.as_deref(), SHORT));
}
