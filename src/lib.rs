//! uWSGI's `forkptyrouter` and `pty` plugins: a pseudo-terminal server for
//! running instances, jails and containers, and its client.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`proto`] | the packets of uwsgi mode and their incremental codec |
//! | [`relay`] | bounded buffers between two ends |
//! | [`session`] | one terminal and its client, as a state machine |
//! | [`config`] | options as typed, and the validated configuration |
//! | [`sys`] | the operating system: terminals, processes, sockets, polling |
//! | `uwsgi` | the server that loads us: options, gateways, log, ABI |
//! | `router` | the gateway: `--forkpty-router` and its options |
//! | `pty_client` | `--pty-connect`, `--pty-uconnect` |
//! | `pty_server` | `--pty-socket` |
//! | `plugin` | the exported symbols |

#![deny(unsafe_code)]

pub mod config;
pub mod error;
pub mod proto;
pub mod relay;
pub mod session;
#[allow(unsafe_code)]
pub mod sys;

#[allow(unsafe_code)]
mod ffi;
#[allow(unsafe_code)]
mod plugin;
mod pty_client;
mod pty_server;
mod router;
#[allow(unsafe_code)]
mod uwsgi;
