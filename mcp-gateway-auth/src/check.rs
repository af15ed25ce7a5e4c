//! What must hold of the parsers of foreign bytes for any input, as functions that panic if it does not.
//!
//! Property tests, the replay of the corpus under `fuzz/corpus` and the fuzz targets all call these.

use crate::oidc::check as oidc;
use crate::scim::check as scim_check;
use crate::server::check as server;
use crate::token::check as token;

pub use oidc::{callback, github, id_token, provider, token_answer};
pub use scim_check::scim;
pub use server::{client_assertion, document, form, id_jag, redirect, registration, resource, user_code};
pub use token::{foreign, keys, token};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    type Check = fn(&[u8]);

    const CHECKS: [(&str, Check); 17] = [
        ("callback", super::callback),
        ("client_assertion", super::client_assertion),
        ("document", super::document),
        ("foreign", super::foreign),
        ("form", super::form),
        ("github", super::github),
        ("id_jag", super::id_jag),
        ("id_token", super::id_token),
        ("keys", super::keys),
        ("provider", super::provider),
        ("redirect", super::redirect),
        ("registration", super::registration),
        ("resource", super::resource),
        ("scim", super::scim),
        ("token", super::token),
        ("token_answer", super::token_answer),
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
            "\"aud\":\"https://gateway.example\",\"client_id\":\"agent\",\"jti\":\"1\",",
            "\"aud\":\"api://tools\",\"active\":true,",
            "{\"iss\":\"https://idp.example\",\"sub\":\"u\",\"exp\":1800000060,\"iat\":1800000000,",
            "\"resource\":\"https://gateway.example/mcp-connect/github\"",
            "{\"client_id\":\"https://client.example/client.json\",\"client_name\":\"c\"",
            "{\"access_token\":\"a\"",
            "{\"error\":\"invalid_grant\"",
            "{\"id\":1,\"login\":\"ada\"}",
            "\n",
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
