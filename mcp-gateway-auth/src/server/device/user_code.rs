//! The code that a person types.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use mcp_gateway_core::record::Secret;
use rand::RngExt as _;
use sha2::Sha256;

/// Letters that are not taken for each other and spell no words (RFC 8628 §6.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// Eight letters: 34 bits. Shown as `WDJB-MJHT`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct UserCode([u8; Self::LENGTH]);

impl UserCode {
    pub(crate) const LENGTH: usize = 8;
    /// Bytes of what a person may type for it.
    const TYPED: usize = 64;

    pub(crate) fn random() -> Self {
        let mut random = rand::rng();
        Self(std::array::from_fn(|_| LETTERS[random.random_range(0..LETTERS.len())]))
    }

    /// Reads what a person typed: in any case, with blanks and dashes anywhere.
    pub(crate) fn parse(typed: &str) -> Option<Self> {
        if typed.len() > Self::TYPED {
            return None;
        }
        let is_between = |char: &char| char.is_whitespace() || matches!(char, '-' | '\u{2010}'..='\u{2015}');
        let mut letters = typed.chars().filter(|char| !is_between(char));
        let mut code = [0; Self::LENGTH];
        for place in &mut code {
            let letter = u8::try_from(letters.next()?).ok()?.to_ascii_uppercase();
            *place = LETTERS.contains(&letter).then_some(letter)?;
        }
        letters.next().is_none().then_some(Self(code))
    }

    /// The id of its record: who reads the store without this key finds no code.
    pub(crate) fn id(&self, key: &Secret) -> String {
        let mac = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes());
        let mut mac = mac.expect("HMAC takes keys of any length");
        mac.update(b"mcp-gateway user code v1 ");
        mac.update(&self.0);
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for UserCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, letter) in self.0.iter().enumerate() {
            let dash = if n == Self::LENGTH / 2 { "-" } else { "" };
            write!(f, "{dash}{}", char::from(*letter))?;
        }
        Ok(())
    }
}

impl fmt::Debug for UserCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserCode(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_code_is_eight_clear_letters_however_it_is_typed() {
        for typed in ["WDJB-MJHT", "wdjbmjht", " w d j b\u{2013}m j h t ", "WDJBMJHT-"] {
            assert_eq!(UserCode::parse(typed).unwrap().to_string(), "WDJB-MJHT", "{typed}");
        }
        let blanks = |count| format!("WDJB{}MJHT", " ".repeat(count));
        assert!(UserCode::parse(&blanks(56)).is_some() && UserCode::parse(&blanks(57)).is_none());
        for wrong in ["", "WDJB-MJH", "WDJB-MJHTT", "WDJB-MJHA", "WDJB-MJH0", "WDJB_MJHT", "WDJB-MJH\u{422}"] {
            assert_eq!(UserCode::parse(wrong), None, "{wrong}");
        }
        let (one, another) = (UserCode::random(), UserCode::random());
        assert_ne!(one, another);
        assert_eq!(UserCode::parse(&one.to_string()), Some(one.clone()));
        assert_ne!(one.id(&Secret::new("a")), one.id(&Secret::new("b")));
    }
}
