//! The command `fpty` and the plugin's client (`--pty-connect`).
//!
//! | file | subject |
//! | --- | --- |
//! | `arguments.rs` | arguments of `fpty` |
//! | `start.rs` | what a client was started with: descriptors, signals |
//! | `pipes.rs` | input and output in pipes |
//! | `output.rs` | readers that close, and full files |
//! | `packets.rs` | what the plugin's client sends |
//! | `escape.rs` | what is typed to the client itself |
//! | `signal_keys.rs` | keys that are signals |
//! | `job_control.rs` | the same keys, and jobs at either end |
//! | `suspend.rs` | a client that is stopped and continued |
//! | `terminal_settings.rs` | the terminal's settings afterwards |
//! | `exit_status.rs` | exit status and error line |
//! | `sessions.rs` | detach, attach, list and kill |
//! | `tmux.rs` | a person in tmux |

pub mod arguments;
pub mod escape;
pub mod exit_status;
pub mod job_control;
pub mod output;
pub mod packets;
pub mod pipes;
pub mod sessions;
pub mod signal_keys;
pub mod start;
pub mod suspend;
pub mod terminal_settings;
pub mod tmux;
