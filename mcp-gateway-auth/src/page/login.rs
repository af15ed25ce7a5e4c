//! Signing in.

use maud::html;

use super::Page;
use super::layout::{hidden, problem};

/// Asks who somebody is. Its form is posted to `/login`: `csrf`, `next`, `login`, `password`.
#[derive(Debug, Clone)]
pub struct LoginPage<'a> {
    /// The token of the browser's cookie.
    pub csrf: &'a str,
    /// Where it goes on after the login: a path of this gateway.
    pub next: &'a str,
    /// Whether there are passwords of this gateway.
    pub password: bool,
    /// Identity providers to choose from.
    pub providers: &'a [Provider<'a>],
    /// The name that was typed before.
    pub login: &'a str,
    /// What went wrong before.
    pub problem: Option<&'a str>,
}

/// An identity provider on the login page.
#[derive(Debug, Clone, Copy)]
pub struct Provider<'a> {
    /// Its name, for people.
    pub name: &'a str,
    /// Where the login with it begins.
    pub href: &'a str,
}

impl LoginPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            (problem(self.problem))
            @for provider in self.providers {
                a.button href=(provider.href) { "Sign in with " (provider.name) }
            }
            @if self.password {
                form method="post" action="/login" {
                    (hidden("csrf", self.csrf))
                    (hidden("next", self.next))
                    label for="login" { "Name" }
                    input #login name="login" value=(self.login) autocomplete="username" autocapitalize="none"
                        spellcheck="false" maxlength="254" required autofocus;
                    label for="password" { "Password" }
                    input #password name="password" type="password" autocomplete="current-password" required;
                    button type="submit" { "Sign in" }
                }
            }
        };
        Page::new("Sign in", &content)
    }
}

/// Demands a new password before the first session. Posted to `/login/password`: `csrf`, `next`, `login`, `password`,
/// `new_password`.
#[derive(Debug, Clone)]
pub struct PasswordPage<'a> {
    /// The token of the browser's cookie.
    pub csrf: &'a str,
    /// Where it goes on.
    pub next: &'a str,
    /// Whose password.
    pub login: &'a str,
    /// What went wrong before.
    pub problem: Option<&'a str>,
}

impl PasswordPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            (problem(self.problem))
            p { "Somebody else has chosen your password. Choose one that only you know." }
            form method="post" action="/login/password" {
                (hidden("csrf", self.csrf))
                (hidden("next", self.next))
                label for="login" { "Name" }
                input #login name="login" value=(self.login) autocomplete="username" readonly;
                label for="password" { "Password until now" }
                input #password name="password" type="password" autocomplete="current-password" required autofocus;
                label for="new" { "New password" }
                input #new name="new_password" type="password" autocomplete="new-password" minlength="12" required
                    aria-describedby="rule";
                p.soft #rule { "At least 12 characters." }
                button type="submit" { "Change and sign in" }
            }
        };
        Page::new("Choose a password", &content)
    }
}

/// A way in which somebody who is signed in may sign in.
#[derive(Debug, Clone)]
pub struct Way<'a> {
    /// The id of the identity.
    pub id: &'a str,
    /// What it is: the name of the provider, or of the gateway's own passwords.
    pub title: &'a str,
    /// What that calls the person.
    pub who: &'a str,
    /// Since when.
    pub since: &'a str,
}

/// Says who is signed in, and how they may do so. Its forms are posted to `/logout`: `csrf`; to `/login/unlink`: `csrf`
/// and `identity`; and to `/login/link`: `csrf` and `provider`.
#[derive(Debug, Clone)]
pub struct SignedInPage<'a> {
    /// The token of the session's cookie.
    pub csrf: &'a str,
    /// The person's name.
    pub name: &'a str,
    /// Where they can prove anew who they are.
    pub again: &'a str,
    /// The ways in which they may sign in.
    pub ways: &'a [Way<'a>],
    /// Providers that may be added to these: the name in requests, and that for people.
    pub more: &'a [(&'a str, &'a str)],
    /// Why the attempt before was refused.
    pub problem: Option<&'a str>,
}

impl SignedInPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            @if let Some(problem) = self.problem { p.problem role="alert" { (problem) } }
            p { "You are signed in as " strong { (self.name) } "." }
            a.button href=(self.again) { "Sign in again" }
            p.soft { "Changing rights, passwords and keys needs a login of the last minutes." }
            form method="post" action="/logout" {
                (hidden("csrf", self.csrf))
                button.second type="submit" { "Sign out" }
            }
            @if !self.ways.is_empty() || !self.more.is_empty() {
                h2 { "Ways to sign in" }
            }
            @for way in self.ways {
                form method="post" action="/login/unlink" {
                    (hidden("csrf", self.csrf))
                    (hidden("identity", way.id))
                    p { strong { (way.title) } " as " (way.who) span.soft { ", since " (way.since) } }
                    @if self.ways.len() > 1 {
                        button.second type="submit" { "Remove " (way.title) }
                    }
                }
            }
            @for (name, title) in self.more {
                form method="post" action="/login/link" {
                    (hidden("csrf", self.csrf))
                    (hidden("provider", name))
                    button.second type="submit" { "Add " (title) }
                }
            }
            @if self.ways.len() > 1 || !self.more.is_empty() {
                p.soft { "Adding or removing one ends every session and token of yours, this one too." }
            }
        };
        Page::new("Signed in", &content)
    }
}

/// Sends somebody who is signed in to a provider, to sign in with it from then on, too. A link and no redirect: the pages'
/// policy sends forms to the gateway alone.
#[derive(Debug, Clone)]
pub struct LinkPage<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// Where it goes on.
    pub href: &'a str,
}

impl LinkPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            p { "Sign in at " strong { (self.provider) } " as yourself. From then on, whoever signs in there as that "
                "person is signed in here as you." }
            a.button href=(self.href) { "Go on to " (self.provider) }
            p { a href="/login" { "Go back" } }
        };
        Page::new("Add a way to sign in", &content)
    }
}

/// Asks somebody who comes back from a provider whether this account there is theirs. Its form is posted to
/// `/login/link/confirm`: `csrf` and `identity`.
#[derive(Debug, Clone)]
pub struct ConfirmLinkPage<'a> {
    /// The token of the session's cookie.
    pub csrf: &'a str,
    /// The id of the identity.
    pub identity: &'a str,
    /// The name of whoever is signed in here.
    pub person: &'a str,
    /// The provider's name.
    pub provider: &'a str,
    /// Its issuer.
    pub issuer: &'a str,
    /// The name there.
    pub name: &'a str,
    /// The address there.
    pub email: Option<&'a str>,
    /// What it calls the person.
    pub subject: &'a str,
    /// Whether every key ends, too.
    pub ends_keys: bool,
}

impl ConfirmLinkPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            p { "Is this account yours? Whoever signs in with it is signed in here as " strong { (self.person) } "." }
            dl {
                dt { "At" } dd { (self.provider) " (" (self.issuer) ")" }
                dt { "Name" } dd { (self.name) }
                @if let Some(email) = self.email { dt { "Address" } dd { (email) } }
                dt { "Account" } dd { (self.subject) }
            }
            form method="post" action="/login/link/confirm" {
                (hidden("csrf", self.csrf))
                (hidden("identity", self.identity))
                button type="submit" { "Add this account" }
            }
            p { a href="/login" { "Go back" } }
            p.soft {
                "Every session and token of yours ends"
                @if self.ends_keys { ", and every API key" }
                ". Sign in again afterwards."
            }
        };
        Page::new("Add a way to sign in", &content)
    }
}

/// Says that somebody has signed out here, and how to do so at the identity provider.
#[derive(Debug, Clone)]
pub struct SignedOutPage<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// Where its session ends.
    pub href: &'a str,
}

impl SignedOutPage<'_> {
    /// The page.
    #[must_use]
    pub fn render(&self) -> Page {
        let content = html! {
            p { "You are signed out of this gateway, and still signed in at " strong { (self.provider) } "." }
            a.button href=(self.href) { "Sign out of " (self.provider) " too" }
            p { a href="/login" { "Sign in again" } }
        };
        Page::new("Signed out", &content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVIL: &str = "\"><script>alert(1)</script><b a='";

    #[test]
    fn foreign_text_stays_text() {
        let provider = Provider { name: EVIL, href: "/login/x" };
        let page = LoginPage {
            csrf: EVIL,
            next: EVIL,
            password: true,
            providers: &[provider],
            login: EVIL,
            problem: Some(EVIL),
        };
        let confirm = ConfirmLinkPage {
            csrf: EVIL,
            identity: EVIL,
            person: EVIL,
            provider: EVIL,
            issuer: EVIL,
            name: EVIL,
            email: Some(EVIL),
            subject: EVIL,
            ends_keys: true,
        };
        let way = || Way { id: EVIL, title: EVIL, who: EVIL, since: EVIL };
        let pages = [
            page.render(),
            PasswordPage { csrf: EVIL, next: EVIL, login: EVIL, problem: Some(EVIL) }.render(),
            SignedInPage {
                csrf: EVIL,
                name: EVIL,
                again: EVIL,
                ways: &[way(), way()],
                more: &[(EVIL, EVIL)],
                problem: Some(EVIL),
            }
            .render(),
            LinkPage { provider: EVIL, href: EVIL }.render(),
            confirm.render(),
            SignedOutPage { provider: EVIL, href: EVIL }.render(),
        ];
        for page in pages {
            assert!(!page.html().contains("<script") && !page.html().contains("<b a="), "{}", page.html());
            assert!(page.html().contains("&lt;script&gt;"));
        }
    }

    #[test]
    fn every_field_has_a_label_and_every_form_a_token() {
        let login = LoginPage { csrf: "t", next: "/", password: true, providers: &[], login: "", problem: None };
        let password = PasswordPage { csrf: "t", next: "/", login: "ada", problem: None };
        for page in [login.render(), password.render()] {
            let html = page.html();
            for input in html.split("<input ").skip(1).filter(|input| !input.contains("type=\"hidden\"")) {
                let id = input.split("id=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
                assert!(html.contains(&format!("<label for=\"{id}\"")), "{id}");
            }
            assert_eq!(html.matches("<form").count(), html.matches("name=\"csrf\"").count());
            assert!(html.starts_with("<!DOCTYPE html>") && html.contains("lang=\"en\""));
        }
    }
}
