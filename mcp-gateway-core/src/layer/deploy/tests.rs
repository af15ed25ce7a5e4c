use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use http::Request;
use tokio::sync::watch;

use super::*;
use crate::context::{Agreed, SessionFacts};
use crate::contract::{Deployment, Incarnation, LogStream, Observation, RuntimeEventStream, SystemClock, WorkloadId};

/// Starts a workload with these endpoints, or fails; counts the starts.
struct Fake {
    outcome: Result<Vec<Endpoint>, RuntimeError>,
    starts: Mutex<Vec<watch::Sender<Arc<[Endpoint]>>>>,
}

impl Fake {
    fn new(outcome: Result<Vec<Endpoint>, RuntimeError>) -> Arc<Self> {
        Arc::new(Self { outcome, starts: Mutex::default() })
    }

    fn starts(&self) -> usize {
        self.starts.lock().unwrap().len()
    }
}

#[async_trait]
impl Runtime for Fake {
    async fn ensure(&self, _: &Arc<Workload>) -> Result<Deployment, RuntimeError> {
        let (sender, endpoints) = watch::channel(self.outcome.clone()?.into());
        self.starts.lock().unwrap().push(sender);
        Ok(Deployment { endpoints })
    }

    async fn stop(&self, _: &WorkloadId) -> Result<(), RuntimeError> {
        unreachable!("the layer stops nothing")
    }

    async fn update(&self, _: &Arc<Workload>) -> Result<(), RuntimeError> {
        unreachable!("the layer updates nothing")
    }

    async fn kept(&self) -> Result<Vec<WorkloadId>, RuntimeError> {
        unreachable!("the layer asks nothing")
    }

    async fn remove(&self, _: &WorkloadId) -> Result<bool, RuntimeError> {
        unreachable!("the layer removes nothing")
    }

    async fn observe(&self, _: &WorkloadId) -> Result<Option<Observation>, RuntimeError> {
        unreachable!("the layer asks nothing")
    }

    async fn list(&self) -> Result<Vec<Observation>, RuntimeError> {
        unreachable!("the layer asks nothing")
    }

    async fn logs(&self, _: &WorkloadId, _: usize, _: bool) -> Result<LogStream, RuntimeError> {
        unreachable!("the layer reads no logs")
    }

    fn watch(&self) -> RuntimeEventStream {
        unreachable!("the layer watches endpoints alone")
    }
}

fn endpoint(incarnation: &str, ready: bool, load: u32) -> Endpoint {
    let address = Address::Http(http::Uri::from_static("http://127.0.0.1:1/mcp"));
    Endpoint { incarnation: Incarnation(incarnation.into()), address, ready, load }
}

struct Ask {
    route: Route,
    method: Method,
    roles: Roles,
    session: Option<&'static str>,
}

impl Ask {
    fn new(route: Route) -> Self {
        Self { route, method: Method::POST, roles: Roles::NONE, session: None }
    }

    /// The incarnation that was chosen, or the refusal's status and its answer.
    async fn of(self, layer: &DeployLayer) -> Result<String, (u16, http::Response<Bytes>)> {
        let cx = McpContext::new(&SystemClock);
        cx.set_principal(Arc::new(Principal::new("local", "ada").with_roles(self.roles))).unwrap();
        cx.set_route(Arc::new(self.route)).unwrap();
        if let Some(incarnation) = self.session {
            cx.set_session(SessionFacts {
                upstream_id: "s".into(),
                incarnation: Incarnation(incarnation.into()),
                agreed: Agreed::default(),
                sealed: HeaderValue::from_static("sealed"),
                hash: "h".into(),
            })
            .unwrap();
        }
        let request = Request::builder().method(self.method).extension(cx.clone()).body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        match layer.judge(&mut parts).await {
            Ok(()) => Ok(cx.endpoint().unwrap().incarnation.0.to_string()),
            Err(refusal) => Err((refusal.status().as_u16(), refusal.into_mcp(None))),
        }
    }
}

#[tokio::test]
async fn only_an_owner_reads_what_a_server_wrote_to_stderr() {
    let failed = RuntimeError {
        kind: RuntimeErrorKind::Failed,
        public: "The server ended when it started.".into(),
        detail: Some("TOKEN=hunter2: command not found".into()),
    };
    let layer = DeployLayer::new(Some(Fake::new(Err(failed))));
    for (roles, told) in [(Roles::NONE, false), (Roles::OWNER, true)] {
        let (status, response) = Ask { roles, ..Ask::new(Route::hosted("a")) }.of(&layer).await.unwrap_err();
        let body = String::from_utf8(response.body().to_vec()).unwrap();
        assert_eq!((status, &response.headers()["retry-after"]), (503, &"10".parse().unwrap()));
        assert!(body.contains("The server ended when it started."), "{body}");
        assert_eq!(body.contains("hunter2"), told, "{body}");
    }
}

#[tokio::test]
async fn only_a_post_without_a_session_starts_a_server() {
    let fake = Fake::new(Ok(vec![endpoint("a~1", true, 0)]));
    let layer = DeployLayer::new(Some(fake.clone()));
    for method in [Method::GET, Method::DELETE] {
        let (status, response) = Ask { method, ..Ask::new(Route::hosted("a")) }.of(&layer).await.unwrap_err();
        assert_eq!((status, &response.headers()["allow"]), (405, &"POST".parse().unwrap()));
    }
    let gone = Ask { session: Some("a~0"), ..Ask::new(Route::hosted("a")) };
    assert_eq!(gone.of(&layer).await.unwrap_err().0, 404);
    assert_eq!(fake.starts(), 0);

    assert_eq!(Ask::new(Route::hosted("a")).of(&layer).await.unwrap(), "a~1");
    assert_eq!(Ask { method: Method::GET, ..Ask::new(Route::hosted("a")) }.of(&layer).await.unwrap(), "a~1");
    assert_eq!(fake.starts(), 1, "its endpoints are in memory");
    drop(fake.starts.lock().unwrap().remove(0));
    assert_eq!(Ask::new(Route::hosted("a")).of(&layer).await.unwrap(), "a~1");
    assert_eq!(fake.starts(), 1, "one that ended is started again");

    let none = DeployLayer::new(None);
    assert_eq!(Ask::new(Route::hosted("a")).of(&none).await.unwrap_err().0, 503);
}

#[tokio::test]
async fn work_goes_to_the_least_loaded_that_is_ready_and_a_session_to_its_own() {
    let endpoints = vec![endpoint("a~1", true, 5), endpoint("a~2", false, 0), endpoint("a~3", true, 2)];
    let layer = DeployLayer::new(Some(Fake::new(Ok(endpoints))));
    assert_eq!(Ask::new(Route::hosted("a")).of(&layer).await.unwrap(), "a~3");
    for (session, chosen) in [("a~1", Some("a~1")), ("a~2", Some("a~2")), ("a~9", None)] {
        let found = Ask { session: Some(session), ..Ask::new(Route::hosted("a")) }.of(&layer).await;
        assert_eq!(found.ok().as_deref(), chosen, "{session}");
    }
    let starting = DeployLayer::new(Some(Fake::new(Ok(vec![endpoint("a~1", false, 0)]))));
    assert_eq!(Ask::new(Route::hosted("a")).of(&starting).await.unwrap_err().0, 503);
}

#[tokio::test]
async fn a_session_of_another_url_is_gone() {
    let layer = DeployLayer::new(None);
    assert_eq!(Ask::new(Route::remote("a")).of(&layer).await.unwrap(), "a~remote");
    let gone = Ask { session: Some("a~before"), ..Ask::new(Route::remote("a")) };
    assert_eq!(gone.of(&layer).await.unwrap_err().0, 404);
}
