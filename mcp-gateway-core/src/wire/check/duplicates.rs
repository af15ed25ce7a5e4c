use super::tree::Tree;
use crate::wire;

/// Refuses repeated members exactly where `serde_json` sees them, and accepts no text that it refuses.
pub fn duplicates(data: &[u8]) {
    if super::confuses_serde(data) {
        return;
    }
    let found = wire::duplicates(data);
    match serde_json::from_slice::<Tree>(data) {
        Ok(tree) => {
            let expected = tree.repeats_anywhere();
            assert_eq!(found.is_err(), expected, "{found:?}");
            assert!(found.is_ok() || found.is_err_and(|e| e.fault() == wire::Fault::RepeatedMember));
        }
        Err(_) => assert!(found.is_err()),
    }
}
