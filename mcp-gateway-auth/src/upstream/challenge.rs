//! What a server says when it refuses (RFC 6750 §3, RFC 9728 §5.1).

/// The parameters of a `Bearer` challenge that decide something.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) error: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) resource_metadata: Option<String>,
}

impl Challenge {
    /// Reads the first `Bearer` challenge of a field; empty when there is none that can be read.
    pub(super) fn read(text: &str) -> Self {
        let mut challenge = Self::default();
        let Some(begin) = bearer(text) else { return challenge };
        let mut rest = &text[begin..];
        while let Some((name, value, after)) = parameter(rest) {
            let place = match name.to_ascii_lowercase().as_str() {
                "error" => Some(&mut challenge.error),
                "scope" => Some(&mut challenge.scope),
                "resource_metadata" => Some(&mut challenge.resource_metadata),
                _ => None,
            };
            if let Some(place) = place {
                place.get_or_insert(value);
            }
            rest = match after.trim_start().strip_prefix(',') {
                Some(rest) => rest,
                None => break,
            };
        }
        challenge
    }

    /// The scopes that are named: at most 32, each as RFC 6749 §3.3 wants them.
    pub(super) fn scopes(&self) -> Vec<String> {
        scopes(self.scope.as_deref().unwrap_or_default())
    }
}

/// At most 32 scopes of a list with blanks.
pub(super) fn scopes(text: &str) -> Vec<String> {
    let plain =
        |scope: &&str| scope.len() <= 256 && scope.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'"');
    text.split(' ').filter(|scope| !scope.is_empty()).filter(plain).take(32).map(str::to_owned).collect()
}

/// Where the parameters of the first `Bearer` begin: at the start, or behind a comma, outside of quotes.
fn bearer(text: &str) -> Option<usize> {
    const SCHEME: &str = "bearer ";
    let (mut quoted, mut escaped, mut may_begin) = (false, false, true);
    for (at, byte) in text.bytes().enumerate() {
        let here = text.as_bytes().get(at..at + SCHEME.len());
        if may_begin && here.is_some_and(|here| here.eq_ignore_ascii_case(SCHEME.as_bytes())) {
            return Some(at + SCHEME.len());
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        may_begin = !quoted && (byte == b',' || (may_begin && byte == b' '));
    }
    None
}

/// `name = token` or `name = "quoted"`, and what is behind it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.trim_start_matches([' ', ',']).split_once('=')?;
    let name = name.trim();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
        return None;
    }
    let rest = rest.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        return Some((name, rest[..end].to_owned(), &rest[end..]));
    };
    let (mut value, mut chars) = (String::new(), quoted.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((name, value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bearer_challenge_is_found_among_others() {
        let read = |text| Challenge::read(text);
        let one = read(
            r#"Basic realm="Bearer scope=x, y", bearer realm="a,\"b", resource_metadata="https://a.example/m", error=insufficient_scope, scope="a b""#,
        );
        assert_eq!(one.resource_metadata.as_deref(), Some("https://a.example/m"));
        assert_eq!(
            (one.error.as_deref(), one.scopes()),
            (Some("insufficient_scope"), vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(read("Bearer"), Challenge::default());
        assert_eq!(read(r#"Bearer scope="open"#), Challenge::default());
        assert_eq!(read(r#"Bearer scope=a, scope=b"#).scopes(), ["a"]);
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text: String) {
            let _ = Challenge::read(&text).scopes();
            let _ = Challenge::read(&format!("Bearer {text}")).scopes();
        }
    }
}
