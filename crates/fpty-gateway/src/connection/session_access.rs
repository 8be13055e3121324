//! Who may come to a session: its user's clients, where that is known, and whoever
//! has its secret.

use std::fmt;

use serde::{Deserialize, Serialize};

use fpty::proto::session_key::{FoundBy, SECRET_LENGTH, Secret, SessionKey};
use fpty::sys::socket::Stream;

/// The user of a client that nobody knows: over TCP, or of another user namespace.
/// No process has this number (chown(2) takes it for none).
pub const UNKNOWN_UID: u32 = u32::MAX;

/// Whose a client is.
pub fn uid_of(client: &Stream) -> u32 {
    client.peer_uid().unwrap_or(UNKNOWN_UID)
}

/// Whether a user may have another one's session.
pub fn may_access(owner: u32, user: u32) -> bool {
    user != UNKNOWN_UID && (user == 0 || owner == user)
}

/// The secrets of a session.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    current: Option<Secret>,
    /// What its client came with, which may not have heard of the next one.
    previous: Option<Secret>,
}

/// What is kept of them by who keeps sessions.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSecrets([Option<[u8; SECRET_LENGTH]>; 2]);

impl fmt::Debug for SavedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Secrets {
    /// Of a session that begins.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { current: Some(Secret::new()?), previous: None })
    }

    /// Those of a gateway before us.
    pub fn restore(kept: SavedSecrets) -> Self {
        let [current, previous] = kept.0.map(|secret| secret.map(Secret::from_bytes));
        Self { current, previous }
    }

    /// To be kept.
    pub fn save(&self) -> SavedSecrets {
        let bytes = |secret: &Option<Secret>| secret.as_ref().map(|secret| *secret.bytes());
        SavedSecrets([bytes(&self.current), bytes(&self.previous)])
    }

    /// Whether this is one of them.
    pub fn matches(&self, secret: &Secret) -> bool {
        let is = |own: &Option<Secret>| own.as_ref().is_some_and(|own| own == secret);
        is(&self.current) | is(&self.previous)
    }

    /// A client gets the session, which came with this secret: it gets another one.
    pub fn rotate(&mut self, came_with: Option<Secret>) {
        // Where there is none the one that it has goes on.
        if let Ok(next) = Secret::new() {
            *self = Self { current: Some(next), previous: came_with };
        }
    }

    /// The client has the new one; whether the one before was good until now.
    pub fn confirm(&mut self) -> bool {
        self.previous.take().is_some()
    }

    /// What a session's client is told of them; `None`: there are none.
    pub fn key(&self, id: &str, owner: u32) -> Option<SessionKey> {
        let found_by = if owner == UNKNOWN_UID { FoundBy::Secret } else { FoundBy::User };
        Some(SessionKey { id: id.to_owned(), secret: Some(self.current.clone()?), found_by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current(secrets: &Secrets) -> Secret {
        secrets.current.clone().expect("a secret")
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
        assert_eq!(format!("{:?}", secrets.save()), "Kept");
        let again = Secrets::restore(secrets.save());
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
