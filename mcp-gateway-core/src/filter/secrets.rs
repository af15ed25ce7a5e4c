//! Credentials by their form.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use regex::{Regex, RegexSet};

use super::detect::{Search, TooMuch, Types};

/// What is known, each with the expression that it fits. What a group encloses is the credential, all of it without one.
const KNOWN: &[(&str, &str)] = &[
    ("aws-access-key", r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b"),
    (
        "aws-secret-key",
        r#"(?i)\baws[\w .-]{0,24}(?:secret|private)[\w .-]{0,24}["'=:\s>]{1,6}([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)"#,
    ),
    ("azure-storage-key", r"\bAccountKey=([A-Za-z0-9+/]{86}==)"),
    ("anthropic-key", r"\bsk-ant-[A-Za-z0-9_-]{24,}"),
    ("github-token", r"\b(?:gh[opusr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{60,244})\b"),
    ("gitlab-token", r"\bgl(?:pat|oas|dt|rt|cbt|ptt|ft|soat)-[A-Za-z0-9_-]{20,}"),
    ("google-api-key", r"\bAIza[A-Za-z0-9_-]{35}(?:[^A-Za-z0-9_-]|$)"),
    ("google-oauth", r"\b(?:GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{30,})"),
    ("jwt", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{16,}"),
    ("mcp-gateway-key", r"\b(?:mcpgw_[a-z2-7]{26}_[A-Za-z0-9]{43}[A-Za-z0-9]{6}|mcpgw-bootstrap-[A-Za-z0-9_-]{43})\b"),
    ("npm-token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("openai-key", r"\bsk-(?:(?:proj|svcacct|admin)-)?[A-Za-z0-9_-]{20,}T3BlbkFJ[A-Za-z0-9_-]{20,}"),
    (
        "private-key",
        r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----|$)",
    ),
    ("pypi-token", r"\bpypi-AgE[A-Za-z0-9_-]{50,}"),
    ("sendgrid-key", r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}\b"),
    ("slack-token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{20,}"),
    ("slack-webhook", r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/]{20,}"),
    ("stripe-key", r"\b(?:[rs]k_live_[A-Za-z0-9]{20,}|whsec_[A-Za-z0-9]{32,})"),
    ("url-password", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\x22'<>]{0,100}:([^\s/@\x22'<>]{3,200})@[A-Za-z0-9\[]"),
];

struct Compiled {
    /// Which of them are there at all: most texts hold none.
    any: RegexSet,
    each: Vec<Regex>,
}

static COMPILED: LazyLock<Compiled> = LazyLock::new(|| {
    // They are constants, and a test compiles them all.
    let ascii = |text: &str| text.replace(r"\b", r"(?-u:\b)");
    let texts: Vec<String> = KNOWN.iter().map(|(_, text)| ascii(text)).collect();
    Compiled {
        any: RegexSet::new(&texts).expect("the expressions are right"),
        each: texts.iter().map(|text| Regex::new(text).expect("the expressions are right")).collect(),
    }
});

/// The names of the credentials that are known.
pub fn secret_types() -> impl ExactSizeIterator<Item = &'static str> + Clone {
    KNOWN.iter().map(|(name, _)| *name)
}

/// Finds those of these types.
pub(super) fn find(text: &str, types: Types, search: &mut Search<'_>) -> Result<(), TooMuch> {
    for number in COMPILED.any.matches(text).into_iter().filter(|number| types.has(*number)) {
        let name = KNOWN[number].0;
        for captures in COMPILED.each[number].captures_iter(text) {
            let Some(all) = captures.get(0) else { continue };
            let at = captures.get(1).unwrap_or(all);
            if is_name(at.as_str()) || (name == "jwt" && !is_jwt(at.as_str())) {
                continue;
            }
            // Not the character behind it, by which its end was known.
            let end = if name == "google-api-key" { at.start() + 39 } else { at.end() };
            search.add(at.start()..end, number)?;
            if !search.wants(number) {
                break;
            }
        }
    }
    Ok(())
}

/// Whether somebody has put a name there already, as a password in a URL for instance.
fn is_name(text: &str) -> bool {
    let name = text.strip_prefix("[redacted:").and_then(|rest| rest.strip_suffix(']'));
    name.is_some_and(|name| name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')))
}

/// Whether the header of what looks like one names an algorithm.
fn is_jwt(text: &str) -> bool {
    let header = text.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let header = header.and_then(|header| serde_json::from_slice::<serde_json::Value>(&header).ok());
    header.is_some_and(|header| header["alg"].is_string())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::filter::detect::{Bounds, Detector};

    fn names(text: &str) -> Vec<String> {
        let detector = Detector::Secrets(Types::ALL);
        let stop = AtomicBool::new(false);
        let found = detector.find(text, "", &mut Search::new(true, Bounds::default(), &stop)).unwrap();
        found.iter().map(|found| format!("{} {}", detector.name(found.name), &text[found.at.clone()])).collect()
    }

    /// Put together here, so that no scanner of repositories takes this file for a leak.
    fn of(start: &str, rest: &str) -> String {
        format!("{start}{rest}")
    }

    #[test]
    fn every_credential_is_found_and_exactly_it() {
        let id: String = "abcdefghijklmnopqrstuvwxyz".into();
        let many = |count| "aB3dE5fG7h".repeat(count);
        for (name, secret) in [
            ("aws-access-key", of("AKIA", "IOSFODNN7EXAMPLE")),
            ("anthropic-key", of("sk-ant-", &many(3))),
            ("github-token", of("ghp_", &many(4)[..36])),
            ("github-token", of("github_pat_", &many(8))),
            ("gitlab-token", of("glpat-", &many(2))),
            ("google-api-key", of("AIza", &many(4)[..35])),
            ("google-oauth", of("GOCSPX-", &many(3)[..28])),
            ("jwt", of("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.", &many(3))),
            ("mcp-gateway-key", format!("mcpgw_{id}_{}", &many(5)[..49])),
            ("mcp-gateway-key", of("mcpgw-bootstrap-", &many(5)[..43])),
            ("npm-token", of("npm_", &many(4)[..36])),
            ("openai-key", format!("sk-proj-{}T3BlbkFJ{}", many(2), many(2))),
            ("pypi-token", of("pypi-AgE", &many(6))),
            ("sendgrid-key", format!("SG.{}.{}", &many(3)[..22], &many(5)[..43])),
            ("slack-token", of("xoxb-", "1234567890-abcdef")),
            ("slack-webhook", of("https://hooks.slack.com/services/", "T00000000/B00000000/XXXXXXXX")),
            ("stripe-key", of("sk_live_", &many(3))),
            ("private-key", of("-----BEGIN RSA PRIVATE", " KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----")),
        ] {
            for text in [secret.clone(), format!("key: \"{secret}\","), format!("({secret})")] {
                assert_eq!(names(&text), [format!("{name} {secret}")], "{text}");
            }
        }
        let secret = &many(4);
        assert_eq!(names(&format!("aws_secret_access_key = {secret}")), [format!("aws-secret-key {secret}")]);
        let key = format!("{}==", &many(9)[..86]);
        assert_eq!(names(&format!("AccountName=a;AccountKey={key};x")), [format!("azure-storage-key {key}")]);
        assert_eq!(names("postgres://ada:s3cret!@db/x"), ["url-password s3cret!"]);
        let cut = of("-----BEGIN PRIVATE", " KEY-----\nMIIE");
        assert_eq!(names(&cut), [format!("private-key {cut}")], "one without its end");
        let two = format!("{} {}", of("AKIA", "IOSFODNN7EXAMPLE"), of("ASIA", "IOSFODNN7EXAMPLE"));
        assert_eq!(names(&two).len(), 2);
        assert_eq!(secret_types().len(), COMPILED.each.len());
    }

    #[test]
    fn what_only_looks_like_one_is_let_alone() {
        for text in [
            "AKIA is what keys of AWS begin with",
            "XAKIAIOSFODNN7EXAMPLE",
            "AKIAIOSFODNN7EXAMPLEX",
            "ghp_tooshort",
            "sk-learn and sk-ant-hill",
            "eyJub3BlIjoxfQ.eyJzdWIiOiIxIn0.aaaaaaaaaaaaaaaaaaaa",
            "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
            "-----BEGIN CERTIFICATE-----",
            "https://example.com/a:b@c",
            "https://ada@example.com/",
            "https://ada:[redacted:url-password]@example.com/",
            "mcpgw_abc_def",
            "d41d8cd98f00b204e9800998ecf8427e",
            "a-task-xoxo",
        ] {
            assert_eq!(names(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn only_the_types_that_were_asked_for() {
        let text = of("AKIA", "IOSFODNN7EXAMPLE");
        let types = Types::named(&secret_types(), &["jwt".to_owned()]).unwrap();
        let stop = AtomicBool::new(false);
        let mut search = Search::new(true, Bounds::default(), &stop);
        assert!(Detector::Secrets(types).find(&text, "", &mut search).unwrap().is_empty());
    }
}
