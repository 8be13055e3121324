//! What both ends of a pseudo-terminal server speak and use, and the client.
//! Nothing here knows of uWSGI.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`proto`] | the packets of uwsgi mode and their incremental codec |
//! | [`relay`] | bounded buffers between two ends |
//! | [`sys`] | the operating system: terminals, processes, sockets, polling |
//! | [`client`] | connects a terminal or pipes to a server |
//! | [`ended`] | how a process ended, as the other end is told of it |
//! | [`remains`] | what is left of a session for whoever comes back to it |
//! | [`text`] | text of others, on its way to a terminal, a log or a file |
//! | [`error`] | what failed, on what, and why |

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
