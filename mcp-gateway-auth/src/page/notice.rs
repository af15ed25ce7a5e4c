//! Pages that say how it went, and that of device codes.

use maud::html;

use super::Page;
use super::layout::{hidden, problem};

/// Says that a client may go on.
#[derive(Debug, Clone)]
pub struct ConnectedPage<'a> {
    /// What was connected, for people.
    pub server: &'a str,
    /// Where the browser goes on by itself, without a script: to the program that waits.
    pub to: Option<&'a str>,
}

impl ConnectedPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            p { strong { (self.server) } " is connected. You can close this window." }
            @if let Some(to) = self.to { a.button href=(to) { "Back to the program" } }
        };
        let page = Page::new("Connected", &content);
        match self.to {
            Some(to) => page.going_on_to(to),
            None => page,
        }
    }
}

/// Takes the browser back to a client that gets nothing.
#[derive(Debug, Clone)]
pub struct NotConnectedPage<'a> {
    /// Where the browser goes on by itself, without a script.
    pub to: &'a str,
}

impl NotConnectedPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            p { "The program that sent you here is told that it gets nothing. You can close this window." }
            a.button href=(self.to) { "Back to the program" }
        };
        Page::new("Not connected", &content).going_on_to(self.to)
    }
}

/// Asks for the code that a device shows (RFC 8628 §3.3). Posted as `csrf` and `user_code`.
#[derive(Debug, Clone)]
pub struct DevicePage<'a> {
    /// Where the form is posted.
    pub action: &'a str,
    /// The token of the session's cookie.
    pub csrf: &'a str,
    /// The code, when the link had it: it is shown to be compared, never taken unseen.
    pub user_code: &'a str,
    /// What went wrong before.
    pub problem: Option<&'a str>,
}

impl DevicePage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            (problem(self.problem))
            p { "Type the code that your own device shows. Never one that somebody has sent you." }
            form method="post" action=(self.action) {
                (hidden("csrf", self.csrf))
                label for="code" { "Code" }
                input #code name="user_code" value=(self.user_code) autocomplete="off" autocapitalize="characters"
                    spellcheck="false" required autofocus;
                button type="submit" { "Go on" }
            }
        };
        Page::new("Connect a device", &content)
    }
}

/// Says what went wrong, and what to do.
#[derive(Debug, Clone)]
pub struct ErrorPage<'a> {
    /// What is wrong, in a few words.
    pub title: &'a str,
    /// What to do.
    pub text: &'a str,
    /// The id of the request, by which an administrator finds it.
    pub request_id: Option<&'a str>,
}

impl ErrorPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            p { (self.text) }
            @if let Some(id) = self.request_id { p.soft { "For your administrator: " (id) } }
        };
        Page::new(self.title, &content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_text() {
        let evil = "</style><img src=x>";
        for page in [
            ConnectedPage { server: evil, to: Some(evil) }.render(),
            NotConnectedPage { to: evil }.render(),
            DevicePage { action: "/device", csrf: "t", user_code: evil, problem: Some(evil) }.render(),
            ErrorPage { title: evil, text: evil, request_id: Some(evil) }.render(),
        ] {
            assert!(!page.html().contains("<img"), "{}", page.html());
            assert_eq!(page.html().matches("</style>").count(), 1);
        }
    }
}
