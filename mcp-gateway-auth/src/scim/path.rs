//! Filters and the paths of patches (RFC 7644 §3.4.2.2, §3.5.2), as far as identity providers use them.

use super::ScimLimits;

/// Where an operation of a patch acts: `name.givenName`, `members[value eq "x"]`, `emails[type eq "work"].value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    /// The attribute, in lowercase, without the URN of its schema.
    pub(crate) attribute: String,
    /// Which of several values.
    pub(crate) which: Option<Comparison>,
    /// The attribute within it, in lowercase.
    pub(crate) sub: Option<String>,
}

/// `attribute eq "value"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// In lowercase.
    pub(crate) attribute: String,
    pub(crate) value: String,
}

const CORE: [&str; 2] = ["urn:ietf:params:scim:schemas:core:2.0:user:", "urn:ietf:params:scim:schemas:core:2.0:group:"];

impl Path {
    /// Reads a path; `None` when it is none of the forms that are known.
    pub(crate) fn read(text: &str) -> Option<Self> {
        if text.len() > ScimLimits::FILTER {
            return None;
        }
        let lower = text.to_ascii_lowercase();
        let skip = CORE.iter().find(|urn| lower.starts_with(*urn)).map_or(0, |urn| urn.len());
        let text = text.get(skip..)?;
        let (head, rest) = match text.split_once('[') {
            None => (text, None),
            Some((head, rest)) => (head, Some(rest)),
        };
        let (which, sub) = match rest {
            None => {
                let (attribute, sub) = match head.split_once('.') {
                    // Attributes of extensions have dots in their URN: `…:2.0:User:department`.
                    Some((attribute, sub)) if !attribute.contains(':') => (attribute, Some(sub)),
                    _ => (head, None),
                };
                return Some(Self { attribute: name(attribute)?, which: None, sub: sub.map(name).transpose_some()? });
            }
            Some(rest) => {
                let end = closing(rest)?;
                let (inside, after) = (&rest[..end], &rest[end + 1..]);
                let sub = match after {
                    "" => None,
                    after => Some(after.strip_prefix('.')?),
                };
                (Some(Comparison::read(inside)?), sub)
            }
        };
        Some(Self { attribute: name(head)?, which, sub: sub.map(name).transpose_some()? })
    }
}

impl Comparison {
    /// Reads a filter of one comparison for equality; `None` for everything else.
    pub(crate) fn read(text: &str) -> Option<Self> {
        if text.len() > ScimLimits::FILTER {
            return None;
        }
        let (attribute, rest) = text.trim().split_once(' ')?;
        let (operator, value) = rest.trim_start().split_once(' ')?;
        if !operator.eq_ignore_ascii_case("eq") {
            return None;
        }
        // A value is JSON (RFC 7644 §3.4.2.2); a boolean is compared as text.
        let value = match serde_json::from_str::<serde_json::Value>(value.trim()).ok()? {
            serde_json::Value::String(text) => text,
            serde_json::Value::Bool(value) => value.to_string(),
            _ => return None,
        };
        Some(Self { attribute: name(attribute)?, value })
    }
}

/// The place of the bracket that closes, outside of quotes.
fn closing(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b']' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// A name of an attribute, in lowercase: names have no case (RFC 7643 §2.1).
fn name(text: &str) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'$' | b':' | b'.');
    (!text.is_empty() && text.bytes().all(fits)).then(|| text.to_ascii_lowercase())
}

trait TransposeSome {
    fn transpose_some(self) -> Option<Option<String>>;
}

impl TransposeSome for Option<Option<String>> {
    /// A part that is absent is fine, one that is no name is not.
    fn transpose_some(self) -> Option<Option<String>> {
        match self {
            None => Some(None),
            Some(name) => name.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(attribute: &str, which: Option<(&str, &str)>, sub: Option<&str>) -> Path {
        let which = which.map(|(attribute, value)| Comparison { attribute: attribute.into(), value: value.into() });
        Path { attribute: attribute.into(), which, sub: sub.map(str::to_owned) }
    }

    #[test]
    fn the_forms_that_providers_send_are_read() {
        for (text, wanted) in [
            ("active", path("active", None, None)),
            ("name.givenName", path("name", None, Some("givenname"))),
            ("members[value eq \"a]b\"]", path("members", Some(("value", "a]b")), None)),
            ("emails[type eq \"work\"].value", path("emails", Some(("type", "work")), Some("value"))),
            ("emails[primary eq true].value", path("emails", Some(("primary", "true")), Some("value"))),
            ("urn:ietf:params:scim:schemas:core:2.0:User:userName", path("username", None, None)),
            (
                "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department",
                path("urn:ietf:params:scim:schemas:extension:enterprise:2.0:user:department", None, None),
            ),
        ] {
            assert_eq!(Path::read(text), Some(wanted), "{text}");
        }
        for text in ["", "a b", "members[", "members[value eq]", "a[b eq \"c\"]d", "a[b co \"c\"]", "a.", "ä"] {
            assert_eq!(Path::read(text), None, "{text}");
        }
        assert_eq!(Path::read(&"a".repeat(ScimLimits::FILTER + 1)), None);
    }

    #[test]
    fn a_filter_is_one_comparison() {
        let read = |text| Comparison::read(text).map(|read| (read.attribute, read.value));
        assert_eq!(read("userName eq \"ada@a.example\""), Some(("username".into(), "ada@a.example".into())));
        assert_eq!(read("externalId Eq \"a\\\"b\""), Some(("externalid".into(), "a\"b".into())));
        for text in ["userName", "userName eq", "userName co \"a\"", "userName eq \"a\" or id eq \"b\"", "a eq 1"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
