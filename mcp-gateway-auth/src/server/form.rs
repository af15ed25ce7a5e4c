//! Parameters of forms and queries.

use std::borrow::Cow;

use super::ServerLimits;

/// Parameters, each of which occurs once; `resource` alone may be repeated (RFC 8707 §2).
#[derive(Debug, Default)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads `application/x-www-form-urlencoded` text. Parameters without a value count as absent (RFC 6749 §3.1).
    ///
    /// # Errors
    /// Says what is wrong: a parameter that occurs twice, or too many of them.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text) {
            if value.is_empty() {
                continue;
            }
            if parameters.len() >= ServerLimits::PARAMETERS {
                return Err("there are more than 64 parameters");
            }
            if name != "resource" && parameters.iter().any(|(known, _)| *known == name) {
                return Err("a parameter occurs more than once");
            }
            if value.chars().any(char::is_control) {
                return Err("a parameter has control characters in it");
            }
            parameters.push((Cow::into_owned(name), Cow::into_owned(value)));
        }
        Ok(Self(parameters))
    }

    /// A parameter.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Every value of a parameter.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// Appends parameters to a redirect URI, whose own query stays.
pub(crate) fn append(uri: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let separator = match uri.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "&",
    };
    format!("{uri}{separator}{}", query.finish())
}
