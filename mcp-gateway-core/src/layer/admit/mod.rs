//! The first look at a request: what it asks for and whether it is small and plain enough.

mod path;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

pub use self::path::{PathError, split};
use super::gate::{Gate, gate_layer};
use crate::MaybeReady;
use crate::context::McpContext;
use crate::record::Mount;
use crate::refusal::Refusal;
use crate::wire::mirror::MCP_METHOD;

/// Admits requests of the data plane: method, path, sizes, load.
///
/// Sets the fact `requested`. Refuses: other methods than GET, POST, DELETE (405); paths with dot segments, encoded
/// slashes, empty segments or NUL (400); a body that says it is too large (413; one that does not say is measured when
/// it is read); too many or too large headers (431); an encoded body (415); and more calls or streams at once than
/// there is room for (503 with `Retry-After`).
#[derive(Debug, Clone)]
pub struct AdmitLayer(Arc<Shared>);

/// The limits of an [`AdmitLayer`].
#[derive(Debug, Clone)]
pub struct AdmitLimits {
    /// `limits.body_bytes`: bytes of a request's body.
    pub body_bytes: u64,
    /// `limits.header_count`: fields of a request's head.
    pub header_count: usize,
    /// `limits.header_bytes`: bytes of names and values of a request's head.
    pub header_bytes: usize,
    /// `limits.calls`: POSTs at once.
    pub calls: usize,
    /// `limits.streams`: GET and listen streams at once.
    pub streams: usize,
}

impl Default for AdmitLimits {
    /// 4 MiB, 100 fields, 32 KiB, 1,000 calls, 9,000 streams.
    fn default() -> Self {
        Self { body_bytes: 4 << 20, header_count: 100, header_bytes: 32 << 10, calls: 1_000, streams: 9_000 }
    }
}

#[derive(Debug)]
struct Shared {
    mount_path: Option<Arc<str>>,
    limits: AdmitLimits,
    calls: Arc<Load>,
    streams: Arc<Load>,
}

/// How many are under way.
#[derive(Debug, Default)]
pub struct Load(AtomicUsize);

impl Load {
    /// The number now.
    #[must_use]
    pub fn current(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>, limit: usize) -> Option<Permit> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        // Made first, so that leaving undoes the count also when there is no room.
        let permit = Permit(Arc::clone(self));
        (before < limit).then_some(permit)
    }
}

struct Permit(Arc<Load>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AdmitLayer {
    /// Admits requests whose path begins with the mount's path.
    #[must_use]
    pub fn new(mount: &Mount, limits: AdmitLimits) -> Self {
        Self::build(Some(mount.path().into()), limits)
    }

    /// Admits requests from whose path a router has stripped the mount's path (`axum::Router::nest_service`).
    #[must_use]
    pub fn nested(limits: AdmitLimits) -> Self {
        Self::build(None, limits)
    }

    fn build(mount_path: Option<Arc<str>>, limits: AdmitLimits) -> Self {
        Self(Arc::new(Shared { mount_path, limits, calls: Arc::default(), streams: Arc::default() }))
    }

    /// POSTs under way.
    #[must_use]
    pub fn calls(&self) -> Arc<Load> {
        Arc::clone(&self.0.calls)
    }

    /// Streams under way.
    #[must_use]
    pub fn streams(&self) -> Arc<Load> {
        Arc::clone(&self.0.streams)
    }

    fn admit(&self, parts: &Parts) -> Result<(), Refusal> {
        let Some(cx) = McpContext::of(&parts.extensions) else {
            return Err(Refusal::layer_absent("context", "ContextLayer"));
        };
        let limits = &self.0.limits;
        check_headers(&parts.headers, limits)?;
        if !matches!(parts.method, Method::POST | Method::GET | Method::DELETE) {
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Use POST, GET or DELETE.");
            return Err(refusal.with_header(ALLOW, HeaderValue::from_static("POST, GET, DELETE")));
        }
        let stream = is_stream(&parts.method, &parts.headers);
        let requested = split(parts.uri.path(), self.0.mount_path.as_deref()).map_err(|error| match error {
            PathError::Absent => Refusal::new(StatusCode::NOT_FOUND, "There is no such server."),
            PathError::Malformed => Refusal::new(StatusCode::BAD_REQUEST, "The path is malformed."),
        })?;
        cx.set_requested(requested).map_err(Refusal::fact_set)?;
        let (load, limit) = if stream { (&self.0.streams, limits.streams) } else { (&self.0.calls, limits.calls) };
        let Some(permit) = load.enter(limit) else {
            let what = if stream { "too many streams at once" } else { "too many calls at once" };
            return Err(
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("The gateway is busy: {what}.")).retry_after(1)
            );
        };
        cx.hold(permit);
        Ok(())
    }
}

impl Gate for AdmitLayer {
    fn judge(&self, parts: &mut Parts) -> MaybeReady<Result<(), Refusal>> {
        self.admit(parts).into()
    }
}

gate_layer!(AdmitLayer);

/// A hint only: it decides which counter the request is in, nothing else.
pub(super) fn is_stream(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::GET || headers.get(MCP_METHOD).is_some_and(|method| method == "subscriptions/listen")
}

fn check_headers(headers: &HeaderMap, limits: &AdmitLimits) -> Result<(), Refusal> {
    let (mut bytes, mut types, mut encodings) = (0, 0, 0);
    let (mut encoding, mut length) = (None, None);
    // One look at each field costs less than looking up those that matter.
    for (name, value) in headers {
        bytes += name.as_str().len() + value.len();
        match *name {
            CONTENT_TYPE => types += 1,
            CONTENT_LENGTH => length = length.or(Some(value)),
            CONTENT_ENCODING => (encodings, encoding) = (encodings + 1, Some(value)),
            _ => {}
        }
    }
    if headers.len() > limits.header_count || bytes > limits.header_bytes {
        return Err(Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!("At most {} header fields with {} bytes are read.", limits.header_count, limits.header_bytes),
        ));
    }
    for (name, times) in [(CONTENT_TYPE, types), (CONTENT_ENCODING, encodings)] {
        if times > 1 {
            // One reader takes the first, another the last.
            return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("The header {name} occurs more than once.")));
        }
    }
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body must not be encoded.")
            .with_header(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    }
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limits.body_bytes) {
        return Err(too_large(limits.body_bytes));
    }
    Ok(())
}

/// 413 with the limit in words.
pub(crate) fn too_large(limit: u64) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("The body is larger than {limit} bytes."))
}

#[cfg(test)]
mod tests;
