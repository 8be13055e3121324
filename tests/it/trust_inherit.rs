//! What outlives the gateways inherits nothing of theirs.
