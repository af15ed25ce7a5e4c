//! When two ids are the same.

use super::text::Text;

/// Whether two JSON-RPC ids, as written, are the same JSON value.
///
/// A server may write an id in another way than it was asked with: `"\u0061"` comes back as `"a"`, `1.0` as `1`.
/// Strings are compared unescaped, numbers by their exact value, of whatever size; a string is never a number. What is
/// neither is the same only byte for byte.
///
/// ```
/// use mcp_gateway_core::wire::same_id;
///
/// assert!(same_id(br#""\u0061""#, br#""a""#));
/// assert!(same_id(b"1.0", b"1") && same_id(b"10e-1", b"1"));
/// assert!(!same_id(b"9007199254740993", b"9007199254740992"));
/// assert!(!same_id(br#""1""#, b"1"));
/// ```
#[must_use]
pub fn same_id(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    match (string(a), string(b)) {
        (Some(a), Some(b)) => a.same(b),
        (None, None) => number(a).is_some_and(|a| number(b) == Some(a)),
        _ => false,
    }
}

fn string(raw: &[u8]) -> Option<Text<'_>> {
    let inner = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let raw = std::str::from_utf8(inner).ok()?;
    Some(Text { raw, escapes: usize::from(raw.contains('\\')), at: 0 })
}

/// `0.{digits} × 10^point`, the first and the last digit not zero; no digits are zero.
struct Number<'a> {
    negative: bool,
    point: i64,
    digits: [&'a [u8]; 2],
}

impl PartialEq for Number<'_> {
    fn eq(&self, other: &Self) -> bool {
        let zero = self.digits.iter().all(|digits| digits.is_empty());
        self.digits.iter().copied().flatten().eq(other.digits.iter().copied().flatten())
            && (zero || (self.negative, self.point) == (other.negative, other.point))
    }
}

/// RFC 8259 §6. `None` for anything else, and for exponents beyond 64 bits.
fn number(raw: &[u8]) -> Option<Number<'_>> {
    let (negative, rest) = raw.strip_prefix(b"-").map_or((false, raw), |rest| (true, rest));
    let (mantissa, exponent) = match rest.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (&rest[..at], integer(&rest[at + 1..])?),
        None => (rest, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|&byte| byte == b'.') {
        Some(at) => (&mantissa[..at], Some(&mantissa[at + 1..])),
        None => (mantissa, None),
    };
    let digits = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let plain = digits(whole) && (whole.len() == 1 || whole[0] != b'0') && fraction.is_none_or(digits);
    if !plain {
        return None;
    }
    let zeros = |digits: &[u8]| digits.iter().take_while(|&&digit| digit == b'0').count();
    let trailing = |digits: &[u8]| digits.iter().rev().take_while(|&&digit| digit == b'0').count();
    let whole = &whole[zeros(whole)..];
    let fraction = fraction.unwrap_or_default();
    let fraction = &fraction[..fraction.len() - trailing(fraction)];
    let leading = if whole.is_empty() { zeros(fraction) } else { 0 };
    let point = i64::try_from(whole.len()).ok()? - i64::try_from(leading).ok()?;
    let whole = if fraction.is_empty() { &whole[..whole.len() - trailing(whole)] } else { whole };
    Some(Number { negative, point: point.checked_add(exponent)?, digits: [whole, &fraction[leading..]] })
}

fn integer(raw: &[u8]) -> Option<i64> {
    let digits = raw.strip_prefix(b"+").or_else(|| raw.strip_prefix(b"-")).unwrap_or(raw);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(raw).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn same(a: &str, b: &str) -> bool {
        let same = same_id(a.as_bytes(), b.as_bytes());
        assert_eq!(same, same_id(b.as_bytes(), a.as_bytes()), "{a} {b}");
        same
    }

    #[test]
    fn one_value_written_in_two_ways() {
        for (a, b) in [
            (r#""a""#, r#""\u0061""#),
            (r#""/""#, r#""\/""#),
            ("\"\u{1f600}\"", r#""\ud83d\ude00""#),
            ("1", "1.0"),
            ("1", "10e-1"),
            ("100", "1E+2"),
            ("-0", "0.00e7"),
            ("0.05", "5e-2"),
            ("120", "1.20e2"),
            ("123456789012345678901234567890", "1.2345678901234567890123456789e29"),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn two_values() {
        for (a, b) in [
            (r#""a""#, r#""A""#),
            (r#""1""#, "1"),
            ("1", "-1"),
            ("1", "10"),
            ("1", "1.00000000000000000001"),
            ("9007199254740993", "9007199254740992"),
            ("1e5", "1e6"),
            ("0.5", "0.05"),
            // No numbers, though some readers take them for one.
            ("1", "01"),
            ("1", "1."),
            ("1", "+1"),
            ("1", "1e"),
            ("0", ""),
            ("0", "-"),
            ("0", ".0"),
            ("1e99999999999999999999", "1e99999999999999999998"),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn a_string_is_itself_with_every_character_escaped(text: String) {
            let written = serde_json::Value::from(text.as_str()).to_string();
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let escaped = format!("\"{escaped}\"");
            prop_assert!(same(&written, &escaped));
        }

        #[test]
        fn numbers_are_the_same_as_their_values_are(a in 1_i32..2000, b in 1_i32..2000, shift in 0_usize..5) {
            for sign in ["", "-"] {
                let (one, other, positive) = (format!("{sign}{a}"), format!("{sign}{b}.0"), format!("{b}"));
                let shifted = format!("{one}{}e-{shift}", "0".repeat(shift));
                prop_assert!(same(&one, &shifted));
                prop_assert_eq!(same(&one, &other), a == b);
                prop_assert_eq!(same(&one, &positive), a == b && sign.is_empty());
            }
        }

        #[test]
        fn any_bytes_are_compared(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(same_id(&a, &b), same_id(&b, &a));
            prop_assert!(same_id(&a, &a));
        }
    }
}
