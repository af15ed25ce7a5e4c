//! JSON answers of which filters see only what is no response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Frame;
use http_body_util::{BodyExt as _, LengthLimitError};

use crate::refusal::Refusal;
use crate::wire::outcome::Scanner;
use crate::{Body, BoxError};

const TOO_LARGE: &str = "The server's answer is too large to be inspected.";

/// What an answer turned out to be.
pub(super) enum Begun {
    /// A response, unless it ends as something else: then it breaks off.
    Response(Body),
    /// It has ended, and did not look like one.
    Whole(Bytes),
}

/// Reads as much of an answer as tells whether it is a response, at most so many bytes.
pub(super) async fn begin(mut body: Body, most: usize) -> Result<Begun, Refusal> {
    let mut scanner = Scanner::new();
    let mut held = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(unreadable)?.into_data() else { continue };
        if held.len() + data.len() > most {
            return Err(Refusal::new(StatusCode::BAD_GATEWAY, TOO_LARGE));
        }
        scanner.push(&data);
        held.extend_from_slice(&data);
        if scanner.is_response_so_far() {
            let held = Some(held.freeze());
            return Ok(Begun::Response(Body::new(Watched { held, inner: body, scanner })));
        }
    }
    Ok(Begun::Whole(held.freeze()))
}

/// What cannot be read to its end cannot be inspected.
pub(super) fn unreadable(error: BoxError) -> Refusal {
    let public = if error.is::<LengthLimitError>() { TOO_LARGE } else { "The server broke off its answer." };
    Refusal::new(StatusCode::BAD_GATEWAY, public).because(error)
}

/// A response on its way that must not become another message, too.
struct Watched {
    /// What was read to know it.
    held: Option<Bytes>,
    inner: Body,
    scanner: Scanner,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(held) = this.held.take() {
            return Poll::Ready(Some(Ok(Frame::data(held))));
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(task));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref) {
            this.scanner.push(data);
            if !this.scanner.is_response_so_far() {
                return Poll::Ready(Some(Err("the server's answer is a response and something else at once".into())));
            }
        }
        Poll::Ready(frame)
    }
}
