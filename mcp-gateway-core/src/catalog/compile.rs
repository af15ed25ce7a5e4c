//! From an entry to a route.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::limits::CatalogLimits as Limits;
use super::{digest, headers, program, quantity, remote};
use crate::contract::{EntryError, ResourceLimits, Workload, WorkloadId};
use crate::record::{Entry, EntryOrigin, Mount, Placement, Route, RouteTarget, RuntimeKind, ServerUserType};
use crate::wire::untrusted::Untrusted;

/// Checks an entry and compiles what the data plane needs of it.
///
/// Called once for each change of an entry, never per call. Everything that could go wrong with an entry later is
/// found here: whoever holds a [`Route`] need not check again. The entry's [`origin`](Entry::origin) decides whether
/// it may name a local program.
///
/// # Errors
/// The first thing that is wrong, with the path of its field (`npxConfig.package`) and what to do about it.
pub fn compile(entry: &Entry, mount: &Mount) -> Result<Route, EntryError> {
    check(entry, mount).map_err(|Problem { field, problem }| EntryError {
        place: match &entry.origin {
            Some(EntryOrigin::File { path, .. }) => path.display().to_string(),
            _ => format!("entry {}", Untrusted(&entry.entry_key)),
        },
        field: Some(field),
        problem,
        id: is_label(&entry.entry_key).then(|| entry.entry_key.clone()),
    })
}

/// What is wrong with which field.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) field: String,
    pub(super) problem: String,
}

/// Shorthand for a problem.
pub(super) fn wrong<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, Problem> {
    Err(Problem { field: field.into(), problem: problem.into() })
}

/// Something that existing catalogs say and this version does not do.
pub(super) fn unsupported<T>(field: impl Into<String>, what: &str) -> Result<T, Problem> {
    wrong(field, format!("{what} is not supported by this version"))
}

/// Whether an id is an RFC 1123 label: 1 to 63 lowercase letters, digits and `-`, not at either end.
pub(super) fn is_label(id: &str) -> bool {
    (1..=Limits::ID).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !id.starts_with('-')
        && !id.ends_with('-')
}

/// Refuses `${VAR}`, which other gateways replace: passed on as it stands, it would be a silent mistake.
pub(super) fn no_variables(field: &str, text: &str) -> Result<(), Problem> {
    if text.contains("${") { unsupported(field, "replacing ${VAR} with a value") } else { Ok(()) }
}

/// Refuses a list that is too long.
pub(super) fn bounded<T>(field: &str, items: &[T]) -> Result<(), Problem> {
    if items.len() > Limits::ITEMS {
        return wrong(field, format!("has {} items; at most {} are allowed", items.len(), Limits::ITEMS));
    }
    Ok(())
}

fn check(entry: &Entry, mount: &Mount) -> Result<Route, Problem> {
    if !is_label(&entry.entry_key) {
        return wrong(
            "entryKey",
            format!(
                "\"{}\" is not 1 to 63 lowercase letters, digits and -, with a letter or digit at both ends",
                Untrusted(&entry.entry_key)
            ),
        );
    }
    if entry.name.trim().is_empty() || entry.name.len() > Limits::NAME {
        return wrong("name", format!("must be 1 to {} bytes of text", Limits::NAME));
    }
    for (field, url) in [("icon", &entry.icon), ("repoURL", &entry.repo_url)] {
        if let Some(url) = url {
            remote::link(field, url)?;
        }
    }
    only_its_own_block(entry)?;

    let target = match entry.runtime {
        RuntimeKind::Remote => remote::target(entry, mount)?,
        RuntimeKind::Npx | RuntimeKind::Uvx | RuntimeKind::Command => RouteTarget::Hosted {
            placement: match entry.server_user_type {
                ServerUserType::SingleUser => Placement::PerSubject,
                ServerUserType::MultiUser => Placement::Shared,
            },
            template: Arc::new(workload(entry)?),
        },
    };
    Ok(Route {
        id: entry.entry_key.as_str().into(),
        name: entry.name.as_str().into(),
        resource: mount.resource(&entry.entry_key),
        target,
        sub_paths: sub_paths(entry)?,
        query_parameters: query_parameters(entry)?,
        response_headers: response_headers(entry)?,
        server_requests: entry.server_requests,
    })
}

/// Exactly the block of its runtime: another one is a sign that the author meant something else.
fn only_its_own_block(entry: &Entry) -> Result<(), Problem> {
    let blocks = [
        ("npxConfig", RuntimeKind::Npx, "npx", entry.npx_config.is_some()),
        ("uvxConfig", RuntimeKind::Uvx, "uvx", entry.uvx_config.is_some()),
        ("remoteConfig", RuntimeKind::Remote, "remote", entry.remote_config.is_some()),
        ("command", RuntimeKind::Command, "command", entry.command.is_some()),
        ("args", RuntimeKind::Command, "command", !entry.args.is_empty()),
    ];
    for (field, runtime, name, present) in blocks {
        if present && runtime != entry.runtime {
            return wrong(field, format!("belongs to runtime: {name}; remove it or change the runtime"));
        }
        if !present && runtime == entry.runtime && field != "args" {
            return wrong(field, format!("is missing, but runtime: {name} needs it"));
        }
    }
    if entry.runtime == RuntimeKind::Remote {
        let hosted = [
            ("env", !entry.env.is_empty()),
            ("resources", entry.resources.is_some()),
            ("startupTimeoutSeconds", entry.startup_timeout_seconds.is_some()),
            ("idleTimeoutSeconds", entry.idle_timeout_seconds.is_some()),
        ];
        if let Some((field, _)) = hosted.into_iter().find(|(_, present)| *present) {
            return wrong(field, "has no meaning for a remote server, which this gateway does not run; remove it");
        }
    }
    Ok(())
}

fn workload(entry: &Entry) -> Result<Workload, Problem> {
    let id: Arc<str> = entry.entry_key.as_str().into();
    let mut workload = Workload {
        id: WorkloadId(Arc::clone(&id)),
        server: id,
        subject: None,
        digest: Arc::from(""),
        program: program::program(entry)?,
        env: program::environment(entry)?,
        limits: limits(entry)?,
        startup_timeout: startup_timeout(entry)?,
        idle_timeout: idle_timeout(entry)?,
    };
    workload.digest = digest::digest(&workload);
    Ok(workload)
}

fn limits(entry: &Entry) -> Result<ResourceLimits, Problem> {
    let mut limits = ResourceLimits::default();
    let Some(resources) = &entry.resources else { return Ok(limits) };
    // Requests are for runtimes that schedule; they are checked so that a mistake shows up here, not there.
    for (block, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, text) in quantities {
            let field = format!("resources.{block}.{name}");
            match name.as_str() {
                "cpu" => {
                    let millis = quantity::cpu_millis(text).or_else(|problem| wrong(field, problem))?;
                    if block == "limits" {
                        limits.cpu_millis = Some(millis);
                    }
                }
                "memory" => {
                    let bytes = quantity::memory_bytes(text).or_else(|problem| wrong(field, problem))?;
                    if block == "limits" {
                        limits.memory = Some(bytes);
                    }
                }
                _ => return wrong(field, "is not a resource that is known here: cpu, memory"),
            }
        }
    }
    Ok(limits)
}

fn startup_timeout(entry: &Entry) -> Result<Duration, Problem> {
    let (block, nested) = match (&entry.npx_config, &entry.uvx_config) {
        (Some(npx), _) => ("npxConfig", npx.startup_timeout_seconds),
        (_, Some(uvx)) => ("uvxConfig", uvx.startup_timeout_seconds),
        _ => ("", None),
    };
    let (field, seconds) = match (entry.startup_timeout_seconds, nested) {
        (Some(_), Some(_)) => {
            return wrong(
                format!("{block}.startupTimeoutSeconds"),
                "is given twice; keep the entry's startupTimeoutSeconds",
            );
        }
        (None, Some(seconds)) => (format!("{block}.startupTimeoutSeconds"), seconds),
        (seconds, None) => ("startupTimeoutSeconds".to_owned(), seconds.unwrap_or(Limits::DEFAULT_STARTUP_SECONDS)),
    };
    if !(1..=Limits::STARTUP_SECONDS).contains(&seconds) {
        return wrong(field, format!("must be 1 to {} seconds", Limits::STARTUP_SECONDS));
    }
    Ok(Duration::from_secs(seconds))
}

fn idle_timeout(entry: &Entry) -> Result<Option<Duration>, Problem> {
    let seconds = entry.idle_timeout_seconds.unwrap_or(Limits::DEFAULT_IDLE_SECONDS);
    if seconds == 0 {
        return Ok(None);
    }
    let (shortest, longest) = (Limits::SHORTEST_IDLE_SECONDS, Limits::LONGEST_IDLE_SECONDS);
    if !(shortest..=longest).contains(&seconds) {
        return wrong("idleTimeoutSeconds", format!("must be {shortest} to {longest} seconds, or 0 for never"));
    }
    Ok(Some(Duration::from_secs(seconds)))
}

/// Plain segments only (RFC 3986 unreserved characters): nothing that a server could read as another path.
fn sub_paths(entry: &Entry) -> Result<Arc<[Box<str>]>, Problem> {
    bounded("subPaths", &entry.sub_paths)?;
    for (index, path) in entry.sub_paths.iter().enumerate() {
        let plain = path.len() <= Limits::URL
            && path.split('/').all(|segment| {
                !matches!(segment, "" | "." | "..")
                    && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
            });
        if !plain {
            return wrong(
                format!("subPaths[{index}]"),
                "must be plain segments such as events or v1/events: letters, digits and -._~, no slash at either end",
            );
        }
    }
    Ok(entry.sub_paths.iter().map(|path| path.as_str().into()).collect())
}

fn query_parameters(entry: &Entry) -> Result<Arc<[Box<str>]>, Problem> {
    bounded("queryParameters", &entry.query_parameters)?;
    for (index, name) in entry.query_parameters.iter().enumerate() {
        let field = || format!("queryParameters[{index}]");
        let plain = (1..=128).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
        if !plain {
            return wrong(field(), "must be 1 to 128 letters, digits and -._~");
        }
        // Callers' credentials of this gateway; never forwarded.
        if ["access_token", "api_key"].iter().any(|credential| name.eq_ignore_ascii_case(credential)) {
            return wrong(field(), format!("{name} names a credential and is never forwarded"));
        }
    }
    Ok(entry.query_parameters.iter().map(|name| name.as_str().into()).collect())
}

fn response_headers(entry: &Entry) -> Result<Arc<[HeaderName]>, Problem> {
    bounded("responseHeaders", &entry.response_headers)?;
    let headers = entry.response_headers.iter().enumerate();
    headers.map(|(index, name)| headers::response(&format!("responseHeaders[{index}]"), name)).collect()
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
