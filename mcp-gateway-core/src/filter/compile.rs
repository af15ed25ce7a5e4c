//! A filter, checked and made ready to be asked.

use std::sync::Arc;
use std::time::Duration;

use regex::RegexBuilder;

use super::detect::{Detector, Types};
use super::pii::pii_types;
use super::record::{Action, Check, FailMode, FilterLimits, FilterSpec, Selector};
use super::secrets::secret_types;
use super::select::Selection;
use super::webhook::Webhook;

/// A filter that can be asked.
#[derive(Debug)]
pub struct Compiled {
    pub(super) id: Arc<str>,
    pub(super) name: Box<str>,
    pub(super) enabled: bool,
    pub(super) order: i32,
    pub(super) selection: Selection,
    pub(super) task: Task,
    pub(super) open: bool,
    pub(super) timeout: Duration,
    pub(super) retries: u8,
    pub(super) short_circuit: bool,
    pub(super) message: Option<Box<str>>,
}

/// What it does.
#[derive(Debug)]
pub(super) enum Task {
    Look(Arc<Detector>, Action),
    Size(u64, Action),
    Urls(Option<Box<[Box<str>]>>, Action),
    Webhook(Webhook),
    /// Nobody knows what it was to do.
    Unknown,
}

/// What is wrong with a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FilterError {
    /// Which field: `selectors[2].methods[0]`.
    pub field: String,
    /// What to do.
    pub problem: String,
}

impl Compiled {
    /// Checks a filter, and makes it ready.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(id: &str, spec: &FilterSpec) -> Result<Self, FilterError> {
        text("name", &spec.name)?;
        if spec.selectors.len() > FilterLimits::SELECTORS {
            return length("selectors", spec.selectors.len(), FilterLimits::SELECTORS);
        }
        for (number, selector) in spec.selectors.iter().enumerate() {
            check_selector(&format!("selectors[{number}]"), selector)?;
        }
        if !(1..=FilterLimits::TIMEOUT_MS).contains(&spec.timeout_ms) {
            return wrong("timeout_ms", format!("must be 1 to {} milliseconds", FilterLimits::TIMEOUT_MS));
        }
        if spec.retries > FilterLimits::RETRIES {
            return wrong("retries", format!("must be at most {}", FilterLimits::RETRIES));
        }
        if let Some(message) = &spec.message {
            text("message", message)?;
        }
        Ok(Self {
            id: id.into(),
            name: spec.name.as_str().into(),
            enabled: spec.enabled,
            order: spec.order,
            selection: Selection::of(spec),
            task: Task::of(&spec.check)?,
            open: spec.fail_mode == FailMode::Open,
            timeout: Duration::from_millis(spec.timeout_ms.into()),
            retries: spec.retries,
            short_circuit: spec.short_circuit,
            message: spec.message.as_deref().map(Into::into),
        })
    }

    /// In the place of one that cannot be used: nobody knows what it was to refuse, so it refuses everything.
    pub(super) fn unusable(id: &str) -> Self {
        Self {
            id: id.into(),
            name: id.into(),
            enabled: true,
            order: i32::MIN,
            selection: Selection::everything(),
            task: Task::Unknown,
            open: false,
            timeout: Duration::ZERO,
            retries: 0,
            short_circuit: true,
            message: None,
        }
    }

    /// The name under which it is in the audit trail: its id.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }
}

impl Task {
    fn of(check: &Check) -> Result<Self, FilterError> {
        Ok(match check {
            Check::Secrets { action, types: names } => {
                Self::Look(Arc::new(Detector::Secrets(types(secret_types(), names.as_ref())?)), *action)
            }
            Check::Pii { action, types: names } => {
                Self::Look(Arc::new(Detector::Pii(types(pii_types(), names.as_ref())?)), *action)
            }
            Check::Regex { action, patterns } => {
                some("check.patterns", patterns.len(), FilterLimits::PATTERNS)?;
                let mut compiled = Vec::with_capacity(patterns.len());
                for (number, pattern) in patterns.iter().enumerate() {
                    let at = |field| format!("check.patterns[{number}].{field}");
                    text(&at("pattern"), &pattern.pattern)?;
                    let name = &pattern.name;
                    let label = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
                    if name.is_empty() || name.len() > 63 || !name.bytes().all(label) {
                        return wrong(&at("name"), "must be 1 to 63 of a-z, 0-9 and `-`".to_owned());
                    }
                    let regex = RegexBuilder::new(&pattern.pattern).size_limit(FilterLimits::COMPILED).build();
                    let regex = regex.or_else(|error| wrong(&at("pattern"), format!("is no expression: {error}")))?;
                    compiled.push((name.clone().into(), regex));
                }
                Self::Look(Arc::new(Detector::Regex(compiled.into())), *action)
            }
            Check::Size { action, bytes } => {
                not_redacting(*action)?;
                Self::Size(*bytes, *action)
            }
            Check::ElicitationUrl { action, hosts } => {
                not_redacting(*action)?;
                Self::Urls(hosts.as_ref().map(|hosts| checked_hosts(hosts)).transpose()?, *action)
            }
            Check::Webhook { url, secret, mutation } => {
                text("check.url", url)?;
                let webhook = Webhook::new(url, secret.clone(), *mutation);
                Self::Webhook(webhook.or_else(|problem| wrong("check.url", problem.to_owned()))?)
            }
        })
    }
}

fn check_selector(at: &str, selector: &Selector) -> Result<(), FilterError> {
    let Selector { servers, methods, targets, directions } = selector;
    for (field, items) in [("servers", servers), ("methods", methods), ("targets", targets)] {
        let Some(items) = items else { continue };
        some(&format!("{at}.{field}"), items.len(), FilterLimits::ITEMS)?;
        for (number, item) in items.iter().enumerate() {
            text(&format!("{at}.{field}[{number}]"), item)?;
        }
    }
    directions.as_ref().map_or(Ok(()), |ways| some(&format!("{at}.directions"), ways.len(), 3))
}

fn checked_hosts(hosts: &[String]) -> Result<Box<[Box<str>]>, FilterError> {
    some("check.hosts", hosts.len(), FilterLimits::ITEMS)?;
    let is_host = |host: &str| {
        let name = host.strip_prefix("*.").unwrap_or(host);
        // As it is in a URL that has been read: `bücher.example` is `xn--bcher-kva.example`.
        matches!(url::Host::parse(name), Ok(url::Host::Domain(domain)) if domain == name && name.len() <= 253)
    };
    match hosts.iter().position(|host| !is_host(host)) {
        None => Ok(hosts.iter().map(|host| host.as_str().into()).collect()),
        Some(number) => {
            let problem = "must be a name in small letters, `*.` before it for all below, `xn--` for what is not ASCII";
            wrong(&format!("check.hosts[{number}]"), problem.to_owned())
        }
    }
}

fn types(known: impl Iterator<Item = &'static str> + Clone, names: Option<&Vec<String>>) -> Result<Types, FilterError> {
    let Some(names) = names else { return Ok(Types::ALL) };
    some("check.types", names.len(), FilterLimits::ITEMS)?;
    Types::named(&known, names).or_else(|number| {
        let known = known.collect::<Vec<_>>().join(", ");
        wrong(&format!("check.types[{number}]"), format!("is not known; there are {known}"))
    })
}

fn not_redacting(action: Action) -> Result<(), FilterError> {
    if action == Action::Redact {
        return wrong("check.action", "must be `refuse` or `flag`: there is nothing to be replaced".to_owned());
    }
    Ok(())
}

fn wrong<T>(field: &str, problem: String) -> Result<T, FilterError> {
    Err(FilterError { field: field.to_owned(), problem })
}

fn length<T>(field: &str, length: usize, most: usize) -> Result<T, FilterError> {
    wrong(field, format!("has {length} items; at most {most} are allowed"))
}

fn some(field: &str, count: usize, most: usize) -> Result<(), FilterError> {
    match count {
        0 => wrong(field, "is empty: leave it out, or name something".to_owned()),
        count if count > most => length(field, count, most),
        _ => Ok(()),
    }
}

fn text(field: &str, text: &str) -> Result<(), FilterError> {
    if text.is_empty() || text.len() > FilterLimits::TEXT {
        return wrong(field, format!("must be 1 to {} bytes of text", FilterLimits::TEXT));
    }
    Ok(())
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
