//! Maps that calls look things up in.

use std::collections::HashMap;

/// A map whose keys are let in by administrators or by authentication, seeded anew by each process and map.
///
/// Its hash takes a tenth of what the standard library's does for short keys, and is not meant for keys that a stranger
/// can insert and whose order he can watch: budgets by address stay with the standard one.
pub type Map<K, V> = HashMap<K, V, foldhash::quality::RandomState>;
