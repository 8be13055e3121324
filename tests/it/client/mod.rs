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
//! | `detach.rs` | a person who detaches and reattaches, watches, or is robbed of the session |
//! | `detach_packets.rs` | what `fpty` sends to detach and to reattach |
//! | `restored_screen.rs` | the screen after a reattach, as if nobody had left |
//! | `restored_output.rs` | floods, pastes and hostile scrollbacks over a reattach |
//! | `reconnect.rs` | what a person sees and may type while the connection is broken |
//! | `tmux.rs` | a person in tmux |

pub mod arguments;
pub mod detach;
pub mod detach_packets;
pub mod escape;
pub mod exit_status;
pub mod job_control;
pub mod output;
pub mod packets;
pub mod pipes;
pub mod reconnect;
pub mod restored_output;
pub mod restored_screen;
pub mod sessions;
pub mod signal_keys;
pub mod start;
pub mod suspend;
pub mod terminal_settings;
pub mod tmux;
