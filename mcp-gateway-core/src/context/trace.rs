//! W3C trace context (<https://www.w3.org/TR/trace-context/>).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The trace that a request belongs to, and our spans in it: the exchange, and within it the call of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    /// The same in hexadecimal digits, which every event of the request shares.
    text: Arc<str>,
    parent: Option<[u8; 8]>,
    span_id: [u8; 8],
    call_id: [u8; 8],
    flags: u8,
    state: Option<HeaderValue>,
}

/// The part of the traces that begin here which is recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sampling(u64);

impl Sampling {
    /// From 0, none, to 1, all.
    #[must_use]
    pub fn ratio(ratio: f64) -> Self {
        // Of 63 bits of the trace id, as OpenTelemetry's samplers do it. `as` saturates.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2^63")]
        Self((ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64)
    }

    fn takes(self, trace_id: &[u8; 16]) -> bool {
        let low = trace_id[8..].iter().fold(0, |low, &byte| low << 8 | u64::from(byte));
        low >> 1 < self.0
    }
}

impl TraceContext {
    /// Continues the trace of a `traceparent` header, or begins one; one that begins is recorded as `sampling` says, one
    /// that is continued as its caller does.
    ///
    /// A malformed header is ignored, as the recommendation says (§3.2.2); `tracestate` counts only with a valid
    /// `traceparent`, and only up to 512 bytes.
    #[must_use]
    pub fn of(headers: &HeaderMap, sampling: Sampling) -> Self {
        let mut random = [0; 32];
        rand::fill(&mut random);
        let (mut trace_id, mut span_id, mut call_id) = ([0; 16], [0; 8], [0; 8]);
        trace_id.copy_from_slice(&random[..16]);
        span_id.copy_from_slice(&random[16..24]);
        call_id.copy_from_slice(&random[24..]);
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let parent = match (parents.next(), parents.next()) {
            (Some(one), None) => parse(one.as_bytes()),
            _ => None,
        };
        if let Some((trace_id, parent, flags)) = parent {
            let state = headers.get(TRACESTATE).filter(|state| state.len() <= 512).cloned();
            let text = text_of(&trace_id);
            return Self { trace_id, text, parent: Some(parent), span_id, call_id, flags, state };
        }
        let flags = u8::from(sampling.takes(&trace_id));
        Self { trace_id, text: text_of(&trace_id), parent: None, span_id, call_id, flags, state: None }
    }

    /// The trace id, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &Arc<str> {
        &self.text
    }

    /// The raw trace id.
    #[must_use]
    pub fn trace_id_bytes(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The caller's span, when the request belongs to a trace of its own.
    #[must_use]
    pub fn parent_id_bytes(&self) -> Option<[u8; 8]> {
        self.parent
    }

    /// The id of the exchange's span.
    #[must_use]
    pub fn span_id_bytes(&self) -> [u8; 8] {
        self.span_id
    }

    /// The id of the span of the server's call, which is the server's parent.
    #[must_use]
    pub fn call_id_bytes(&self) -> [u8; 8] {
        self.call_id
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// The headers for the next hop: our call is the parent.
    pub fn propagate(&self, headers: &mut HeaderMap) {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        text[3..35].copy_from_slice(self.text.as_bytes());
        hex(&self.call_id, &mut text[36..52]);
        hex(&[self.flags], &mut text[53..55]);
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert(TRACEPARENT, value);
        }
        match &self.state {
            Some(state) => drop(headers.insert(TRACESTATE, state.clone())),
            None => drop(headers.remove(TRACESTATE)),
        }
    }
}

/// 16 bytes as 32 hexadecimal digits.
pub(crate) fn text_of(bytes: &[u8; 16]) -> Arc<str> {
    let mut text = [0; 32];
    hex(bytes, &mut text);
    std::str::from_utf8(&text).expect("hexadecimal digits are ASCII").into()
}

fn hex(bytes: &[u8], text: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn unhex(text: &[u8], bytes: &mut [u8]) -> Option<()> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    for (pair, byte) in text.chunks_exact(2).zip(bytes) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

/// `version-traceid-parentid-flags`; a later version may have more after the flags.
fn parse(text: &[u8]) -> Option<([u8; 16], [u8; 8], u8)> {
    if text.len() < 55 || text[2] != b'-' || text[35] != b'-' || text[52] != b'-' {
        return None;
    }
    let (mut version, mut trace_id, mut parent, mut flags) = ([0; 1], [0; 16], [0; 8], [0; 1]);
    unhex(&text[..2], &mut version)?;
    unhex(&text[3..35], &mut trace_id)?;
    unhex(&text[36..52], &mut parent)?;
    unhex(&text[53..55], &mut flags)?;
    let length_fits = match version[0] {
        0xff => false,
        0 => text.len() == 55,
        _ => text.len() == 55 || text[55] == b'-',
    };
    (length_fits && trace_id != [0; 16] && parent != [0; 8]).then_some((trace_id, parent, flags[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(text: &str) -> TraceContext {
        let header = (http::HeaderName::from_static("traceparent"), text.parse().unwrap());
        TraceContext::of(&HeaderMap::from_iter([header]), Sampling::default())
    }

    #[test]
    fn continues_a_valid_trace_with_an_own_span() {
        let trace = parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(&**trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert!(trace.is_sampled());
        assert_eq!(trace.parent_id_bytes(), Some(*b"\xb7\xad\x6b\x71\x69\x20\x33\x31"));
        let mut headers = HeaderMap::new();
        trace.propagate(&mut headers);
        let sent = headers["traceparent"].to_str().unwrap();
        assert!(sent.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && sent.ends_with("-01"));
        assert!(!sent.contains("b7ad6b7169203331"));
    }

    #[test]
    fn begins_a_trace_when_the_header_is_malformed() {
        for bad in [
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
            "",
        ] {
            assert_ne!(&**parent(bad).trace_id(), "0af7651916cd43dd8448eb211c80319c", "{bad}");
            assert!(!parent(bad).is_sampled(), "{bad}");
        }
    }

    #[test]
    fn a_trace_that_begins_here_is_recorded_in_so_many_cases() {
        let sampled = |ratio: f64| {
            let one = |_| TraceContext::of(&HeaderMap::new(), Sampling::ratio(ratio)).is_sampled();
            (0..4_000).map(one).filter(|&sampled| sampled).count()
        };
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 4_000));
        // Ten standard deviations to either side.
        assert!((1_680..2_320).contains(&sampled(0.5)));
        assert!(!Sampling::ratio(0.5).takes(&[0x80; 16]) && Sampling::ratio(0.5).takes(&[0x7f; 16]));
    }
}
