//! uWSGI's `forkptyrouter` and `pty` plugins: a pseudo-terminal server for
//! running instances, jails and containers, and its client.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`session`] | one terminal and its client, as a state machine |
//! | [`config`] | options as typed, and the validated configuration |
//! | `shares` | shares of what there is only so much of |
//! | `uwsgi` | the server that loads us: options, gateways, log, ABI |
//! | `router` | the gateway: `--forkpty-router` and its options |
//! | `pty_server` | `--pty-socket` |
//! | `plugin` | the exported symbols |
//!
//! What needs no uWSGI, and so the client, is in the crate [`fpty`].

#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod ffi;
pub(crate) mod gateway;
#[allow(unsafe_code)]
mod plugin;
pub mod pty_options;
mod pty_server;
#[allow(unsafe_code)]
mod uwsgi;

/// What the fuzzers try that is not for others.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use crate::gateway::fuzzing;
