//! The reference of all settings, made from the code.

use std::fmt::Write as _;

use serde_json::Value;

use super::section::Key;
use super::source::keys;

/// Every key with its default and what it does.
#[must_use]
pub fn reference() -> Vec<Key> {
    keys()
}

/// The same as a table in Markdown: what `docs/reference/configuration.md` contains.
#[must_use]
pub fn reference_table() -> String {
    let mut table = String::from("| Key | Default | What it does |\n| --- | --- | --- |\n");
    for Key { path, doc, default, .. } in keys() {
        let default = match default {
            Value::Null => "not set".to_owned(),
            Value::Array(items) if items.is_empty() => "none".to_owned(),
            Value::Array(items) => items.iter().map(|item| format!("`{}`", plain(item))).collect::<Vec<_>>().join(", "),
            value => format!("`{}`", plain(&value)),
        };
        // Writing to a string never fails.
        let _ = writeln!(table, "| `{path}` | {default} | {} |", doc.replace('|', "\\|"));
    }
    table
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
