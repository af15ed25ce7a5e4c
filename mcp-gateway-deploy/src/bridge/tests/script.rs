//! A server in memory that does what a test asks.

use std::sync::Mutex as StdMutex;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex};

use super::super::*;

/// A server of both, one or no era, with tools that misbehave on demand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Legacy,
    Modern,
    Both,
}

#[derive(Clone)]
pub(super) struct Script {
    pub(super) speaks: Speaks,
    pub(super) starts: Arc<AtomicUsize>,
    /// Every line that any child has read.
    pub(super) heard: Arc<StdMutex<Vec<Value>>>,
    pub(super) stray: Arc<StdMutex<Vec<String>>>,
    pub(super) stopped: Arc<AtomicUsize>,
}

pub(super) struct Control(Script);

impl ChildControl for Control {
    fn stray(&self, line: &[u8]) {
        self.0.stray.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
    }

    fn stop(&self) {
        self.0.stopped.fetch_add(1, Ordering::SeqCst);
    }

    fn epitaph(&self) -> BoxFuture<Epitaph> {
        Box::pin(async { Epitaph { detail: Some("the last words".to_owned()) } })
    }
}

/// Stops the child whose start was dropped.
struct Unspawned(Option<Arc<Control>>);

impl Drop for Unspawned {
    fn drop(&mut self) {
        if let Some(control) = self.0.take() {
            control.stop();
        }
    }
}

impl Spawner for Script {
    fn spawn(&self, _: Purpose) -> BoxFuture<Result<Spawned, UpstreamError>> {
        let number = self.starts.fetch_add(1, Ordering::SeqCst);
        let (stdin, child_in) = duplex(64 << 10);
        let (child_out, stdout) = duplex(64 << 10);
        tokio::spawn(self.clone().serve(number, child_in, child_out));
        let control = Arc::new(Control(self.clone()));
        Box::pin(async move {
            let mut unspawned = Unspawned(Some(Arc::clone(&control)));
            // So that callers at the same time meet a start under way.
            tokio::time::sleep(Duration::from_millis(20)).await;
            unspawned.0 = None;
            Ok(Spawned { stdin: Box::new(stdin), stdout: Box::new(stdout), control })
        })
    }
}

pub(super) async fn say(out: &mut DuplexStream, message: &Value) {
    let _ = out.write_all(format!("{message}\n").as_bytes()).await;
}

impl Script {
    pub(super) fn new(speaks: Speaks) -> Self {
        Self { speaks, starts: Arc::default(), heard: Arc::default(), stray: Arc::default(), stopped: Arc::default() }
    }

    pub(super) fn bridge(&self) -> Bridge {
        self.bridge_with(|_| {})
    }

    pub(super) fn bridge_with(&self, change: impl FnOnce(&mut BridgeOptions)) -> Bridge {
        let mut options = BridgeOptions { keep_alive: None, ..BridgeOptions::default() };
        change(&mut options);
        Bridge::new(Arc::new(self.clone()), options)
    }

    pub(super) fn starts(&self) -> usize {
        self.starts.load(Ordering::SeqCst)
    }

    pub(super) fn heard(&self, method: &str) -> Vec<Value> {
        self.heard.lock().unwrap().iter().filter(|message| message["method"] == method).cloned().collect()
    }

    /// Waits until a child has read a message of this method.
    pub(super) async fn hears(&self, method: &str) -> Value {
        for _ in 0..1000 {
            if let Some(message) = self.heard(method).pop() {
                return message;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no child has read {method}");
    }

    async fn serve(self, number: usize, stdin: DuplexStream, mut out: DuplexStream) {
        let mut lines = BufReader::new(stdin).lines();
        let mut subscriptions = Vec::new();
        let mut asked = None;
        while let Ok(Some(line)) = lines.next_line().await {
            let message: Value = serde_json::from_str(&line).unwrap();
            self.heard.lock().unwrap().push(message.clone());
            let id = &message["id"];
            let ok = |result: Value| json!({"jsonrpc": "2.0", "id": id, "result": result});
            let err = |code: i64| json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "no"}});
            let token = &message["params"]["_meta"]["progressToken"];
            let arguments = &message["params"]["arguments"];
            let Some(method) = message["method"].as_str() else {
                if let Some(call) = asked.take() {
                    let answer = json!({"jsonrpc": "2.0", "id": call, "result": {"answered": message["result"]}});
                    say(&mut out, &answer).await;
                }
                continue;
            };
            match (method, message["params"]["name"].as_str()) {
                ("server/discover", _) if self.speaks != Speaks::Legacy => {
                    say(&mut out, &ok(json!({"supportedVersions": ["2026-07-28"]}))).await;
                }
                ("initialize", _) if message["params"]["hangs"] == true => {}
                ("initialize", _) if self.speaks != Speaks::Modern => {
                    let version = &message["params"]["protocolVersion"];
                    say(&mut out, &ok(json!({"protocolVersion": version, "child": number}))).await;
                }
                ("ping", _) if self.speaks == Speaks::Legacy => say(&mut out, &ok(json!({}))).await,
                ("tools/call", Some("echo")) => say(&mut out, &ok(json!({"child": number, "got": arguments}))).await,
                ("tools/call", Some("crash")) => return,
                ("tools/call", Some("hang")) => {}
                ("tools/call", Some("progress")) => {
                    for step in 0..3 {
                        let params = json!({"progressToken": token, "progress": step});
                        let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
                        say(&mut out, &note).await;
                    }
                    say(&mut out, &ok(json!({"child": number}))).await;
                }
                ("tools/call", Some("progress-then-crash")) => {
                    let params = json!({"progressToken": token, "progress": 1});
                    let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
                    say(&mut out, &note).await;
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    return;
                }
                ("tools/call", Some("ask")) => {
                    asked = Some(id.clone());
                    say(&mut out, &json!({"jsonrpc": "2.0", "id": "s-1", "method": "roots/list"})).await;
                }
                ("tools/call", Some("noise")) => {
                    let _ = out.write_all(b"[INFO] not a message\n{broken\nplain\n").await;
                    say(&mut out, &json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})).await;
                    say(&mut out, &ok(json!({}))).await;
                }
                ("tools/call", Some("late")) => {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    say(&mut out, &ok(json!({"late": true}))).await;
                }
                ("tools/call", Some("flood")) => {
                    for step in 0..200 {
                        let params = json!({"progressToken": token, "progress": step, "message": "x".repeat(1000)});
                        let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
                        say(&mut out, &note).await;
                    }
                    say(&mut out, &ok(json!({}))).await;
                }
                ("tools/call", Some("changed")) => {
                    say(&mut out, &json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})).await;
                    for own in &subscriptions {
                        let meta = json!({"io.modelcontextprotocol/subscriptionId": own});
                        let note = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": meta}});
                        say(&mut out, &note).await;
                    }
                    say(&mut out, &ok(json!({}))).await;
                }
                ("subscriptions/listen", _) => {
                    subscriptions.push(id.clone());
                    let meta = json!({"io.modelcontextprotocol/subscriptionId": id});
                    let method = "notifications/subscriptions/acknowledged";
                    say(&mut out, &json!({"jsonrpc": "2.0", "method": method, "params": {"_meta": meta}})).await;
                }
                _ if !id.is_null() => say(&mut out, &err(-32601)).await,
                _ => {}
            }
        }
    }
}
