//! The pages that people see: login, consent, connected, device code, error.
//!
//! Made on the server, without a script; they work with a keyboard and a screen reader, in light and dark. Each is a
//! struct of what it shows: whatever comes from elsewhere is escaped, and nothing is asked for that the struct has not.
//!
//! ```
//! use mcp_gateway_auth::page::{LoginPage, Provider};
//!
//! let page = LoginPage {
//!     csrf: "token",
//!     next: "/",
//!     password: true,
//!     providers: &[Provider { name: "Example", href: "/login/example" }],
//!     login: "",
//!     problem: None,
//! };
//! let response: http::Response<String> = page.render().into_response(http::StatusCode::OK);
//! assert!(response.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
//! ```

mod account;
mod consent;
mod device;
mod layout;
mod login;
mod notice;

pub use self::account::{ConnectAccountPage, GoOnPage};
pub use self::consent::{Choice, ClientOrigin, ConsentPage};
pub use self::device::{DeviceConsentPage, DevicePage};
pub use self::layout::Page;
pub use self::login::{ConfirmLinkPage, LinkPage, LoginPage, PasswordPage, Provider, SignedInPage, SignedOutPage, Way};
pub use self::notice::{ConnectedPage, ErrorPage, NotConnectedPage};
