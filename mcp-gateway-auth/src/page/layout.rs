//! What all pages have in common.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, REFRESH, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("style.css");

/// The hash by which the policy permits the one style sheet.
static STYLE_HASH: LazyLock<String> = LazyLock::new(|| STANDARD.encode(Sha256::digest(STYLE)));

/// A page, ready to be sent.
#[derive(Debug, Clone)]
pub struct Page {
    html: String,
    /// Where the browser goes on by itself.
    goes_on_to: Option<String>,
    /// Where a form of the page may lead in the end, beside the gateway itself.
    leads_to: Option<String>,
}

impl Page {
    pub(super) fn new(title: &str, content: &Markup) -> Self {
        let html = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    main {
                        h1 { (title) }
                        (content)
                    }
                }
            }
        };
        Self { html: html.into_string(), leads_to: None, goes_on_to: None }
    }

    /// The same, whose form is answered by a redirect to this URL: browsers hold the policy against that, too.
    pub(super) fn leading_to(mut self, url: &str) -> Self {
        self.leads_to = source(url);
        self
    }

    /// The same, which browsers leave for this URL at once.
    pub(super) fn going_on_to(mut self, url: &str) -> Self {
        self.goes_on_to = Some(url.to_owned());
        self
    }

    /// The HTML.
    #[must_use]
    pub fn html(&self) -> &str {
        &self.html
    }

    /// The policy: no script, no image, nothing from elsewhere, in nobody's frame.
    #[must_use]
    pub fn content_security_policy(&self) -> String {
        let leads_to = self.leads_to.as_ref().map(|source| format!(" {source}")).unwrap_or_default();
        format!(
            "default-src 'none'; style-src 'sha256-{}'; form-action 'self'{leads_to}; frame-ancestors 'none'; base-uri 'none'",
            *STYLE_HASH
        )
    }

    /// A response with the headers that a page needs.
    #[must_use]
    pub fn into_response<B: From<String>>(self, status: StatusCode) -> Response<B> {
        let policy = HeaderValue::from_str(&self.content_security_policy());
        let goes_on = self.goes_on_to.and_then(|url| HeaderValue::from_str(&format!("0; url={url}")).ok());
        let mut response = Response::new(B::from(self.html));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        // Hashes and origins are header text; without them, nothing is permitted at all.
        headers.insert(CONTENT_SECURITY_POLICY, policy.unwrap_or(HeaderValue::from_static("default-src 'none'")));
        if let Some(goes_on) = goes_on {
            headers.insert(REFRESH, goes_on);
        }
        for (name, value) in [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CACHE_CONTROL, "no-store"),
            (REFERRER_POLICY, "no-referrer"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// What a policy calls the place of a URL: the origin, or the scheme alone where that is not of the web.
fn source(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if !is_scheme {
        return None;
    }
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Some(format!("{scheme}:"));
    }
    let authority = rest.strip_prefix("//")?.split(['/', '?', '#', '\\']).next()?;
    let is_host = !authority.is_empty()
        && authority
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']'));
    is_host.then(|| format!("{scheme}://{authority}"))
}

/// The form's proof that it came from this browser.
pub(super) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// What is wrong, read out at once.
pub(super) fn problem(text: Option<&str>) -> Markup {
    html! { @if let Some(text) = text { p.problem role="alert" { (text) } } }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn policies_name_places_and_nothing_else() {
        for (url, wanted) in [
            ("https://claude.ai/callback?x=1", Some("https://claude.ai")),
            ("http://127.0.0.1:33418/", Some("http://127.0.0.1:33418")),
            ("http://[::1]:1/x", Some("http://[::1]:1")),
            ("cursor://anysphere/callback", Some("cursor:")),
            ("https://user@evil.example/", None),
            ("https://a.example;script-src */", None),
            ("https:", None),
            ("a b:c", None),
            ("", None),
        ] {
            assert_eq!(source(url).as_deref(), wanted, "{url}");
        }
    }

    proptest! {
        #[test]
        fn no_url_adds_a_directive(url in any::<String>()) {
            if let Some(source) = source(&url) {
                prop_assert!(!source.contains([';', ' ', ',', '\'', '*']), "{}", source);
            }
        }
    }
}
