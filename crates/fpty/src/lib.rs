//! Parts that both ends of a pseudo-terminal server share, and the client. Nothing here
//! knows of uWSGI.
//!
//! | module | subject |
//! | --- | --- |
//! | [`backlog`] | bytes that wait for a slow receiver |
//! | [`client`] | the client: a terminal or pipes, connected to a server |
//! | [`error`] | the error type: what failed, on what, and why |
//! | [`exit_status`] | the exit statuses 254 and 255; a process's exit status as the end of a session |
//! | `fair_share` | shares of a limited resource, by user |
//! | [`proto`] | the protocol: packets of uwsgi mode and of the extended mode |
//! | [`scrollback`] | the last output of a session, with checkpoints of its modes |
//! | [`sys`] | the operating system: terminals, processes, sockets, polling |
//! | [`terminal`] | escape sequences, modes, the query filter |
//! | [`text`] | untrusted text, escaped for a terminal, a log or a file |

#![deny(unsafe_code)]

pub mod backlog;
pub mod client;
pub mod error;
pub mod exit_status;
#[cfg(feature = "server")]
pub mod fair_share;
pub mod proto;
pub mod scrollback;
#[allow(unsafe_code)]
pub mod sys;
pub mod terminal;
pub mod text;
