use serde_json::Value;

/// What is written means the same, is written so again, and keeps nothing of how it was written.
pub fn canonical(data: &[u8]) {
    let Ok(written) = crate::wire::canonical(data, &mut |_| {}) else { return };
    assert_eq!(crate::wire::canonical(&written, &mut |_| {}).as_deref(), Ok(&*written), "once is enough");
    assert!(written.len() <= 6 * data.len().max(1));
    if super::confuses_serde(data) {
        return;
    }
    // It refuses numbers that no `f64` is near to.
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    assert_eq!(serde_json::from_slice::<Value>(&written).expect("it is JSON"), value);
}
