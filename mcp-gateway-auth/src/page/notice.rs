//! Pages that say how it went.

use maud::html;

use super::Page;

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
            ErrorPage { title: evil, text: evil, request_id: Some(evil) }.render(),
        ] {
            assert!(!page.html().contains("<img"), "{}", page.html());
            assert_eq!(page.html().matches("</style>").count(), 1);
        }
    }
}
