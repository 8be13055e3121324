//! The shared terminal of a worker (`--pty-socket`).
//!
//! | file | subject |
//! | --- | --- |
//! | `shared_terminal.rs` | everybody sees the same; the log, the input, a program |
//! | `scrollback.rs` | what a late client sees; viewers |
//! | `slow_clients.rs` | floods, and clients that do not read |
//! | `unavailable.rs` | refusals where there is no worker |
//! | `worker_lifecycle.rs` | the worker is killed, reloaded, idle |
//! | `python_prompt.rs` | a Python prompt in a worker |

pub mod python_prompt;
pub mod scrollback;
pub mod shared_terminal;
pub mod slow_clients;
pub mod unavailable;
pub mod worker_lifecycle;
