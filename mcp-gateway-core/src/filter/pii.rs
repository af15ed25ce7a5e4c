//! Numbers of cards, accounts and persons, by their check digits.
//!
//! Only what has a check digit or a form that little else has is looked for, so that few other numbers are taken for it.

use std::iter;

use super::detect::{Search, TooMuch, Types};

const NAMES: [&str; 8] = ["payment-card", "iban", "us-ssn", "de-tax-id", "es-dni", "fr-nir", "nl-bsn", "pl-pesel"];
/// How far before a number a word that says what it is may stand, in bytes.
const NEAR: usize = 48;

/// The names of the numbers that are known.
pub fn pii_types() -> impl ExactSizeIterator<Item = &'static str> + Clone {
    NAMES.into_iter()
}

/// Finds those of these types.
pub(super) fn find(text: &str, member: &str, types: Types, search: &mut Search<'_>) -> Result<(), TooMuch> {
    if !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return Ok(());
    }
    let mut add = |number: usize, at: std::ops::Range<usize>| {
        if types.has(number) { search.add(at, number) } else { Ok(()) }
    };
    let runs = runs(text);
    let mut digits: Vec<u8> = Vec::new();
    for (first, run) in runs.iter().enumerate() {
        // Runs that go on with one blank or dash, as far as a number of 16 digits can.
        digits.clear();
        let mut end = run.start;
        for (index, run) in runs.iter().enumerate().skip(first) {
            if index > first && !is_joint(&text[end..run.start]) {
                break;
            }
            digits.extend(text[run.clone()].bytes().map(|digit| digit - b'0'));
            end = run.end;
            if digits.len() > 16 {
                break;
            }
            let at = runs[first].start..end;
            // Of the other lengths there is none.
            if !matches!(digits.len(), 9 | 11 | 14..=16) || !is_alone(text, &at) {
                continue;
            }
            if is_card(&digits) {
                add(0, at.clone())?;
            }
            if is_ssn(&text[at.clone()], &digits) {
                add(2, at.clone())?;
            }
            if is_de_tax_id(&digits) {
                add(3, at.clone())?;
            }
            if is_nir(&digits, 0) {
                add(5, at.clone())?;
            }
            if is_bsn(&digits) && is_said(text, at.start, member, &["bsn", "burgerservice", "sofinummer"]) {
                add(6, at.clone())?;
            }
            if is_pesel(&digits) && is_said(text, at.start, member, &["pesel"]) {
                add(7, at)?;
            }
        }
    }
    for (start, _) in text.char_indices().filter(|(_, c)| c.is_ascii_alphanumeric()) {
        if text[..start].ends_with(|c: char| c.is_alphanumeric()) {
            continue;
        }
        if let Some(end) = iban(text, start) {
            add(1, start..end)?;
        }
        if let Some(end) = dni(text, start) {
            add(4, start..end)?;
        }
        if let Some(end) = corsican(text, start) {
            add(5, start..end)?;
        }
    }
    Ok(())
}

/// Where digits stand.
fn runs(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::new();
    let mut rest = 0;
    while let Some(from) = text[rest..].find(|c: char| c.is_ascii_digit()) {
        let start = rest + from;
        let len = text[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - start);
        runs.push(start..start + len);
        rest = start + len;
    }
    runs
}

fn is_joint(between: &str) -> bool {
    matches!(between, " " | "-" | "\u{a0}")
}

/// Whether no letter, digit or decimal point belongs to what stands there.
fn is_alone(text: &str, at: &std::ops::Range<usize>) -> bool {
    let (before, after) = (&text[..at.start], &text[at.end..]);
    let mut ahead = before.chars().rev();
    let decimal = before.ends_with(['.', ',']) && ahead.nth(1).is_some_and(|c| c.is_ascii_digit());
    let fraction = after.starts_with(['.', ',']) && after[1..].starts_with(|c: char| c.is_ascii_digit());
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    !decimal && !fraction && !before.ends_with(letter) && !after.starts_with(letter)
}

/// Whether one of the words names the member or stands shortly before.
fn is_said(text: &str, start: usize, member: &str, words: &[&str]) -> bool {
    let member = &member[..member.floor_char_boundary(NEAR)];
    let near = &text[text.floor_char_boundary(start.saturating_sub(NEAR))..start];
    [near, member].iter().any(|text| {
        let text = text.to_ascii_lowercase();
        words.iter().any(|word| text.contains(word))
    })
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number, digit| number * 10 + u64::from(*digit))
}

/// ISO/IEC 7812: an issuer that there is, the length of its numbers, and Luhn's check digit.
fn is_card(digits: &[u8]) -> bool {
    if digits.len() < 14 {
        return false;
    }
    let (two, three, four) = (number(&digits[..2]), number(&digits[..3]), number(&digits[..4]));
    let issued = match digits.len() {
        14 => matches!(two, 36 | 38 | 39) || matches!(three, 300..=305),
        15 => matches!(two, 34 | 37),
        16 => {
            digits[0] == 4
                || matches!(two, 51..=55 | 62 | 65)
                || matches!(three, 644..=649)
                || matches!(four, 2221..=2720 | 3528..=3589 | 6011)
        }
        _ => false,
    };
    issued && luhn(digits)
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .zip(iter::repeat([1, 2]).flatten())
        .map(|(digit, times)| {
            let product = u32::from(*digit) * times;
            product / 10 + product % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

/// United States: written `AAA-GG-SSSS`, none of the parts that were never given.
fn is_ssn(written: &str, digits: &[u8]) -> bool {
    if digits.len() != 9 || written.len() != 11 || written.as_bytes()[3] != b'-' || written.as_bytes()[6] != b'-' {
        return false;
    }
    let (area, group, serial) = (number(&digits[..3]), number(&digits[3..5]), number(&digits[5..]));
    // The one that wallets were sold with.
    !matches!(area, 0 | 666 | 900..) && group != 0 && serial != 0 && (area, group, serial) != (78, 5, 1120)
}

/// Germany, Steuer-Identifikationsnummer: of the first ten digits one occurs twice or thrice, and ISO/IEC 7064 mod 11,10.
fn is_de_tax_id(digits: &[u8]) -> bool {
    if digits.len() != 11 || digits[0] == 0 {
        return false;
    }
    let count = |one: u8| digits[..10].iter().filter(|digit| **digit == one).count();
    let counts: Vec<usize> = (0..10).map(count).filter(|count| *count > 1).collect();
    if !matches!(*counts, [2 | 3]) {
        return false;
    }
    let product = digits[..10].iter().fold(10, |product: u32, digit| {
        let sum = (u32::from(*digit) + product) % 10;
        if sum == 0 { 9 } else { sum * 2 % 11 }
    });
    u32::from(digits[10]) == (11 - product) % 10
}

/// France, numéro d'inscription au répertoire: 13 digits and 97 less their remainder; `less` for what Corsica's letters
/// stand for.
fn is_nir(digits: &[u8], less: u64) -> bool {
    if digits.len() != 15 || !matches!(digits[0], 1..=4 | 7 | 8) {
        return false;
    }
    let month = number(&digits[3..5]);
    let department = number(&digits[5..7]);
    let born = matches!(month, 1..=12 | 20..=42 | 50..=99) && department != 0;
    let key = number(&digits[13..]);
    born && number(&digits[7..10]) != 0 && 97 - (number(&digits[..13]) - less) % 97 == key
}

/// The same of somebody from Corsica, whose department has a letter; where it ends.
fn corsican(text: &str, start: usize) -> Option<usize> {
    if !text.as_bytes()[start].is_ascii_digit() {
        return None;
    }
    let (mut digits, mut less) = (Vec::with_capacity(15), None);
    let mut end = start;
    let mut chars = text[start..].char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            'A' | 'B' if digits.len() == 6 && digits[5] == 2 => {
                // 2A counts as 19, 2B as 18.
                digits.push(0);
                less = Some(if c == 'A' { 1_000_000 } else { 2_000_000 });
            }
            ' ' if !digits.is_empty() && chars.peek().is_some_and(|(_, next)| next.is_ascii_alphanumeric()) => continue,
            c => digits.push(u8::try_from(c.to_digit(10)?).ok()?),
        }
        end = start + at + 1;
        if digits.len() == 15 {
            break;
        }
    }
    (is_nir(&digits, less?) && is_alone(text, &(start..end))).then_some(end)
}

/// The Netherlands, burgerservicenummer: the test of eleven.
fn is_bsn(digits: &[u8]) -> bool {
    if digits.len() != 9 || digits.iter().all(|digit| *digit == 0) {
        return false;
    }
    let sum: i32 =
        digits.iter().zip([9, 8, 7, 6, 5, 4, 3, 2, -1]).map(|(digit, times)| i32::from(*digit) * times).sum();
    sum % 11 == 0
}

/// Poland, PESEL: weights of 1, 3, 7, 9, and a month that there is.
fn is_pesel(digits: &[u8]) -> bool {
    if digits.len() != 11 {
        return false;
    }
    let sum: u32 =
        digits.iter().zip([1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]).map(|(digit, times)| u32::from(*digit) * times).sum();
    let (month, day) = (number(&digits[2..4]) % 20, number(&digits[4..6]));
    sum.is_multiple_of(10) && (1..=12).contains(&month) && (1..=31).contains(&day)
}

/// Spain, DNI and NIE: a letter that is the remainder by 23; where it ends.
fn dni(text: &str, start: usize) -> Option<usize> {
    const LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";
    let bytes = &text.as_bytes()[start..];
    let (first, rest) = match bytes.first()? {
        letter @ b'X'..=b'Z' => (u64::from(letter - b'X'), bytes.get(1..8)?),
        _ => (0, bytes.get(..8)?),
    };
    if !rest.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits: Vec<u8> = rest.iter().map(|digit| digit - b'0').collect();
    let value = first * 10_000_000 + number(&digits);
    let dash = usize::from(bytes.get(8) == Some(&b'-'));
    let letter = *bytes.get(8 + dash)?;
    let end = start + 9 + dash;
    let right = usize::try_from(value % 23).is_ok_and(|rest| LETTERS[rest] == letter);
    (right && is_alone(text, &(start..end))).then_some(end)
}

/// ISO 13616: the length of the country's numbers, and mod 97; where it ends. Groups may be apart by a blank.
fn iban(text: &str, start: usize) -> Option<usize> {
    let [a, b, c, ..] = text.as_bytes()[start..] else { return None };
    if !a.is_ascii_alphabetic() || !b.is_ascii_alphabetic() || !c.is_ascii_digit() {
        return None;
    }
    let length = LENGTHS.iter().find(|(known, _)| [a, b].eq_ignore_ascii_case(known.as_bytes()))?.1;
    let (mut read, mut end) = (Vec::with_capacity(length), start);
    let mut bytes = text.as_bytes()[start..].iter().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b' ' if bytes.peek().is_some_and(|(_, next)| next.is_ascii_alphanumeric()) => continue,
            byte if byte.is_ascii_alphanumeric() => read.push(byte.to_ascii_uppercase()),
            _ => return None,
        }
        end = start + at + 1;
        if read.len() == length {
            break;
        }
    }
    if read.len() != length || !read[2..4].iter().all(u8::is_ascii_digit) || !is_alone(text, &(start..end)) {
        return None;
    }
    let rest = read[4..].iter().chain(&read[..4]).fold(0_u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        letter => (rest * 100 + u32::from(letter - b'A') + 10) % 97,
    });
    (rest == 1).then_some(end)
}

/// Lengths by country, of the SWIFT registry.
const LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BI", 27),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DJ", 27),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FK", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HN", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MN", 20),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NI", 28),
    ("NL", 18),
    ("NO", 15),
    ("OM", 23),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("RU", 33),
    ("SA", 24),
    ("SC", 31),
    ("SD", 18),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("SO", 23),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
    ("YE", 30),
];

#[cfg(test)]
#[path = "pii_tests.rs"]
mod tests;
