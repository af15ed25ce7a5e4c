use http::Request;

use super::*;
use crate::context::Requested;
use crate::contract::SystemClock;

/// One server, `a`, with one path below it; `away` cannot be looked up.
struct One {
    later: bool,
}

impl Resolve for One {
    fn resolve(&self, id: &str, _: &Principal) -> MaybeReady<Result<Option<Arc<Route>>, ResolveError>> {
        let found = match id {
            "a" => Ok(Some(Arc::new(Route { sub_paths: ["files/list".into()].into(), ..Route::remote("a") }))),
            "away" => Err(ResolveError("the store is away".into())),
            _ => Ok(None),
        };
        if self.later { MaybeReady::wait(async { found }) } else { found.into() }
    }
}

/// The status for a caller about whom it is decided so, and the context. Every way of waiting comes to the same.
async fn asked(id: &str, sub_path: Option<&str>, decision: Decision) -> (u16, McpContext) {
    struct Says(Decision, bool);
    impl Authorizer for Says {
        fn decide(&self, ask: &Ask<'_>) -> MaybeReady<Decision> {
            assert_eq!((ask.action, ask.target.server, ask.target.name), (Action::Connect, "a", None));
            let decision = self.0.clone();
            if self.1 { MaybeReady::wait(async { decision }) } else { decision.into() }
        }
    }
    let mut answers = Vec::new();
    for (found_later, decided_later) in [(false, false), (false, true), (true, false), (true, true)] {
        let cx = McpContext::new(&SystemClock);
        cx.set_principal(Arc::new(Principal::new("local", "ada"))).unwrap();
        cx.set_requested(Requested { id: id.into(), sub_path: sub_path.map(Into::into) }).unwrap();
        let says = Arc::new(Says(decision.clone(), decided_later));
        let layer = ResolveLayer::new(Arc::new(One { later: found_later }), says);
        let (mut parts, ()) = Request::builder().extension(cx.clone()).body(()).unwrap().into_parts();
        let status = layer.judge(&mut parts).await.map_or_else(|refusal| refusal.status().as_u16(), |()| 200);
        answers.push((status, cx));
    }
    assert!(answers.iter().all(|(status, _)| *status == answers[0].0));
    answers.remove(0)
}

#[tokio::test]
async fn absent_and_hidden_servers_are_the_same_and_narrow_credentials_are_told() {
    for (id, decision, status) in [
        ("a", Decision::allow("r"), 200),
        ("b", Decision::allow("r"), 404),
        ("a", Decision::deny("r"), 404),
        ("a", Decision::narrow("r"), 403),
        ("away", Decision::allow("r"), 503),
    ] {
        let (found, cx) = asked(id, None, decision.clone()).await;
        assert_eq!(found, status, "{id} {decision:?}");
        // The trail names the server that exists, and the rule that refused it.
        assert_eq!(cx.route().is_some(), id == "a");
        assert_eq!(cx.rule().is_some(), id == "a" && !decision.allow);
    }
}

#[tokio::test]
async fn only_listed_paths_below_a_server_exist_and_only_for_those_who_see_it() {
    for (path, decision, status) in [
        ("files/list", Decision::allow("r"), 200),
        ("files", Decision::allow("r"), 404),
        ("files/list/x", Decision::allow("r"), 404),
        ("Files/list", Decision::allow("r"), 404),
        ("files/list", Decision::narrow("r"), 403),
        ("admin", Decision::narrow("r"), 403),
    ] {
        assert_eq!(asked("a", Some(path), decision).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn a_missing_fact_is_a_refusal() {
    let layer = ResolveLayer::new(Arc::new(One { later: false }), Arc::new(|_: &Ask<'_>| Decision::allow("r")));
    let (mut parts, ()) = Request::builder().extension(McpContext::new(&SystemClock)).body(()).unwrap().into_parts();
    assert_eq!(layer.judge(&mut parts).await.unwrap_err().status().as_u16(), 500);
}
