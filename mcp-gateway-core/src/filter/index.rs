//! Filters by the server that they concern.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::compile::{Compiled, FilterError};
use super::record::FilterSpec;

/// All filters, compiled and in their order, by server: those of other servers cost nothing.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    servers: HashMap<Box<str>, Arc<[Arc<Compiled>]>>,
    every: Arc<[Arc<Compiled>]>,
}

impl Filters {
    /// Filters by their ids.
    ///
    /// # Errors
    /// The first thing that is wrong with one.
    pub fn compile<'a>(specs: impl IntoIterator<Item = (&'a str, &'a FilterSpec)>) -> Result<Self, FilterError> {
        let compiled = specs.into_iter().map(|(id, spec)| Compiled::new(id, spec).map(Arc::new));
        Ok(Self::of_compiled(compiled.collect::<Result<Vec<_>, _>>()?))
    }

    /// Those of these that are enabled.
    pub(crate) fn of_compiled(mut filters: Vec<Arc<Compiled>>) -> Self {
        filters.retain(|filter| filter.enabled);
        filters.sort_by(|a, b| (a.order, &a.id).cmp(&(b.order, &b.id)));
        let named: BTreeSet<&str> = filters.iter().filter_map(|filter| filter.selection.servers()).flatten().collect();
        let of =
            |server| filters.iter().filter(move |filter| filter.selection.concerns_server(server)).cloned().collect();
        let servers = named.into_iter().map(|server| (server.into(), of(server))).collect();
        let every = filters.iter().filter(|filter| filter.selection.servers().is_none()).cloned().collect();
        Self { servers, every }
    }

    /// Those that may concern a server's messages.
    #[must_use]
    pub(crate) fn of(&self, server: &str) -> &Arc<[Arc<Compiled>]> {
        if self.servers.is_empty() { &self.every } else { self.servers.get(server).unwrap_or(&self.every) }
    }
}

/// A kept filter made ready. One that cannot be read, `None`, or is wrong refuses everything: nobody knows what it was
/// to refuse.
pub(crate) fn of_kept(id: &str, spec: Option<&FilterSpec>) -> Arc<Compiled> {
    let problem = match spec.map(|spec| Compiled::new(id, spec)) {
        Some(Ok(compiled)) => return Arc::new(compiled),
        Some(Err(error)) => error.to_string(),
        None => "it cannot be read".to_owned(),
    };
    tracing::error!(
        filter = id,
        problem,
        "a filter cannot be used: every message is refused until it is replaced or deleted"
    );
    Arc::new(Compiled::unusable(id))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters_stand_in_their_order_with_the_servers_that_they_concern() {
        let spec = |order: i32, enabled: bool, selectors: serde_json::Value| -> FilterSpec {
            let check = json!({ "kind": "size", "action": "refuse", "bytes": 1 });
            let spec =
                json!({ "name": "x", "order": order, "enabled": enabled, "selectors": selectors, "check": check });
            serde_json::from_value(spec).unwrap()
        };
        let specs = [
            ("all", spec(5, true, json!([]))),
            ("b-late", spec(7, true, json!([{ "servers": ["a", "b"] }]))),
            ("a-early", spec(-1, true, json!([{ "servers": ["a"] }]))),
            ("z", spec(5, true, json!([{ "servers": ["a"] }, { "methods": ["ping"] }]))),
            ("off", spec(0, false, json!([]))),
        ];
        let filters = Filters::compile(specs.iter().map(|(id, spec)| (*id, spec))).unwrap();
        let of = |server| filters.of(server).iter().map(|filter| filter.id.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!((of("a"), of("b"), of("c")), ("a-early all z b-late".into(), "all z b-late".into(), "all z".into()));
    }
}
