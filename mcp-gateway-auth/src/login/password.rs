//! Passwords and their hashes.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use mcp_gateway_core::record::Secret;
use tokio::sync::Semaphore;

/// The bounds of a password (NIST SP 800-63B §5.1.1.2: length alone, no rules about characters).
#[derive(Debug)]
pub struct PasswordLimits;

impl PasswordLimits {
    /// Characters, at least.
    pub const SHORTEST: usize = 12;
    /// Bytes, at most.
    pub const LONGEST: usize = 1_024;
}

/// Hashes passwords with Argon2id (19 MiB, two passes: the OWASP recommendation), off the async threads, a few at once:
/// a flood of logins takes neither all memory nor all cores.
#[derive(Clone)]
pub struct Passwords {
    at_once: Arc<Semaphore>,
    patience: Duration,
}

/// Why a password was not hashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// Others took all the time that there was: 503.
    #[error("too many passwords are being checked")]
    Busy,
    /// It is a defect, or the runtime ends.
    #[error("a password cannot be hashed: {0}")]
    Failed(String),
}

impl Passwords {
    /// So many are hashed at once: each takes 19 MiB and about 20 ms of a core.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self { at_once: Arc::new(Semaphore::new(at_once.max(1))), patience: Duration::from_secs(5) }
    }

    /// The same, where nobody waits longer than this (`login.hash_wait_ms`; 5 s by default).
    #[must_use]
    pub fn waiting(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether somebody may have this password.
    #[must_use]
    pub fn is_long_enough(password: &Secret) -> bool {
        let text = password.expose();
        text.len() <= PasswordLimits::LONGEST && text.chars().count() >= PasswordLimits::SHORTEST
    }

    /// The hash of a password, with a salt of its own, as a PHC string.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn hash(&self, password: &Secret) -> Result<Secret, HashError> {
        self.work(password, |password| {
            let hash = Argon2::default().hash_password(password.expose().as_bytes());
            hash.map(|hash| Secret::new(hash.to_string())).map_err(|error| HashError::Failed(error.to_string()))
        })
        .await?
    }

    /// Whether a password is the one of this hash. Without a hash it is not, and that takes as long to say.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn verify(&self, password: &Secret, hash: Option<Secret>) -> Result<bool, HashError> {
        self.work(password, move |password| {
            let (hash, known) = match &hash {
                Some(hash) => (hash.expose(), true),
                None => (nobodys(), false),
            };
            let parsed = PasswordHash::new(hash).map_err(|error| HashError::Failed(error.to_string()))?;
            let right = Argon2::default().verify_password(password.expose().as_bytes(), &parsed).is_ok();
            Ok(right && known)
        })
        .await?
    }

    async fn work<T: Send + 'static>(
        &self,
        password: &Secret,
        work: impl FnOnce(&Secret) -> T + Send + 'static,
    ) -> Result<T, HashError> {
        let ended = |error: &dyn fmt::Display| HashError::Failed(error.to_string());
        let place = Arc::clone(&self.at_once).acquire_owned();
        let place = tokio::time::timeout(self.patience, place).await.map_err(|_| HashError::Busy)?;
        // Held by the work itself: whoever hangs up does not make room before it is done.
        let permit = place.map_err(|error| ended(&error))?;
        let password = password.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&password)
        });
        done.await.map_err(|error| ended(&error))
    }
}

impl Default for Passwords {
    /// Two at once.
    fn default() -> Self {
        Self::new(2)
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").field("free", &self.at_once.available_permits()).finish()
    }
}

/// The hash of a password that nobody knows, with the parameters that all have.
fn nobodys() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let unknown: [u8; 32] = rand::random();
        Argon2::default().hash_password(&unknown).map(|hash| hash.to_string()).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_verifies() {
        let passwords = Passwords::default();
        let right = Secret::new("correct horse battery");
        let hash = passwords.hash(&right).await.unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "the parameters that are documented");
        assert_ne!(hash, passwords.hash(&right).await.unwrap(), "each has its own salt");
        assert!(passwords.verify(&right, Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(&Secret::new("correct horse batterY"), Some(hash)).await.unwrap());
        assert!(!passwords.verify(&right, None).await.unwrap());
        assert!(passwords.verify(&right, Some(Secret::new("$argon2id$broken"))).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_logins_does_not_wait_for_ever() {
        let passwords = Passwords::new(1).waiting(Duration::from_millis(100));
        let _busy = Arc::clone(&passwords.at_once).acquire_owned().await.unwrap();
        let begun = tokio::time::Instant::now();
        assert!(matches!(passwords.hash(&Secret::new("correct horse battery")).await, Err(HashError::Busy)));
        assert_eq!(begun.elapsed(), Duration::from_millis(100));
    }

    #[test]
    fn length_is_counted_in_characters_and_bounded_in_bytes() {
        for (text, fits) in
            [("é".repeat(12), true), ("é".repeat(11), false), ("a".repeat(1_024), true), ("a".repeat(1_025), false)]
        {
            assert_eq!(Passwords::is_long_enough(&Secret::new(text.clone())), fits, "{}", text.len());
        }
    }

    #[test]
    fn an_unknown_login_costs_a_hash_like_every_other() {
        let parameters = |hash: &str| PasswordHash::new(hash).unwrap().params;
        let real = Argon2::default().hash_password(b"x").unwrap().to_string();
        assert_eq!(parameters(nobodys()), parameters(&real));
    }
}
