//! Public keys as issuers publish them.

use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mcp_gateway_core::contract::VerifyingKey;
use serde::{Deserialize, Serialize};

use super::TokenLimits;

/// A public key of a JWK Set (RFC 7517), with the one algorithm it is for.
///
/// Symmetric keys are none, RSA keys have at least 2,048 bits.
#[derive(Debug, Clone)]
pub struct PublicKey {
    id: Option<Arc<str>>,
    algorithm: Algorithm,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    /// A point, uncompressed; or an Ed25519 key.
    Point(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

/// The algorithms that are verified (RFC 7518 §3.1, RFC 8037). `none` and the symmetric ones are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Es256,
    Es384,
    EdDsa,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
}

const ALGORITHMS: [(&str, Algorithm); 7] = [
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("EdDSA", Algorithm::EdDsa),
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
];

/// A key as it stands in a document.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Jwk {
    pub(crate) kty: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kid: Option<String>,
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) alg: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) e: Option<String>,
}

impl PublicKey {
    /// Reads the keys of a JWK Set; those of other kinds or uses are left out (RFC 7517 §5), and so is everything after
    /// the first [`TokenLimits::KEYS`].
    ///
    /// # Errors
    /// It is no JWK Set.
    pub fn read_set(document: &[u8]) -> Result<Vec<Self>, serde_json::Error> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(document)?;
        let keys = set.keys.into_iter().take(TokenLimits::KEYS);
        Ok(keys.filter_map(|key| Self::new(&serde_json::from_value(key).ok()?)).collect())
    }

    /// Its id, if it has one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(crate) fn new(jwk: &Jwk) -> Option<Self> {
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |part: &Option<String>| URL_SAFE_NO_PAD.decode(part.as_deref()?).ok();
        let point = |size: usize| {
            let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
            (x.len() == size && y.len() == size).then(|| Material::Point([&[4], &*x, &*y].concat()))
        };
        let named = match jwk.alg.as_deref() {
            None => None,
            Some(name) => Some(ALGORITHMS.iter().find(|(known, _)| *known == name)?.1),
        };
        let (default, material) = match (&*jwk.kty, jwk.crv.as_deref()) {
            ("EC", Some("P-256")) => (Algorithm::Es256, point(32)?),
            ("EC", Some("P-384")) => (Algorithm::Es384, point(48)?),
            ("OKP", Some("Ed25519")) => {
                (Algorithm::EdDsa, Material::Point(bytes(&jwk.x).filter(|key| key.len() == 32)?))
            }
            ("RSA", _) => (Algorithm::Rs256, Material::Rsa { n: bytes(&jwk.n)?, e: bytes(&jwk.e)? }),
            _ => return None,
        };
        let algorithm = named.unwrap_or(default);
        // A key is good for the algorithms of its own kind alone.
        let rsa = !matches!(algorithm, Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa);
        if matches!(material, Material::Rsa { .. }) != rsa || (!rsa && algorithm != default) {
            return None;
        }
        Some(Self { id: jwk.kid.as_deref().map(Arc::from), algorithm, material })
    }
}

impl VerifyingKey for PublicKey {
    fn algorithm(&self) -> &'static str {
        ALGORITHMS.iter().find(|(_, algorithm)| *algorithm == self.algorithm).map_or("none", |(name, _)| name)
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let curve: &'static dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDsa => &ED25519,
            Algorithm::Rs256 => return self.verify_rsa(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            Algorithm::Rs384 => return self.verify_rsa(&RSA_PKCS1_2048_8192_SHA384, message, signature),
            Algorithm::Rs512 => return self.verify_rsa(&RSA_PKCS1_2048_8192_SHA512, message, signature),
            Algorithm::Ps256 => return self.verify_rsa(&RSA_PSS_2048_8192_SHA256, message, signature),
        };
        let Material::Point(point) = &self.material else { return false };
        UnparsedPublicKey::new(curve, point).verify(message, signature).is_ok()
    }
}

impl PublicKey {
    fn verify_rsa(&self, parameters: &RsaParameters, message: &[u8], signature: &[u8]) -> bool {
        let Material::Rsa { n, e } = &self.material else { return false };
        RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::jws::Jws;
    use super::*;

    fn only(json: &serde_json::Value) -> Option<PublicKey> {
        let set = serde_json::json!({ "keys": [json] }).to_string();
        PublicKey::read_set(set.as_bytes()).unwrap().pop()
    }

    /// RFC 7515 §A.3 and RFC 8037 §A.4: signatures that others made.
    #[test]
    fn verifies_the_examples_of_the_standards() {
        let ec = serde_json::json!({
            "kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        });
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9p\
            c19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let key = only(&ec).unwrap();
        assert_eq!(Jws::parse(token.as_bytes()).unwrap().verify(&key), Ok(()));
        let okp =
            serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
        let key = only(&okp).unwrap();
        let message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        assert!(key.verify(message, &URL_SAFE_NO_PAD.decode(signature).unwrap()));
    }

    #[test]
    fn keys_that_could_be_misused_are_left_out() {
        let point = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
        for json in [
            serde_json::json!({ "kty": "oct", "k": "AAAA", "alg": "HS256" }),
            serde_json::json!({ "kty": "EC", "crv": "P-256", "x": point, "y": point, "use": "enc" }),
            serde_json::json!({ "kty": "EC", "crv": "P-256", "x": point, "y": point, "alg": "RS256" }),
            serde_json::json!({ "kty": "EC", "crv": "P-256", "x": point, "y": point, "alg": "ES384" }),
            serde_json::json!({ "kty": "EC", "crv": "P-256", "x": point, "y": point, "alg": "none" }),
            serde_json::json!({ "kty": "EC", "crv": "P-256", "x": point, "y": "AAAA" }),
            serde_json::json!({ "kty": "EC", "crv": "secp256k1", "x": point, "y": point }),
            serde_json::json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "ES256" }),
            serde_json::json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "HS256" }),
            serde_json::json!({ "kty": 1 }),
        ] {
            assert!(only(&json).is_none(), "{json}");
        }
        let many =
            vec![serde_json::json!({ "kty": "EC", "crv": "P-256", "x": point, "y": point }); TokenLimits::KEYS + 1];
        let set = serde_json::json!({ "keys": many }).to_string();
        assert_eq!(PublicKey::read_set(set.as_bytes()).unwrap().len(), TokenLimits::KEYS);
    }
}
