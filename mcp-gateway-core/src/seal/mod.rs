//! Sealing: secrets at rest and sessions in clients' hands.
//!
//! A [`KeyManagement`](crate::contract::KeyManagement) such as [`LocalKeyFile`] guards one master key and wraps all
//! others. Two kinds of key hang on it, and neither is ever used for the other's work:
//!
//! - Data keys, by which a [`Sealer`] encrypts single fields of records, above every store.
//! - The ring of session keys, by which a [`SessionSealer`] turns an upstream's session id into one that only this
//!   gateway can read, so that no replica has to remember sessions.
//!
//! Every ciphertext is bound to where it belongs: moved, it does not open.

mod aead;
mod data_key;
mod event_id;
pub mod follow;
mod local_key;
mod ring;
mod sealer;
mod session;

pub(crate) use aead::MasterKey;
pub use data_key::DataKey;
pub use event_id::EventIds;
pub(crate) use event_id::EventTag;
pub use local_key::{KeyFileError, LocalKeyFile};
pub use ring::{RingKey, RingOptions, RotateError, SessionKeyRecord, SessionKeyRing, SessionKeyRingRecord};
pub use sealer::{SealError, Sealer, SealerOptions};
pub use session::{OpenedSession, SessionError, SessionOwner, SessionPlain, SessionSealer, check};
