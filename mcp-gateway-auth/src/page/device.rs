//! Letting a device in: the code that it shows, and what it asks for.

use maud::html;

use super::Page;
use super::consent::{Choice, choice_of};
use super::layout::{hidden, problem};

/// Asks for the code that a device shows (RFC 8628 §3.3). Posted as `csrf` and `user_code`.
#[derive(Debug, Clone)]
pub struct DevicePage<'a> {
    /// Where the form is posted.
    pub action: &'a str,
    /// The token of the browser's cookie.
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
            p #about {
                @if self.user_code.is_empty() {
                    "Type the code that your own device shows. Never one that somebody has sent you."
                } @else {
                    "Go on only if your own device shows this very code now. Never with one that somebody has sent you."
                }
            }
            form method="post" action=(self.action) {
                (hidden("csrf", self.csrf))
                label for="code" { "Code" }
                input #code name="user_code" value=(self.user_code) autocomplete="off" autocapitalize="characters"
                    spellcheck="false" maxlength="64" aria-describedby="about" required autofocus;
                button type="submit" { "Go on" }
            }
        };
        Page::new("Connect a device", &content)
    }
}

/// Asks a person whether a device may use a server for them.
///
/// It leads with the code, by which the person knows the device, and ends with what phishers do (RFC 8628 §5.4).
#[derive(Debug, Clone)]
pub struct DeviceConsentPage<'a> {
    /// Where the form is posted: `csrf`, `request`, `decision` (`allow` or `deny`), and `server` where it is chosen.
    pub action: &'a str,
    /// The token of the page.
    pub csrf: &'a str,
    /// Which request is being answered.
    pub request: &'a str,
    /// Who is asked.
    pub user: &'a str,
    /// The code that the device shows.
    pub user_code: &'a str,
    /// What the administrator who made the client called it.
    pub client_name: &'a str,
    /// The address of the device.
    pub from: Option<&'a str>,
    /// The server, for people; `None`: one of the choices.
    pub server: Option<&'a str>,
    /// What there is to choose from when the client names no server.
    pub choices: &'a [Choice<'a>],
    /// What the device may do, for people.
    pub scopes: &'a [&'a str],
}

impl DeviceConsentPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            p { "Does your own device show this code now?" }
            p.host { (self.user_code) }
            dl {
                dt { "The application on it" }
                dd { bdi { (self.client_name) } ", registered by an administrator of this gateway" }
                @if let Some(from) = self.from {
                    dt { "It asks from the address" }
                    dd { (from) }
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
            p #beware {
                strong { "Did somebody send you the code, or a link to this page? Deny." }
                " Whoever has the device gets your access, and nobody who is honest asks for that."
            }
            form method="post" action=(self.action) aria-describedby="beware" {
                (hidden("csrf", self.csrf))
                (hidden("request", self.request))
                @if self.server.is_none() { (choice_of(self.choices)) }
                button type="submit" name="decision" value="allow" { "Allow" }
                button.second type="submit" name="decision" value="deny" { "Deny" }
            }
        };
        Page::new("Allow this device?", &content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_text_and_phishing_is_named() {
        let evil = "</style><img src=x>";
        let choices = [Choice { id: evil, name: evil }];
        let asked = DeviceConsentPage {
            action: "/device/decide",
            csrf: "t",
            request: "r",
            user: evil,
            user_code: "WDJB-MJHT",
            client_name: evil,
            from: Some(evil),
            server: None,
            choices: &choices,
            scopes: &[evil],
        };
        let entry = DevicePage { action: "/device", csrf: "t", user_code: evil, problem: Some(evil) };
        for page in [asked.render(), entry.render()] {
            assert!(!page.html().contains("<img"), "{}", page.html());
            assert_eq!(page.html().matches("</style>").count(), 1);
            assert!(page.content_security_policy().contains("form-action 'self';"));
        }
        let page = asked.render();
        let at = |text: &str| page.html().find(text).unwrap_or_else(|| panic!("{text}"));
        assert!(at("WDJB-MJHT") < at("bdi") && at("Did somebody send you the code") < at("value=\"allow\""));
        assert!(entry.render().html().contains("Never with one that somebody has sent you."));
    }
}
