//! May this client act for you?

use maud::{Markup, html};

use super::Page;
use super::layout::hidden;

/// Asks a person whether a client may use a server for them.
///
/// It leads with where the answer goes and how the client is known: its name is its own claim, and so in quotes, and it
/// shows no logo.
#[derive(Debug, Clone)]
pub struct ConsentPage<'a> {
    /// Where the form is posted: `csrf`, `request`, `decision` (`allow` or `deny`), and `server` where it is chosen.
    pub action: &'a str,
    /// The token of the session's cookie.
    pub csrf: &'a str,
    /// Which request is being answered.
    pub request: &'a str,
    /// Who is asked.
    pub user: &'a str,
    /// What the client calls itself.
    pub client_name: Option<&'a str>,
    /// How the client is known.
    pub client: ClientOrigin<'a>,
    /// Where the answer goes, whole; its host is shown.
    pub redirect_uri: &'a str,
    /// The host of it, as ASCII: letters of other scripts that look the same show as `xn--`.
    pub redirect_host: &'a str,
    /// Whether that is a program on the person's own computer, where any other can pass for it.
    pub on_this_computer: bool,
    /// The server, for people; `None`: one of the choices.
    pub server: Option<&'a str>,
    /// What there is to choose from when the client names no server.
    pub choices: &'a [Choice<'a>],
    /// What the client may do, for people.
    pub scopes: &'a [&'a str],
}

/// A server that can be chosen.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name, for people.
    pub name: &'a str,
}

/// Asks for one of the servers; nothing is chosen beforehand.
pub(super) fn choice_of(choices: &[Choice<'_>]) -> Markup {
    html! {
        label for="server" { "It does not say which server it wants to use. Choose one:" }
        select #server name="server" {
            option value="" { "None" }
            @for choice in choices { option value=(choice.id) { (choice.name) } }
        }
    }
}

/// How a client is known.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum ClientOrigin<'a> {
    /// An administrator made it.
    Registered,
    /// By the document at its own URL, of this host.
    Document {
        /// The host.
        host: &'a str,
    },
    /// It registered itself, without proof of who it is.
    SelfRegistered,
}

impl ConsentPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            p { "The answer goes to" }
            p.host { (self.redirect_host) }
            dl {
                dt { "The application calls itself" }
                dd {
                    @match self.client_name {
                        Some(name) => { "\u{201c}" bdi { (name) } "\u{201d}" }
                        None => "It does not say.",
                    }
                }
                dt { "How it is known" }
                dd {
                    @match self.client {
                        ClientOrigin::Registered => "An administrator of this gateway has registered it.",
                        ClientOrigin::Document { host } => { (host) " vouches for it." }
                        ClientOrigin::SelfRegistered => "It registered itself. Nobody has checked who it is.",
                    }
                }
                @if let Some(server) = self.server {
                    dt { "It wants to use" }
                    dd { (server) }
                }
                dt { "It may then" }
                dd { ul { @for scope in self.scopes { li { (scope) } } } }
                dt { "As" }
                dd { (self.user) }
            }
            p.soft {
                "Allow it only if you have just started this yourself."
                @if self.on_this_computer { " Any program on this computer could be asking." }
            }
            form method="post" action=(self.action) {
                (hidden("csrf", self.csrf))
                (hidden("request", self.request))
                @if self.server.is_none() { (choice_of(self.choices)) }
                button type="submit" name="decision" value="allow" { "Allow" }
                button.second type="submit" name="decision" value="deny" { "Deny" }
            }
        };
        Page::new("Allow this application?", &content).leading_to(self.redirect_uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_where_the_answer_goes_before_what_the_client_says() {
        let asked = ConsentPage {
            action: "/consent",
            csrf: "t",
            request: "r",
            user: "Ada",
            client_name: Some("Claude<br>"),
            client: ClientOrigin::SelfRegistered,
            redirect_uri: "https://xn--cloude-9ra.example/callback",
            redirect_host: "xn--cloude-9ra.example",
            on_this_computer: false,
            server: Some("GitHub"),
            choices: &[],
            scopes: &["call its tools"],
        };
        let page = asked.render();
        let at = |text: &str| page.html().find(text).unwrap_or_else(|| panic!("{text}"));
        assert!(at("xn--cloude-9ra.example") < at("\u{201c}<bdi>Claude&lt;br&gt;</bdi>\u{201d}"));
        assert!(at("Nobody has checked") < at("GitHub"));
        assert!(page.content_security_policy().contains("form-action 'self' https://xn--cloude-9ra.example;"));
        assert!(!page.html().contains("<img") && !page.html().contains("<select"));

        // Without a server, one is chosen, and none is until then.
        let choices = [Choice { id: "x\"y", name: "<b>" }];
        let page = ConsentPage { server: None, choices: &choices, ..asked }.render();
        let html = page.html();
        let first = html.split("<option value=\"").nth(1).unwrap();
        assert!(first.starts_with('"') && html.contains("x&quot;y") && html.contains("&lt;b&gt;"));
    }
}
