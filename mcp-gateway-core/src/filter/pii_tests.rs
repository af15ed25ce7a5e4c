use std::sync::atomic::AtomicBool;

use super::*;
use crate::filter::detect::{Bounds, Detector};

fn names(text: &str, member: &str) -> Vec<String> {
    let detector = Detector::Pii(Types::ALL);
    let stop = AtomicBool::new(false);
    let found = detector.find(text, member, &mut Search::new(true, Bounds::default(), &stop)).unwrap();
    found.iter().map(|found| format!("{} {}", detector.name(found.name), &text[found.at.clone()])).collect()
}

/// Published examples: of card schemes for tests, of the SWIFT registry, of the issuing authorities.
const RIGHT: &[(&str, &str)] = &[
    ("payment-card", "4111111111111111"),
    ("payment-card", "4111 1111 1111 1111"),
    ("payment-card", "5555-5555-5555-4444"),
    ("payment-card", "2223003122003222"),
    ("payment-card", "378282246310005"),
    ("payment-card", "30569309025904"),
    ("payment-card", "6011111111111117"),
    ("payment-card", "3530111333300000"),
    ("iban", "DE89370400440532013000"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB29NWBK60161331926819"),
    ("iban", "gb29nwbk60161331926819"),
    ("iban", "FR1420041010050500013M02606"),
    ("iban", "NO9386011117947"),
    ("iban", "MT84MALT011000012345MTLCAST001S"),
    ("us-ssn", "219-09-9999"),
    ("de-tax-id", "86095742719"),
    ("de-tax-id", "65 929 970 489"),
    ("es-dni", "12345678Z"),
    ("es-dni", "12345678-Z"),
    ("es-dni", "X1234567L"),
    ("fr-nir", "255081416802538"),
    ("fr-nir", "2 55 08 14 168 025 38"),
];

#[test]
fn every_number_is_found_alone_and_among_words() {
    for (name, number) in RIGHT {
        let expected = [format!("{name} {number}")];
        for text in
            [(*number).to_owned(), format!("It is {number}, see?"), format!("(\"{number}\")\n"), format!("x={number}.")]
        {
            assert_eq!(names(&text, ""), expected, "{text}");
        }
    }
    assert_eq!(names("DE89 3704 0044 0532 0130 00 EUR 5", ""), ["iban DE89 3704 0044 0532 0130 00"]);
    assert_eq!(names("4111 1111 1111 1111 123", ""), ["payment-card 4111 1111 1111 1111"]);
    let corsican = format!("1 85 05 2A 004 001 {:02}", 97 - (1_850_520_004_001_u64 - 1_000_000) % 97);
    assert_eq!(names(&corsican, ""), [format!("fr-nir {corsican}")]);
}

#[test]
fn numbers_that_are_like_many_others_need_a_word() {
    for (name, number, word) in [("nl-bsn", "111222333", "BSN"), ("pl-pesel", "44051401359", "PESEL")] {
        assert!(!names(number, "").iter().any(|found| found.starts_with(name)), "{number}");
        assert_eq!(names(number, &word.to_lowercase()), [format!("{name} {number}")]);
        assert_eq!(names(&format!("{word}: {number}"), ""), [format!("{name} {number}")]);
        let far = format!("{word}{}{number}", " ".repeat(NEAR + 1));
        assert!(!names(&far, "").iter().any(|found| found.starts_with(name)), "{far}");
    }
}

#[test]
fn a_wrong_digit_is_no_number() {
    for (name, number) in RIGHT.iter().filter(|(name, _)| *name != "us-ssn") {
        let at = number.rfind(|c: char| c.is_ascii_digit()).unwrap();
        let digit = number.as_bytes()[at] - b'0';
        for other in (0..10).filter(|other| *other != digit) {
            let wrong = format!("{}{other}{}", &number[..at], &number[at + 1..]);
            assert!(!names(&wrong, "").iter().any(|found| found.starts_with(name)), "{name} {wrong}");
        }
    }
}

#[test]
fn what_only_looks_like_one_is_let_alone() {
    for text in [
        "1763761200000000",
        "0.4111111111111111",
        "4111111111111111.5",
        "a4111111111111111",
        "4111111111111111b",
        "41111111111111110000",
        "4111_1111_1111_1111",
        "9111111111111111",
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "078-05-1120",
        "219099999",
        "11111111111",
        "DE89370400440532013001",
        "DE8937040044053201300",
        "XX89370400440532013000",
        "12345678A",
        "2026-11-21 21:30:00",
        "10.0.0.1:8080",
        "+49 30 901820",
        "550e8400-e29b-41d4-a716-446655440000",
    ] {
        assert_eq!(names(text, ""), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn no_length_is_beyond_a_message() {
    // A long run of digits, and one of joined groups, take no time that grows with the square.
    let begun = std::time::Instant::now();
    assert!(names(&"7".repeat(1 << 16), "").is_empty());
    let _ = names(&"1 ".repeat(1 << 15), "");
    let _ = names(&"DE1 ".repeat(1 << 14), "");
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}
