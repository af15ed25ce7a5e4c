//! Which version a server agrees to.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use serde::Deserialize;

use crate::wire::sse::{Splitter, is_event_stream};
use crate::wire::version::ProtocolVersion;
use crate::{Body, BoxError};

/// So many bytes are read for the version; a longer answer passes without it being known.
const READ: usize = 256 << 10;

/// Reads the answer to `initialize` as far as its response goes. The same bytes are in the response that is returned.
pub(super) async fn negotiated(response: Response<Body>) -> (Response<Body>, Option<ProtocolVersion>) {
    if !response.status().is_success() || response.body().is_end_stream() {
        return (response, None);
    }
    let mut reader = if is_event_stream(response.headers()) {
        Reader::Events(Splitter::new(READ))
    } else {
        Reader::Whole(BytesMut::new())
    };
    let (parts, mut rest) = response.into_parts();
    let (mut kept, mut length, mut broken, mut version) = (VecDeque::new(), 0, None, None);
    while length <= READ {
        let data = match rest.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => {
                broken = Some(error);
                break;
            }
            None => break,
        };
        length += data.len();
        kept.push_back(data.clone());
        version = reader.push(data);
        if version.is_some() || rest.is_end_stream() {
            break;
        }
    }
    if length <= READ && version.is_none() {
        version = reader.finish();
    }
    (Response::from_parts(parts, Body::new(Replayed { kept, broken, rest })), version)
}

enum Reader {
    Whole(BytesMut),
    Events(Splitter),
}

impl Reader {
    /// The version, once an event has it.
    fn push(&mut self, data: Bytes) -> Option<ProtocolVersion> {
        match self {
            Self::Whole(text) => {
                text.extend_from_slice(&data);
                None
            }
            Self::Events(splitter) => {
                splitter.push(data);
                while let Ok(Some(event)) = splitter.next_event() {
                    if let Some(version) = version_in(&event.data) {
                        return Some(version);
                    }
                }
                None
            }
        }
    }

    /// The version in an answer that has come as far as it will.
    fn finish(self) -> Option<ProtocolVersion> {
        match self {
            Self::Whole(text) => version_in(&text),
            Self::Events(_) => None,
        }
    }
}

fn version_in(message: &[u8]) -> Option<ProtocolVersion> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        result: Answer<'a>,
    }
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(rename = "protocolVersion", borrow)]
        version: std::borrow::Cow<'a, str>,
    }
    let message: Message<'_> = serde_json::from_slice(message).ok()?;
    ProtocolVersion::parse(&message.result.version)
}

/// What was read already, and the rest as it comes.
struct Replayed {
    kept: VecDeque<Bytes>,
    broken: Option<BoxError>,
    rest: Body,
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(data) = self.kept.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(error) = self.broken.take() {
            self.rest = Body::empty();
            return Poll::Ready(Some(Err(error)));
        }
        Pin::new(&mut self.rest).poll_frame(task)
    }

    fn is_end_stream(&self) -> bool {
        self.kept.is_empty() && self.broken.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.rest.size_hint();
        let kept: u64 = self.kept.iter().map(|data| data.len() as u64).sum();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + kept);
        }
        hint.set_lower(hint.lower() + kept);
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{self, StreamExt as _};
    use http_body_util::StreamBody;

    use super::*;

    const ANSWER: &str = r#"{"jsonrpc":"2.0","id":0,"result":{"capabilities":{"x":{"protocolVersion":"x"}},"protocolVersion":"2025-11-25"}}"#;

    fn response(content_type: &str, body: Body) -> Response<Body> {
        Response::builder().header("content-type", content_type).body(body).unwrap()
    }

    fn chunks(text: &str, size: usize) -> Vec<Result<Frame<Bytes>, BoxError>> {
        text.as_bytes().chunks(size).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect()
    }

    async fn text(response: Response<Body>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_version_is_found_and_every_byte_stays() {
        let events = format!(": hi\n\nid: 1\ndata:\n\ndata: {ANSWER}\n\ndata: {{}}\n\n");
        for (content_type, whole) in [("application/json", ANSWER), ("text/event-stream", &events)] {
            for size in [1, 7, 1_000] {
                let body = Body::new(StreamBody::new(stream::iter(chunks(whole, size))));
                let (response, version) = negotiated(response(content_type, body)).await;
                assert_eq!(version, Some(ProtocolVersion::V20251125), "{content_type} {size}");
                assert_eq!(text(response).await, whole);
            }
        }
        let (response, version) = negotiated(response("application/json", Body::from(Bytes::from(ANSWER)))).await;
        assert_eq!(
            (version, response.body().size_hint().exact()),
            (Some(ProtocolVersion::V20251125), Some(ANSWER.len() as u64))
        );
    }

    #[tokio::test]
    async fn a_stream_goes_on_once_the_version_is_known() {
        let endless = stream::iter(chunks(&format!("data: {ANSWER}\n\n"), 9)).chain(stream::pending());
        let (response, version) = negotiated(response("text/event-stream", Body::new(StreamBody::new(endless)))).await;
        assert_eq!(version, Some(ProtocolVersion::V20251125));
        let mut body = response.into_body();
        let mut seen = Vec::new();
        while seen.len() < ANSWER.len() + 8 {
            seen.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert!(futures_util::poll!(body.frame()).is_pending());
    }

    #[tokio::test]
    async fn what_names_no_known_version_passes_without_one() {
        for answer in
            [&*ANSWER.replace("2025-11-25", "2031-01-01"), "{}", "}", r#"{"jsonrpc":"2.0","id":0,"error":{}}"#]
        {
            let body = Body::new(StreamBody::new(stream::iter(chunks(answer, 50_000))));
            let (response, version) = negotiated(response("application/json", body)).await;
            assert_eq!(version, None);
            assert_eq!(text(response).await, answer);
        }
    }

    #[tokio::test]
    async fn so_many_bytes_are_read() {
        for (length, known) in [(READ, true), (READ + 1, false)] {
            let answer = format!("{ANSWER}{}", " ".repeat(length - ANSWER.len()));
            let body = Body::new(StreamBody::new(stream::iter(chunks(&answer, 50_000))));
            let (response, version) = negotiated(response("application/json", body)).await;
            assert_eq!((version.is_some(), text(response).await == answer), (known, true), "{length}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_does() {
        let frames = [Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"{"))), Err("reset".into())];
        let body = Body::new(StreamBody::new(stream::iter(frames)));
        let (response, version) = negotiated(response("application/json", body)).await;
        assert_eq!(version, None);
        let mut body = response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "{");
        assert!(body.frame().await.unwrap().is_err());
    }
}
