//! May the gateway use your account at a server?

use maud::html;

use super::Page;
use super::layout::hidden;

/// Asks a person whether the gateway may call a server with their account there. Its form is posted to
/// `/connect/{server}`: `csrf` and `request`.
#[derive(Debug, Clone)]
pub struct ConnectAccountPage<'a> {
    /// Where the form is posted.
    pub action: &'a str,
    /// The token of the session's cookie.
    pub csrf: &'a str,
    /// Which request is being answered.
    pub request: &'a str,
    /// Who is asked.
    pub user: &'a str,
    /// The server, for people.
    pub server: &'a str,
    /// The origin that gets the tokens.
    pub origin: &'a str,
    /// Who gives them, and where the person signs in next.
    pub issuer: &'a str,
    /// What is asked for.
    pub scopes: &'a [String],
}

impl ConnectAccountPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            p { "You go on to" }
            p.host { (self.issuer) }
            p { "and sign in there. From then on, whatever you use " strong { (self.server) } " with acts there as you." }
            dl {
                dt { "The server" } dd { (self.origin) }
                dt { "It may then" }
                dd {
                    @if self.scopes.is_empty() { "do what its own rules say" }
                    @else { ul { @for scope in self.scopes { li { (scope) } } } }
                }
                dt { "As" } dd { (self.user) }
            }
            p.soft { "Go on only if you have just asked for this yourself." }
            form method="post" action=(self.action) {
                (hidden("csrf", self.csrf))
                (hidden("request", self.request))
                button type="submit" { "Go on" }
            }
        };
        Page::new("Connect your account?", &content)
    }
}

/// Takes the browser to where an account is connected, without a script. Not by a redirect, which the policy of the page
/// whose form was posted would hold back.
#[derive(Debug, Clone)]
pub struct GoOnPage<'a> {
    /// Who that is.
    pub issuer: &'a str,
    /// Where.
    pub href: &'a str,
}

impl GoOnPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! { a.button href=(self.href) { "Go on to " (self.issuer) } };
        Page::new("Connect your account", &content).going_on_to(self.href)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_text() {
        let evil = "\"><script>";
        let scopes = [evil.to_owned()];
        let asked = ConnectAccountPage {
            action: evil,
            csrf: evil,
            request: evil,
            user: evil,
            server: evil,
            origin: evil,
            issuer: evil,
            scopes: &scopes,
        };
        for page in [asked.render(), GoOnPage { issuer: evil, href: evil }.render()] {
            assert!(!page.html().contains("<script"), "{}", page.html());
        }
    }
}
