//! What outlives a gateway, and who sees to it.
//!
//! A process of its own, the supervisor, keeps the descriptors of sessions that
//! outlive their gateway (as systemd's store of descriptors does): those that can be
//! left, and those whose terminal their client has. It exists where there is such a
//! session. Of all others there is a word in shared memory, and a line where there is
//! an audit; they cost neither a message nor a system call.
//!
//! | file | subject |
//! | --- | --- |
//! | `after_gateway.rs` | what is done with those whose gateway is gone |
//! | `client.rs` | the gateway's end of it |
//! | `end_lines.rs` | every open session, in shared memory |
//! | `end_record.rs` | the last line of the audit, for whoever has to write it |
//! | `grace.rs` | who ignores that is killed, after the same grace |
//! | `leaders.rs` | every open session, in shared memory |
//! | `link.rs` | by which gateways reach it, over a reload; whether there is one |
//! | `orphans.rs` | its sessions while there is no gateway |
//! | `protocol.rs` | what a gateway and the supervisor say to each other |
//! | `server.rs` | the supervisor itself |

pub mod after_gateway;
pub mod client;
pub mod end_lines;
pub mod end_record;
pub mod grace;
pub mod leaders;
pub mod link;
pub mod orphans;
pub mod protocol;
pub(crate) mod server;
