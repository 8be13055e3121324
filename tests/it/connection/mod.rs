//! How clients connect, and which of them are let in.
//!
//! | file | subject |
//! | --- | --- |
//! | `addresses.rs` | every kind of address that the server can bind |
//! | `handshake.rs` | slow, late and incomplete requests of the extended mode |
//! | `extended_mode.rs` | packets of the extended mode, by the protocol reference |
//! | `packets.rs` | packets of uwsgi mode, in any fragmentation |
//! | `malformed_packets.rs` | packets that make no sense, by the thousand |
//! | `http_requests.rs` | HTTP requests of a browser at our sockets |
//! | `hostile_clients.rs` | half-closed connections, floods, odd use of sockets |
//! | `fair_turns.rs` | floods of packets beside other clients |
//! | `passed_descriptors.rs` | descriptors that nobody asked for (SCM_RIGHTS) |
//! | `limits.rs` | session limits over several gateways |
//! | `per_user_shares.rs` | what one user may take of each limit |
//! | `refusals.rs` | how a refusal reaches the client |
//! | `proxies.rs` | clients behind socat and other relays |
//! | `tcp_close.rs` | the end of a session over TCP: no byte is lost to a reset |
//! | `vanished_peer.rs` | a client whose machine vanishes (soak) |
//! | `name_lookup.rs` | a directory service that hangs |

pub mod addresses;
pub mod extended_mode;
pub mod fair_turns;
pub mod handshake;
pub mod hostile_clients;
pub mod http_requests;
pub mod limits;
pub mod malformed_packets;
pub mod name_lookup;
pub mod packets;
pub mod passed_descriptors;
pub mod per_user_shares;
pub mod proxies;
pub mod refusals;
pub mod tcp_close;
pub mod vanished_peer;
