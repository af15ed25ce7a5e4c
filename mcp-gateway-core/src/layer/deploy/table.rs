//! The endpoints of running workloads.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::Map;
use crate::contract::{Deployment, Endpoint, Workload};
use crate::record::{Placement, Route, RouteTarget, Subject};

/// Read on every call without a lock, written when a workload starts.
#[derive(Debug, Default)]
pub(super) struct Table {
    servers: ArcSwap<Map<Arc<str>, Arc<Server>>>,
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Server {
    shared: Option<Slot>,
    own: ArcSwap<Map<Subject, Slot>>,
}

#[derive(Debug, Clone)]
struct Slot {
    digest: Arc<str>,
    deployment: Deployment,
}

impl Slot {
    /// The endpoints, if the workload still runs and still is what the route says.
    fn current(&self, digest: &str) -> Option<Arc<[Endpoint]>> {
        let running = self.deployment.endpoints.has_changed().is_ok() && *self.digest == *digest;
        running.then(|| self.deployment.endpoints.borrow().clone())
    }

    fn is_over(&self) -> bool {
        self.deployment.endpoints.has_changed().is_err()
    }
}

impl Table {
    pub(super) fn endpoints(&self, route: &Route, subject: &Subject) -> Option<Arc<[Endpoint]>> {
        let RouteTarget::Hosted { placement, template } = &route.target else { return None };
        let servers = self.servers.load();
        let server = servers.get(&route.id)?;
        match placement {
            Placement::Shared => server.shared.as_ref()?.current(&template.digest),
            Placement::PerSubject => server.own.load().get(subject)?.current(&template.digest),
        }
    }

    pub(super) fn insert(&self, route: &Route, workload: &Workload, deployment: Deployment) {
        let slot = Slot { digest: Arc::clone(&workload.digest), deployment };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = self.servers.load_full();
        match &workload.subject {
            Some(subject) => {
                let server = match servers.get(&route.id) {
                    Some(server) => Arc::clone(server),
                    None => {
                        let server = Arc::new(Server::default());
                        let mut next = Map::clone(&servers);
                        next.insert(Arc::clone(&route.id), Arc::clone(&server));
                        self.servers.store(Arc::new(next));
                        server
                    }
                };
                let mut own = Map::clone(&server.own.load());
                own.retain(|_, slot| !slot.is_over());
                own.insert(subject.clone(), slot);
                server.own.store(Arc::new(own));
            }
            None => {
                let own = servers.get(&route.id).map(|server| server.own.load_full()).unwrap_or_default();
                let server = Server { shared: Some(slot), own: ArcSwap::new(own) };
                let mut next = Map::clone(&servers);
                next.insert(Arc::clone(&route.id), Arc::new(server));
                self.servers.store(Arc::new(next));
            }
        }
    }
}
