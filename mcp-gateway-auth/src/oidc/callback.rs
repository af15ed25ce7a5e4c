//! What a browser brings back from a provider (RFC 6749 §4.1.2, RFC 9207).

use super::error::invalid;
use super::{OidcError, OidcLimits};

/// The query of a redirect, each parameter at most once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Callback {
    pub(crate) state: String,
    pub(crate) code: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) iss: Option<String>,
}

impl Callback {
    /// Reads a query.
    pub(crate) fn read(query: &str) -> Result<Self, OidcError> {
        if query.len() > OidcLimits::CALLBACK {
            return invalid("the answer of the identity provider is too long");
        }
        let (mut callback, mut state) = (Self::default(), None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "state" => &mut state,
                "code" => &mut callback.code,
                "error" => &mut callback.error,
                "iss" => &mut callback.iss,
                _ => continue,
            };
            if place.replace(value.into_owned()).is_some() {
                return invalid("the answer of the identity provider has a parameter twice");
            }
        }
        callback.state = state.ok_or(OidcError::State)?;
        Ok(callback)
    }

    /// The code, after everything else about the answer was found to hold.
    pub(crate) fn code(self, issuer: &str, must_name_issuer: bool) -> Result<String, OidcError> {
        match &self.iss {
            Some(iss) if iss != issuer => return invalid("the answer comes from another issuer"),
            None if must_name_issuer => return invalid("the answer does not say which issuer it comes from"),
            _ => {}
        }
        if let Some(error) = self.error {
            let harmless = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            return Err(OidcError::Denied(error.chars().filter(harmless).take(64).collect()));
        }
        self.code.filter(|code| !code.is_empty()).ok_or(OidcError::Invalid("the answer has no code"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_each_parameter_once_and_comes_from_its_issuer() {
        let code = |query: &str, must| Callback::read(query)?.code("https://a.example", must);
        assert_eq!(code("state=s&code=c", false).unwrap(), "c");
        assert_eq!(code("state=s&code=c&iss=https%3A%2F%2Fa.example&x=1&x=2", true).unwrap(), "c");
        assert!(matches!(code("code=c", false), Err(OidcError::State)));
        assert!(
            matches!(code("state=s&error=access_denied%0d%0aX", false), Err(OidcError::Denied(e)) if e == "access_deniedX")
        );
        for (query, must) in [
            ("state=s&code=c", true),
            ("state=s&code=c&iss=https%3A%2F%2Fb.example", false),
            ("state=s&error=x&iss=https%3A%2F%2Fb.example", false),
            ("state=s&state=t&code=c", false),
            ("state=s&code=c&code=d", false),
            ("state=s&code=", false),
            ("state=s", false),
            (&format!("state=s&code={}", "c".repeat(OidcLimits::CALLBACK)), false),
        ] {
            assert!(matches!(code(query, must), Err(OidcError::Invalid(_))), "{query:.80}");
        }
    }
}
