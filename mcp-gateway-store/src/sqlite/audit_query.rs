//! From a filter to SQL.

use jiff::Timestamp;
use mcp_gateway_core::contract::{AuditCursor, AuditFilter};
use rusqlite::types::Value;
use ulid::Ulid;

use super::audit_presence::{SECOND, SERVER, SUBJECT};
use super::audit_row;

/// What a `SELECT` reads: fixed text, values bound.
pub(super) struct Selection {
    /// From `FROM` to the end of `WHERE`.
    pub(super) text: String,
    pub(super) values: Vec<Value>,
    /// Newest first, as the tables are read: nothing is sorted.
    pub(super) newest_first: &'static str,
}

impl Selection {
    /// Rows that match, after a position; `None` when nothing can match.
    pub(super) fn of(filter: &AuditFilter, after: Option<AuditCursor>) -> Option<Self> {
        let micros = Timestamp::as_microsecond;
        let from = filter.from.map_or(i64::MIN, micros);
        let upto = filter.to.map_or(i64::MAX, |to| micros(to).saturating_sub(1));
        let upto = after.map_or(upto, |after| upto.min(micros(after.ts)));
        let mut selection = Self::between(filter, from, upto);
        let text = |text: &Option<String>| text.clone().map(Value::Text);
        selection.add("server = ?", text(&filter.server));
        selection.add("subject = ?", text(&filter.subject));
        selection.add("tenant = ?", filter.tenant.as_ref().map(|tenant| Value::Text(tenant.as_str().to_owned())));
        selection.add("category = ?", filter.category.map(|category| Value::Text(category.as_str().to_owned())));
        selection.add("actor = ?", text(&filter.actor));
        selection.add("method = ?", text(&filter.method));
        selection.add("target = ?", text(&filter.target));
        selection.add("outcome = ?", filter.outcome.map(|outcome| Value::Text(outcome.as_str().to_owned())));
        selection.add("trace_id = ?", text(&filter.trace_id));
        if let Some(id) = &filter.request_id {
            let id = Ulid::from_string(id).ok()?;
            selection.add("request_id = ?", Some(Value::Blob(id.to_bytes().to_vec())));
        }
        if let Some(after) = after {
            // The plus keeps this from being taken for the bound of the search, which `ts BETWEEN` is.
            selection.add(
                "(+ts, stream, seq) < (?, ?, ?)",
                [
                    Value::Integer(micros(after.ts)),
                    Value::Blob(after.stream.0.to_bytes().to_vec()),
                    Value::Integer(audit_row::number(after.seq)),
                ],
            );
        }
        Some(selection)
    }

    /// Rows of a time: of a subject or server, in the seconds in which it has any.
    fn between(filter: &AuditFilter, from: i64, upto: i64) -> Self {
        let present = filter.subject.as_ref().map(|name| (SUBJECT, name));
        let Some((what, name)) = present.or_else(|| filter.server.as_ref().map(|name| (SERVER, name))) else {
            return Self {
                text: "FROM event WHERE ts BETWEEN ? AND ?".to_owned(),
                values: vec![Value::Integer(from), Value::Integer(upto)],
                newest_first: "ORDER BY ts DESC, stream DESC, seq DESC",
            };
        };
        Self {
            // CROSS JOIN: in this order, whatever the statistics say.
            text: format!(
                "FROM presence CROSS JOIN event
                 WHERE what = ? AND name = ? AND second BETWEEN ? AND ?
                   AND ts BETWEEN max(second * {SECOND}, ?) AND min(second * {SECOND} + {SECOND} - 1, ?)"
            ),
            values: vec![
                Value::Text(what.to_owned()),
                Value::Text(name.clone()),
                Value::Integer(from.div_euclid(SECOND)),
                Value::Integer(upto.div_euclid(SECOND)),
                Value::Integer(from),
                Value::Integer(upto),
            ],
            newest_first: "ORDER BY second DESC, ts DESC, stream DESC, seq DESC",
        }
    }

    fn add(&mut self, text: &str, values: impl IntoIterator<Item = Value>) {
        let before = self.values.len();
        self.values.extend(values);
        if self.values.len() > before {
            self.text.push_str(" AND ");
            self.text.push_str(text);
        }
    }
}
