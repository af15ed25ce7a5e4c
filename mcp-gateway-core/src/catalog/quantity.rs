//! Quantities as Kubernetes writes them: `500m` of a core, `256Mi` of memory.

/// Thousandths of a core: `500m`, `2`, `0.5`; 1 to 1,024,000.
pub(super) fn cpu_millis(text: &str) -> Result<u32, &'static str> {
    const PROBLEM: &str = "must be cores such as 2, 0.5 or 500m, at most 1024";
    let millis = match text.strip_suffix('m') {
        Some(millis) => scaled(millis, 1),
        None => scaled(text, 1_000),
    };
    millis
        .and_then(|millis| u32::try_from(millis).ok())
        .filter(|millis| (1..=1_024_000).contains(millis))
        .ok_or(PROBLEM)
}

/// Bytes: `256Mi`, `1Gi`, `500M`, `1048576`; 4 MiB to 16 TiB.
pub(super) fn memory_bytes(text: &str) -> Result<u64, &'static str> {
    const PROBLEM: &str = "must be bytes such as 256Mi, 1Gi or 500M, from 4Mi to 16Ti";
    const UNITS: &[(&str, u64)] = &[
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ];
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1));
    scaled(number, factor)
        .and_then(|bytes| u64::try_from(bytes).ok())
        .filter(|bytes| ((4 << 20)..=(16 << 40)).contains(bytes))
        .ok_or(PROBLEM)
}

/// `number × factor` without rounding errors of a float; a rest below one is dropped.
fn scaled(number: &str, factor: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let tens = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let exact = whole.parse::<u128>().ok()? * tens + fraction.parse::<u128>().ok()?;
    Some(exact * u128::from(factor) / tens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cores() {
        for (text, millis) in [("500m", 500), ("2", 2_000), ("0.5", 500), ("1m", 1), ("1024", 1_024_000)] {
            assert_eq!(cpu_millis(text), Ok(millis), "{text}");
        }
        for bad in ["", "0", "0m", "-1", "1e3", "1024.001", "half", "1.", ".5", "1 ", "9999999999999999999"] {
            assert!(cpu_millis(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_memory() {
        for (text, bytes) in
            [("256Mi", 256 << 20), ("1.5Gi", 3 << 29), ("500M", 500_000_000), ("4194304", 4 << 20), ("16Ti", 16 << 40)]
        {
            assert_eq!(memory_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "Mi", "256", "4194303", "17Ti", "1Zi", "1gi", "-1Gi", "999999999999999999Ti"] {
            assert!(memory_bytes(bad).is_err(), "{bad}");
        }
    }
}
