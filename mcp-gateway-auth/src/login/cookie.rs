//! Cookies of this gateway.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// Names and attributes of the gateway's cookies.
///
/// Over TLS they have the `__Host-` prefix (RFC 6265bis §4.1.3.2): no other host and no plain connection can set them.
/// On http, which is for loopback alone, browsers accept neither prefix nor `Secure`, so both are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CookieNames {
    secure: bool,
}

/// The cookie is there twice, or is not one that was set here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cookie of this gateway is there twice, or is broken")]
pub struct CookieError;

impl CookieNames {
    /// For a gateway whose `public_url` this is.
    #[must_use]
    pub fn for_url(public_url: &str) -> Self {
        Self { secure: public_url.starts_with("https://") }
    }

    /// The cookie of a session.
    #[must_use]
    pub fn session(self) -> &'static str {
        if self.secure { "__Host-mcpgw_session" } else { "mcpgw_session" }
    }

    /// The cookie that binds forms and logins under way to a browser.
    #[must_use]
    pub fn browser(self) -> &'static str {
        if self.secure { "__Host-mcpgw_browser" } else { "mcpgw_browser" }
    }

    /// The cookie by which a browser is known that somebody has signed in with before.
    #[must_use]
    pub fn device(self) -> &'static str {
        if self.secure { "__Host-mcpgw_device" } else { "mcpgw_device" }
    }

    /// As [`set`](Self::set), for a cookie that the browser keeps for so many seconds.
    #[must_use]
    pub fn keep(self, name: &str, value: &str, seconds: u64) -> Option<HeaderValue> {
        let set = self.set(name, value)?;
        HeaderValue::from_str(&format!("{}; Max-Age={seconds}", set.to_str().ok()?)).ok()
    }

    /// `Set-Cookie` for a value of letters, digits, `-` and `_`; a session's own end is the browser's. `Lax`, since a
    /// browser comes back from an identity provider by a link of another site.
    #[must_use]
    pub fn set(self, name: &str, value: &str) -> Option<HeaderValue> {
        let secure = if self.secure { "; Secure" } else { "" };
        HeaderValue::from_str(&format!("{name}={value}; Path=/{secure}; HttpOnly; SameSite=Lax")).ok()
    }

    /// `Set-Cookie` that removes it.
    #[must_use]
    pub fn remove(self, name: &str) -> Option<HeaderValue> {
        let secure = if self.secure { "; Secure" } else { "" };
        HeaderValue::from_str(&format!("{name}=; Path=/{secure}; HttpOnly; SameSite=Lax; Max-Age=0")).ok()
    }
}

/// The value of a cookie, if the request has it.
///
/// # Errors
/// [`CookieError`] when it is there twice, or is not 22 to 128 letters, digits, `-` and `_`.
pub fn read_cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, CookieError> {
    let mut found = None;
    for field in headers.get_all(COOKIE) {
        // Other cookies of the host may be in any encoding.
        for pair in field.as_bytes().split(|byte| *byte == b';') {
            let Some(value) = pair.trim_ascii().strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
            else {
                continue;
            };
            let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let is_ours = (22..=128).contains(&value.len()) && value.iter().all(fits);
            let value = std::str::from_utf8(value).ok().filter(|_| is_ours).ok_or(CookieError)?;
            if found.replace(value).is_some() {
                return Err(CookieError);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUE: &str = "0123456789abcdefghijkl";

    fn sent(fields: &[&str]) -> HeaderMap {
        fields.iter().map(|field| (COOKIE, HeaderValue::from_str(field).unwrap())).collect()
    }

    #[test]
    fn one_cookie_is_found_among_others() {
        let name = CookieNames::for_url("https://gateway.example").session();
        let ours = format!("{name}={VALUE}");
        for fields in [
            vec![ours.clone()],
            vec![format!("a=b; {ours};c=\"d\"")],
            vec!["a=b".to_owned(), format!("x{ours}; {ours}")],
        ] {
            let fields: Vec<_> = fields.iter().map(String::as_str).collect();
            assert_eq!(read_cookie(&sent(&fields), name), Ok(Some(VALUE)), "{fields:?}");
        }
        assert_eq!(read_cookie(&sent(&["a=b", &format!("mcpgw_session={VALUE}")]), name), Ok(None));
        for broken in
            [format!("{ours}; {ours}"), format!("{name}="), format!("{ours}%00"), format!("{name}={}", &VALUE[1..])]
        {
            assert_eq!(read_cookie(&sent(&[&broken]), name), Err(CookieError), "{broken}");
        }
        assert_eq!(read_cookie(&sent(&[&ours, &ours]), name), Err(CookieError));
    }

    #[test]
    fn attributes_follow_the_address() {
        let tls = CookieNames::for_url("https://gateway.example");
        assert_eq!(
            tls.set(tls.session(), VALUE).unwrap(),
            format!("__Host-mcpgw_session={VALUE}; Path=/; Secure; HttpOnly; SameSite=Lax")
        );
        let plain = CookieNames::for_url("http://127.0.0.1:8080");
        assert_eq!(
            plain.set(plain.session(), VALUE).unwrap(),
            format!("mcpgw_session={VALUE}; Path=/; HttpOnly; SameSite=Lax")
        );
        assert!(plain.remove(plain.browser()).unwrap().to_str().unwrap().contains("Max-Age=0"));
        assert_eq!(plain.set("x", "a\r\nb"), None);
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(field in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&field) {
                let headers = HeaderMap::from_iter([(COOKIE, value)]);
                if let Ok(Some(value)) = read_cookie(&headers, "a") {
                    prop_assert!(value.len() >= 22);
                }
            }
        }
    }
}
