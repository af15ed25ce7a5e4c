//! What the authorization server needs of whoever knows the people.

use async_trait::async_trait;
use http::Response;
use http::request::Parts;
use mcp_gateway_core::record::Subject;
use mcp_gateway_core::{Body, BoxError};

use super::{KnownBy, RedirectKind};

/// Logs people in and shows them pages.
///
/// Called by the browser's endpoints alone, never by the token endpoint or the data plane. Pages get their security
/// headers from the server where they have none of their own.
#[async_trait]
pub trait Interaction: Send + Sync + 'static {
    /// Who is logged in at the browser that sends this request.
    async fn who(&self, head: &Parts) -> Result<Option<LoggedIn>, BoxError>;

    /// Sends the browser to log in. Afterwards it must come to `return_to`: a path and query of ours.
    async fn login(&self, head: &Parts, return_to: &str) -> Response<Body>;

    /// Asks whether the client may have what it asks for: a form that posts `request`, `csrf` and `decision` (`allow`
    /// or `deny`) to [`ConsentPage::action`], and `server` where [`ConsentPage::server`] is absent.
    async fn consent(&self, head: &Parts, page: &ConsentPage) -> Response<Body>;

    /// Says that the client may go on, and takes the browser to it ([`Connected::to`]): by a page of its own, since a
    /// form of ours may have led here, whose page's policy browsers hold against every redirect that follows, those of
    /// the client too; and a scheme leaves the browser where it is. Without one, the browser is redirected.
    async fn connected(&self, _: &Parts, connected: &Connected) -> Response<Body> {
        super::answer::redirect(&connected.to)
    }

    /// Takes the browser back to a client that gets nothing, in the same way.
    async fn not_connected(&self, _: &Parts, not_connected: &NotConnected) -> Response<Body> {
        super::answer::redirect(&not_connected.to)
    }

    /// Shows a step of the way on which a person lets a device in (RFC 8628 §3.3). Asked for only by a server with
    /// [`devices`](super::AuthorizationServer::devices); without pages of one's own, there is nothing to be seen.
    async fn device(&self, _: &Parts, _: &DeviceStep) -> Response<Body> {
        super::answer::empty(http::StatusCode::NOT_FOUND)
    }

    /// Says what went wrong where nobody can be sent back to.
    async fn problem(&self, head: &Parts, problem: &Problem) -> Response<Body>;
}

/// Who is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    /// Whose rights would be given.
    pub subject: Subject,
    /// The login's id, if it has one: ending it ends what was agreed to in it.
    pub session: Option<String>,
}

/// A client got what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// Where the browser goes: the redirect URI with the code. A secret for a minute.
    pub to: String,
    /// The name of the server.
    pub server: String,
}

/// A client gets nothing, and is told so.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotConnected {
    /// Where the browser goes: the redirect URI with the error.
    pub to: String,
}

/// What a person is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsentPage {
    /// Who is asked.
    pub subject: Subject,
    /// Where the form goes: a path.
    pub action: String,
    /// The hidden field `request`.
    pub request: String,
    /// The hidden field `csrf`.
    pub csrf: String,
    /// The client.
    pub client_id: String,
    /// What it says its name is: to be shown as a quotation.
    pub client_name: Option<String>,
    /// How it is known.
    pub known_by: KnownBy,
    /// Where the browser will be sent, which is to stand first on the page.
    pub redirect: RedirectKind,
    /// The same, whole.
    pub redirect_uri: String,
    /// The server it asks for, as id and name; `None`: the person chooses one, or none.
    pub server: Option<(String, String)>,
    /// What it asks for.
    pub scopes: Vec<String>,
}

/// A page for somebody who lets a device in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceStep {
    /// Asks for the code: a form that posts `csrf` and `user_code`.
    Enter(DeviceEntry),
    /// Asks whether the device may have what it asks for: a form that posts `request`, `csrf` and `decision` (`allow` or
    /// `deny`), and `server` where [`DeviceConfirm::server`] is absent. It warns of codes that somebody else has sent
    /// (RFC 8628 §5.4).
    Confirm(Box<DeviceConfirm>),
    /// Says that the device may go on, and that the window can be closed.
    Allowed {
        /// The name of the server.
        server: String,
    },
    /// Says that the device got nothing.
    Denied,
}

/// A person is asked for the code that a device shows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceEntry {
    /// Where the form goes: a path.
    pub action: String,
    /// The hidden field `csrf`.
    pub csrf: String,
    /// The code, when it is known: to be shown, and compared by the person; never sent on unseen.
    pub user_code: String,
    /// Whether one was entered that is none, or none any more.
    pub wrong: bool,
}

/// A person is asked about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceConfirm {
    /// Who is asked.
    pub subject: Subject,
    /// Where the form goes: a path.
    pub action: String,
    /// The hidden field `request`.
    pub request: String,
    /// The hidden field `csrf`.
    pub csrf: String,
    /// The code that the device shows.
    pub user_code: String,
    /// The client, which an operator has made.
    pub client_id: String,
    /// What it is called.
    pub client_name: Option<String>,
    /// The address of the device, where it is known.
    pub from: Option<String>,
    /// The server it asks for, as id and name; `None`: the person chooses one.
    pub server: Option<(String, String)>,
    /// What it asks for.
    pub scopes: Vec<String>,
}

/// What went wrong, for a person in front of a browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The client is not known: it has expired, or never was. The remedy is to let the program register anew.
    UnknownClient,
    /// The client may not be used before an administrator has approved or unblocked it.
    ClientNotApproved,
    /// The redirect URI is not one of the client's.
    Redirect,
    /// The request has ended, or belongs to another browser. The remedy is to begin again in the program.
    RequestGone,
    /// The request is not well formed.
    Malformed,
    /// The person may not use what the client asks for.
    NoAccess,
    /// The person was to choose a server and did not.
    NoServer,
    /// The form of the page came too slowly.
    TooSlow,
    /// Too much came from this address or person.
    TooMany,
    /// Something of ours does not answer.
    Unavailable,
}

impl Problem {
    /// The status of the page.
    #[must_use]
    pub fn status(self) -> http::StatusCode {
        match self {
            Self::Unavailable => http::StatusCode::SERVICE_UNAVAILABLE,
            Self::ClientNotApproved | Self::NoAccess => http::StatusCode::FORBIDDEN,
            Self::TooSlow => http::StatusCode::REQUEST_TIMEOUT,
            Self::TooMany => http::StatusCode::TOO_MANY_REQUESTS,
            _ => http::StatusCode::BAD_REQUEST,
        }
    }

    /// What to say, and what to do.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::UnknownClient => {
                "The program that sent you here is not known any more. Remove this server from it and add it again."
            }
            Self::ClientNotApproved => {
                "The program that sent you here may not be used yet. Ask an administrator to approve it."
            }
            Self::Redirect => "The program that sent you here wants you to go on to a place that it did not register.",
            Self::RequestGone => "This request has ended. Go back to the program and connect again.",
            Self::Malformed => "The program that sent you here made a mistake. Its makers should look at it.",
            Self::NoServer => "You have chosen no server. Go back and choose one.",
            Self::NoAccess => "You may not use what the program that sent you here asks for.",
            Self::TooSlow => "Your answer came too slowly. Go back to the program and connect again.",
            Self::TooMany => "That was too often. Wait a minute, then connect again.",
            Self::Unavailable => "Something does not answer. Try again in a minute.",
        }
    }
}
