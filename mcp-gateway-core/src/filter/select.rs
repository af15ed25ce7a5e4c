//! Which messages a filter concerns.

use super::record::{FilterSpec, Selector, Way};
use crate::contract::{Direction, Head, Needs};
use crate::policy::{Pattern, is_ambiguous};

/// What is known of a message's method or target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// It is this.
    Known(&'a str),
    /// It has none.
    Absent,
    /// It is one by which servers ask clients: what a client answers does not tell.
    OfServer,
    /// Nobody can say: it may be any.
    Unknown,
}

impl<'a> Name<'a> {
    pub(super) fn of(name: Option<&'a str>) -> Self {
        name.map_or(Self::Absent, Self::Known)
    }

    fn fits(self, patterns: Option<&[Pattern]>) -> bool {
        match (patterns, self) {
            (None, _) | (_, Self::Unknown) => true,
            (Some(_), Self::Absent) => false,
            (Some(patterns), Self::OfServer) => {
                patterns.iter().any(|pattern| OF_SERVER.iter().any(|method| pattern.fits(method)))
            }
            (Some(patterns), Self::Known(name)) => patterns.iter().any(|pattern| pattern.fits(name)),
        }
    }
}

/// The selectors of a filter, compiled.
#[derive(Debug)]
pub(super) struct Selection {
    /// None for everything.
    any_of: Box<[Chosen]>,
}

#[derive(Debug)]
struct Chosen {
    servers: Option<Box<[Box<str>]>>,
    methods: Option<Box<[Pattern]>>,
    targets: Option<Box<[Pattern]>>,
    directions: Option<Box<[Direction]>>,
}

/// By which a result of a task is called whatever method brings it.
const CALL: Name<'static> = Name::Known("tools/call");

/// By what servers ask clients (2025-11-25, before there were `inputRequests`).
const OF_SERVER: [&str; 8] = [
    "elicitation/create",
    "sampling/createMessage",
    "roots/list",
    "ping",
    "tasks/get",
    "tasks/result",
    "tasks/list",
    "tasks/cancel",
];

impl Selection {
    pub(super) fn of(spec: &FilterSpec) -> Self {
        Self { any_of: spec.selectors.iter().map(Chosen::of).collect() }
    }

    pub(super) fn everything() -> Self {
        Self { any_of: Box::default() }
    }

    /// The servers that are named, `None` for every one.
    pub(super) fn servers(&self) -> Option<impl Iterator<Item = &str>> {
        let all = self.any_of.is_empty() || self.any_of.iter().any(|one| one.servers.is_none());
        (!all).then(|| self.any_of.iter().flat_map(|one| one.servers.iter().flatten()).map(|server| &**server))
    }

    pub(super) fn concerns_server(&self, server: &str) -> bool {
        self.any_of.is_empty() || self.any_of.iter().any(|one| one.is_at(server))
    }

    pub(super) fn concerns(&self, direction: Direction, server: &str, method: Name<'_>, target: Name<'_>) -> bool {
        self.any_of.is_empty()
            || self.any_of.iter().any(|one| {
                one.is_at(server)
                    && one.directions.as_ref().is_none_or(|directions| directions.contains(&direction))
                    && method.fits(one.methods.as_deref())
                    && target.fits(one.targets.as_deref())
            })
    }

    /// The same of what a client sends; without a method it is an answer to a server, and may belong to any call.
    pub(super) fn concerns_request(&self, server: &str, method: Option<&str>, target: Option<&str>) -> bool {
        match method {
            Some(_) => self.concerns(Direction::Request, server, Name::of(method), named(method, target)),
            None => self.concerns(Direction::Request, server, Name::OfServer, Name::Unknown),
        }
    }

    /// The same of a response, `None` to what nobody knows. One about a task may bring what a tool answered.
    pub(super) fn concerns_response(&self, server: &str, method: Option<&str>, target: Option<&str>) -> bool {
        let Some(method) = method else {
            return self.concerns(Direction::Response, server, Name::Unknown, Name::Unknown);
        };
        self.concerns(Direction::Response, server, Name::Known(method), named(Some(method), target))
            || (method.starts_with("tasks/") && self.concerns_results_of_tasks(server))
    }

    /// The same of a message of a stream that is no response; what it came along with is `target`.
    pub(super) fn concerns_event(&self, server: &str, method: Option<&str>, target: Name<'_>) -> bool {
        self.concerns(Direction::Event, server, Name::of(method), target)
            || (method.is_some_and(|method| method.starts_with("notifications/tasks"))
                && self.concerns_results_of_tasks(server))
    }

    fn concerns_results_of_tasks(&self, server: &str) -> bool {
        self.concerns(Direction::Response, server, CALL, Name::Unknown)
    }

    /// What it may concern of an exchange of which only the head is known.
    pub(super) fn needs(&self, head: &Head<'_>) -> Needs {
        let target = match head.method {
            Some(_) => named(head.method, head.target),
            None => Name::Unknown,
        };
        Needs {
            request: self.concerns_request(head.server, head.method, head.target),
            // What a client answers gets no response, and streams are asked about by their server.
            response: head.method.is_some() && self.concerns_response(head.server, head.method, head.target),
            events: self.concerns(Direction::Event, head.server, Name::Unknown, target)
                || self.concerns_results_of_tasks(head.server),
        }
    }
}

/// What a message of this method names. A URI that servers may take for another one names nobody knows what.
pub(super) fn named<'a>(method: Option<&str>, target: Option<&'a str>) -> Name<'a> {
    let by_uri = method.is_some_and(|method| method.starts_with("resources/") || method == "completion/complete");
    match target {
        Some(uri) if by_uri && is_ambiguous(uri) => Name::Unknown,
        target => Name::of(target),
    }
}

impl Chosen {
    fn of(selector: &Selector) -> Self {
        let patterns = |texts: &Vec<String>| texts.iter().map(|text| Pattern::new(text)).collect();
        Self {
            servers: selector.servers.as_ref().map(|ids| ids.iter().map(|id| id.as_str().into()).collect()),
            methods: selector.methods.as_ref().map(patterns),
            targets: selector.targets.as_ref().map(patterns),
            directions: selector.directions.as_ref().map(|ways| ways.iter().map(|way: &Way| (*way).into()).collect()),
        }
    }

    fn is_at(&self, server: &str) -> bool {
        self.servers.as_ref().is_none_or(|servers| servers.iter().any(|one| **one == *server))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::ServerRequests;
    use crate::wire::version::Era;

    fn selection(selectors: &serde_json::Value) -> Selection {
        let spec =
            json!({ "name": "x", "selectors": selectors, "check": { "kind": "size", "action": "refuse", "bytes": 1 } });
        Selection::of(&serde_json::from_value(spec).unwrap())
    }

    fn needs(selectors: &serde_json::Value, server: &str, method: Option<&str>, target: Option<&str>) -> String {
        let needs = selection(selectors).needs(&Head {
            server,
            method,
            target,
            era: Era::Legacy,
            server_requests: ServerRequests::default(),
        });
        let flag = |on, name| if on { name } else { "" };
        format!("{}{}{}", flag(needs.request, "q"), flag(needs.response, "r"), flag(needs.events, "e"))
    }

    #[test]
    fn what_no_selector_names_costs_nothing() {
        const READ: Option<&str> = Some("resources/read");
        let (call, list, get) = (Some("tools/call"), Some("tools/list"), None);
        for (selectors, server, method, target, expected) in [
            (json!([]), "a", list, None, "qre"),
            (json!([{}]), "a", call, Some("x"), "qre"),
            (json!([{ "servers": ["b"] }]), "a", call, Some("x"), ""),
            (json!([{ "servers": ["b"] }]), "b", call, Some("x"), "qre"),
            (json!([{ "directions": ["request"] }]), "a", call, Some("x"), "q"),
            (json!([{ "directions": ["request"] }]), "a", get, None, "q"),
            (json!([{ "directions": ["event"] }]), "a", list, None, "e"),
            (json!([{ "methods": ["tools/*"], "directions": ["request"] }]), "a", Some("ping"), None, ""),
            (json!([{ "methods": ["tools/call"], "directions": ["request"] }]), "a", list, None, ""),
            // What a client answers is of a method of servers, and of anybody's call.
            (json!([{ "methods": ["tools/call"], "directions": ["request"] }]), "a", get, None, ""),
            (json!([{ "methods": ["elicitation/*"], "directions": ["request"] }]), "a", get, None, "q"),
            (json!([{ "methods": ["*"], "directions": ["request"] }]), "a", get, None, "q"),
            (json!([{ "targets": ["x"], "directions": ["request"] }]), "a", get, None, "q"),
            // A URI that can be written otherwise.
            (json!([{ "targets": ["file:///s*"], "directions": ["request"] }]), "a", READ, Some("file:///s"), "q"),
            (json!([{ "targets": ["file:///s*"], "directions": ["request"] }]), "a", READ, Some("file:///a"), ""),
            (json!([{ "targets": ["file:///s*"], "directions": ["request"] }]), "a", READ, Some("file:///%73"), "q"),
            (json!([{ "targets": ["file:///s*"], "directions": ["request"] }]), "a", READ, Some("FILE:///s"), "q"),
            (json!([{ "targets": ["file:///s*"], "directions": ["request"] }]), "a", READ, Some("file:///a/../s"), "q"),
            (json!([{ "targets": ["file:///s*"], "directions": ["response"] }]), "a", READ, Some("file:///%73"), "re"),
            (json!([{ "targets": ["s*"], "directions": ["request"] }]), "a", call, Some("a/../s"), ""),
            (json!([{ "targets": ["delete_*"], "directions": ["request"] }]), "a", call, Some("list"), ""),
            (json!([{ "targets": ["delete_*"], "directions": ["request"] }]), "a", call, Some("delete_x"), "q"),
            (json!([{ "targets": ["delete_*"], "directions": ["request"] }]), "a", list, None, ""),
            // The result of a task comes by another method, or by a notification.
            (
                json!([{ "methods": ["tools/call"], "directions": ["response"] }]),
                "a",
                Some("tasks/result"),
                Some("7"),
                "re",
            ),
            (json!([{ "methods": ["tools/call"], "directions": ["response"] }]), "a", Some("ping"), None, "e"),
            (json!([{ "methods": ["prompts/get"], "directions": ["response"] }]), "a", Some("ping"), None, ""),
            (json!([{ "methods": ["elicitation/create"], "directions": ["event"] }]), "a", call, Some("x"), "e"),
            (json!([{ "targets": ["y"], "directions": ["event"] }]), "a", call, Some("x"), ""),
            (json!([{ "targets": ["y"], "directions": ["event"] }]), "a", get, None, "e"),
            (
                json!([{ "servers": ["b"], "methods": ["ping"] }, { "servers": ["a"], "directions": ["request"] }]),
                "a",
                call,
                Some("x"),
                "q",
            ),
        ] {
            assert_eq!(needs(&selectors, server, method, target), expected, "{selectors} {method:?}");
        }
    }

    #[test]
    fn what_nobody_knows_may_be_anything() {
        let one = selection(&json!([{ "methods": ["tools/call"], "targets": ["x"], "directions": ["response"] }]));
        assert!(one.concerns_response("a", None, None));
        assert!(one.concerns_response("a", Some("tools/call"), Some("x")));
        assert!(!one.concerns_response("a", Some("tools/call"), Some("y")));
        assert!(one.concerns_response("a", Some("tasks/get"), Some("7")));
        assert!(one.concerns_event("a", Some("notifications/tasks"), Name::Unknown));
        assert!(!one.concerns_event("a", Some("notifications/message"), Name::Unknown));
    }

    #[test]
    fn servers_are_known_if_all_selectors_name_some() {
        let servers = |selectors| selection(&selectors).servers().map(|servers| servers.collect::<Vec<_>>().join(","));
        assert_eq!(servers(json!([])), None);
        assert_eq!(servers(json!([{ "servers": ["a"] }, {}])), None);
        assert_eq!(servers(json!([{ "servers": ["a"] }, { "servers": ["b"] }])).as_deref(), Some("a,b"));
    }
}
