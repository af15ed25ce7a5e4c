//! What must hold of the parsers of foreign bytes for any input, as functions that panic if it does not.
//!
//! Property tests, the replay of the corpus under `fuzz/corpus` and the fuzz targets all call these.

use crate::oidc::check as oidc;
use crate::scim::check as scim_check;
use crate::server::check as server;
use crate::token::check as token;

pub use oidc::{callback, id_token, provider};
pub use scim_check::scim;
pub use server::{form, redirect, registration, resource, user_code};
pub use token::{keys, token};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    type Check = fn(&[u8]);

    const CHECKS: [(&str, Check); 11] = [
        ("callback", super::callback),
        ("form", super::form),
        ("id_token", super::id_token),
        ("keys", super::keys),
        ("provider", super::provider),
        ("redirect", super::redirect),
        ("registration", super::registration),
        ("resource", super::resource),
        ("scim", super::scim),
        ("token", super::token),
        ("user_code", super::user_code),
    ];

    #[test]
    fn holds_for_the_corpus() {
        for (name, check) in CHECKS {
            let folder = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
            let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
            let mut count = 0;
            for file in files {
                check(&std::fs::read(file.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{folder} is empty");
        }
    }

    /// Text that is made of what the parsers look for, so that it often gets far.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "https://",
            "http://",
            "127.0.0.1",
            "localhost",
            "[::1]",
            ":80",
            "/",
            "//",
            "..",
            "?",
            "&",
            "=",
            "#",
            "@",
            "%2e",
            "\\",
            "a.example",
            "gateway.example",
            "/mcp-connect/",
            "github",
            "resource=",
            "client_id=",
            "+",
            "%00",
            "\u{e9}",
            "{\"keys\":[",
            "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"",
            "\",\"y\":\"",
            "\"}",
            "]}",
            "AAAA",
            ".",
            "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6IngifQ",
            "{\"client_id\":\"",
            "\",\"redirect_uris\":[\"",
            ",",
            "javascript:",
            "state=",
            "code=",
            "error=",
            "iss=",
            "{\"iss\":\"https://login.example.com\",\"aud\":\"gateway\",\"exp\":1800000060,\"iat\":1800000000,",
            "\"sub\":\"s\",\"nonce\":\"n\"",
            "\"email\":\"ada@example.com\",\"email_verified\":true",
            "\"groups\":[",
            "{\"Operations\":[{\"op\":\"replace\",\"path\":\"",
            "members[value eq \\\"a\\\"]",
            "name.givenName",
            "\",\"value\":",
            "userName eq \"",
            "[{\"value\":\"a\"}]",
            "}",
            "cursor:",
            "WDJB",
            "mjht",
            "-",
            " ",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn holds_for_any_bytes(data in prop::collection::vec(any::<u8>(), 0..300)) {
            CHECKS.iter().for_each(|(_, check)| check(&data));
        }

        #[test]
        fn holds_for_what_looks_right(data in pieces()) {
            CHECKS.iter().for_each(|(_, check)| check(&data));
        }
    }
}
