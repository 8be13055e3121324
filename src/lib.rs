//! uWSGI's `forkptyrouter` and `pty` plugins: a pseudo-terminal server for
//! running instances, jails and containers, and its client.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `plugin` | the exported symbols |
//! | `uwsgi` | the server that loads us: options, gateways, log, ABI |
//! | [`pty_options`] | the options of the pty plugin |
//! | `pty_server` | `--pty-socket` |
//!
//! The gateway, `--forkpty-router` and its options, is in the crate [`fpty_gateway`];
//! what both ends share, and the client, in [`fpty`].

#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod ffi;
#[allow(unsafe_code)]
mod plugin;
pub mod pty_options;
mod pty_server;
#[allow(unsafe_code)]
mod uwsgi;
