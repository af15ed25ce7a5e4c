//! W3C trace context (<https://www.w3.org/TR/trace-context/>).

use http::{HeaderMap, HeaderValue};

/// The trace that a request belongs to, and our span in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
    state: Option<HeaderValue>,
}

impl TraceContext {
    /// Continues the trace of a `traceparent` header, or begins one that is not sampled.
    ///
    /// A malformed header is ignored, as the recommendation says (§3.2.2); `tracestate` counts only with a valid
    /// `traceparent`, and only up to 512 bytes.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut span_id = [0; 8];
        rand::fill(&mut span_id);
        let mut parents = headers.get_all("traceparent").iter();
        let parent = match (parents.next(), parents.next()) {
            (Some(one), None) => parse(one.as_bytes()),
            _ => None,
        };
        if let Some((trace_id, flags)) = parent {
            let state = headers.get("tracestate").filter(|state| state.len() <= 512).cloned();
            return Self { trace_id, span_id, flags, state };
        }
        let mut trace_id = [0; 16];
        rand::fill(&mut trace_id);
        Self { trace_id, span_id, flags: 0, state: None }
    }

    /// The trace id, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> Box<str> {
        let mut text = [0; 32];
        hex(&self.trace_id, &mut text);
        String::from_utf8_lossy(&text).into()
    }

    /// The raw trace id.
    #[must_use]
    pub fn trace_id_bytes(&self) -> [u8; 16] {
        self.trace_id
    }

    /// Our span's id.
    #[must_use]
    pub fn span_id_bytes(&self) -> [u8; 8] {
        self.span_id
    }

    /// Whether the caller records the trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// The headers for the next hop: our span is the parent.
    pub fn propagate(&self, headers: &mut HeaderMap) {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(&self.trace_id, &mut text[3..35]);
        hex(&self.span_id, &mut text[36..52]);
        hex(&[self.flags], &mut text[53..55]);
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert("traceparent", value);
        }
        match &self.state {
            Some(state) => drop(headers.insert("tracestate", state.clone())),
            None => drop(headers.remove("tracestate")),
        }
    }
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
fn parse(text: &[u8]) -> Option<([u8; 16], u8)> {
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
    (length_fits && trace_id != [0; 16] && parent != [0; 8]).then_some((trace_id, flags[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(text: &str) -> TraceContext {
        TraceContext::of(&HeaderMap::from_iter([(http::HeaderName::from_static("traceparent"), text.parse().unwrap())]))
    }

    #[test]
    fn continues_a_valid_trace_with_an_own_span() {
        let trace = parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(&*trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert!(trace.is_sampled());
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
            assert_ne!(&*parent(bad).trace_id(), "0af7651916cd43dd8448eb211c80319c", "{bad}");
            assert!(!parent(bad).is_sampled(), "{bad}");
        }
    }
}
