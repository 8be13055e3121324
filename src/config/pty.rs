//! The options of the pty plugin.
