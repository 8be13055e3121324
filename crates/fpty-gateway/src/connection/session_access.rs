//! Access of clients to a session: clients of its user may attach, where the kernel knows
//! users, and clients that have its secret.

use serde::{Deserialize, Serialize};

use fpty::proto::session_key::{FoundBy, Secret, SessionKey};
use fpty::sys::socket::Stream;

/// The uid of a client that the kernel does not know: over TCP, or of another user
/// namespace. No process has it (chown(2) takes it for none).
pub const UNKNOWN_UID: u32 = u32::MAX;

/// The uid of a client.
pub fn uid_of(client: &Stream) -> u32 {
    client.peer_uid().unwrap_or(UNKNOWN_UID)
}

/// Whether a user may access a session of this owner.
pub fn may_access(owner: u32, user: u32) -> bool {
    user != UNKNOWN_UID && (user == 0 || owner == user)
}

/// The secrets of a session, also as the supervisor keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets(
    /// The current secret.
    Option<Secret>,
    /// The previous one, that the client attached with: it may not have got the current one.
    Option<Secret>,
);

impl Secrets {
    /// A secret for a new session.
    ///
    /// # Errors
    /// No random bytes (getrandom(2)).
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Some(Secret::new()?), None))
    }

    /// Whether a secret matches, in constant time.
    pub fn matches(&self, secret: &Secret) -> bool {
        let Self(current, previous) = self;
        let is = |own: &Option<Secret>| own.as_ref().is_some_and(|own| own == secret);
        is(current) | is(previous)
    }

    /// Rotates the secret for a client that attached with this one.
    pub fn rotate(&mut self, came_with: Option<Secret>) {
        // Where there is none the one that it has goes on.
        if let Ok(next) = Secret::new() {
            *self = Self(Some(next), came_with);
        }
    }

    /// The client has confirmed the new secret. Returns whether the previous one was valid
    /// until now.
    pub fn confirm(&mut self) -> bool {
        self.1.take().is_some()
    }

    /// The session key for the client; `None`: there is no secret.
    pub fn key(&self, id: &str, owner: u32) -> Option<SessionKey> {
        let found_by = if owner == UNKNOWN_UID { FoundBy::Secret } else { FoundBy::User };
        Some(SessionKey { id: id.to_owned(), secret: Some(self.0.clone()?), found_by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpty::proto::session_key::SECRET_LENGTH;

    fn current(secrets: &Secrets) -> Secret {
        secrets.0.clone().expect("a secret")
    }

    #[test]
    fn a_secret_is_good_until_the_next_one_has_arrived() {
        let mut secrets = Secrets::new().expect("a secret");
        let (first, none) = (current(&secrets), Secret::from_bytes([0; SECRET_LENGTH]));
        assert!(secrets.matches(&first) && !secrets.matches(&none));
        secrets.rotate(Some(first.clone()));
        let second = current(&secrets);
        assert!(first != second && secrets.matches(&first) && secrets.matches(&second));
        // The client was lost before it was told, or after that.
        for came_with in [&first, &second] {
            let mut secrets = secrets.clone();
            secrets.rotate(Some(came_with.clone()));
            assert!(secrets.matches(came_with) && secrets.matches(&current(&secrets)));
            assert_eq!(secrets.matches(&first), *came_with == first);
        }
        assert!(secrets.confirm() && !secrets.confirm());
        assert!(!secrets.matches(&first) && secrets.matches(&second));
        assert_eq!(format!("{secrets:?}"), "Secrets(Some(Secret), None)");
        let stored = serde_json::to_string(&secrets).expect("JSON");
        assert!(stored.starts_with("[[") && stored.ends_with("],null]"), "{stored}");
        let again: Secrets = serde_json::from_str(&stored).expect("secrets");
        assert!(!again.matches(&first) && again.matches(&second));
        // Whoever takes it by being who it is takes it from whoever has the secret.
        secrets.rotate(None);
        assert!(!secrets.matches(&second) && !Secrets::default().matches(&none));
    }

    #[test]
    fn nobody_has_nothing() {
        assert!(may_access(7, 7) && may_access(7, 0) && may_access(UNKNOWN_UID, 0));
        assert!(
            !may_access(7, 8)
                && !may_access(UNKNOWN_UID, UNKNOWN_UID)
                && !may_access(0, UNKNOWN_UID)
        );
    }
}
