//! Who may come to a session: its user's clients, where that is known, and whoever
//! has its secret.

use std::fmt;

use serde::{Deserialize, Serialize};

use fpty::proto::session_key::{Finds, SECRET, Secret, SessionKey};
use fpty::sys::socket::Stream;

/// The user of a client that nobody knows: over TCP, or of another user namespace.
/// No process has this number (chown(2) takes it for none).
pub const NOBODY: u32 = u32::MAX;

/// Whose a client is.
pub fn user_of(client: &Stream) -> u32 {
    client.peer_uid().unwrap_or(NOBODY)
}

/// Whether a user may have another one's session.
pub fn is_open_to(owner: u32, user: u32) -> bool {
    user != NOBODY && (user == 0 || owner == user)
}

/// The secrets of a session.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    now: Option<Secret>,
    /// What its client came with, which may not have heard of the next one.
    before: Option<Secret>,
}

/// What is kept of them by who keeps sessions.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept([Option<[u8; SECRET]>; 2]);

impl fmt::Debug for Kept {
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
        Ok(Self { now: Some(Secret::new()?), before: None })
    }

    /// Those of a gateway before us.
    pub fn of(kept: Kept) -> Self {
        let [now, before] = kept.0.map(|secret| secret.map(Secret::of));
        Self { now, before }
    }

    /// To be kept.
    pub fn kept(&self) -> Kept {
        let bytes = |secret: &Option<Secret>| secret.as_ref().map(|secret| *secret.bytes());
        Kept([bytes(&self.now), bytes(&self.before)])
    }

    /// Whether this is one of them.
    pub fn are(&self, secret: &Secret) -> bool {
        let is = |own: &Option<Secret>| own.as_ref().is_some_and(|own| own == secret);
        is(&self.now) | is(&self.before)
    }

    /// A client gets the session, which came with this secret: it gets another one.
    pub fn renew(&mut self, came_with: Option<Secret>) {
        // Where there is none the one that it has goes on.
        if let Ok(next) = Secret::new() {
            *self = Self { now: Some(next), before: came_with };
        }
    }

    /// The client has the new one; whether the one before was good until now.
    pub fn settle(&mut self) -> bool {
        self.before.take().is_some()
    }

    /// What a session's client is told of them; `None`: there are none.
    pub fn key(&self, id: &str, owner: u32) -> Option<SessionKey> {
        let finds = if owner == NOBODY { Finds::Secret } else { Finds::User };
        Some(SessionKey { id: id.to_owned(), secret: Some(self.now.clone()?), finds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(secrets: &Secrets) -> Secret {
        secrets.now.clone().expect("a secret")
    }

    #[test]
    fn a_secret_is_good_until_the_next_one_has_arrived() {
        let mut secrets = Secrets::new().expect("a secret");
        let (first, none) = (now(&secrets), Secret::of([0; SECRET]));
        assert!(secrets.are(&first) && !secrets.are(&none));
        secrets.renew(Some(first.clone()));
        let second = now(&secrets);
        assert!(first != second && secrets.are(&first) && secrets.are(&second));
        // The client was lost before it was told, or after that.
        for came_with in [&first, &second] {
            let mut secrets = secrets.clone();
            secrets.renew(Some(came_with.clone()));
            assert!(secrets.are(came_with) && secrets.are(&now(&secrets)));
            assert_eq!(secrets.are(&first), *came_with == first);
        }
        assert!(secrets.settle() && !secrets.settle());
        assert!(!secrets.are(&first) && secrets.are(&second));
        assert_eq!(format!("{:?}", secrets.kept()), "Kept");
        let again = Secrets::of(secrets.kept());
        assert!(!again.are(&first) && again.are(&second));
        // Whoever takes it by being who it is takes it from whoever has the secret.
        secrets.renew(None);
        assert!(!secrets.are(&second) && !Secrets::default().are(&none));
    }

    #[test]
    fn nobody_has_nothing() {
        assert!(is_open_to(7, 7) && is_open_to(7, 0) && is_open_to(NOBODY, 0));
        assert!(!is_open_to(7, 8) && !is_open_to(NOBODY, NOBODY) && !is_open_to(0, NOBODY));
    }
}
