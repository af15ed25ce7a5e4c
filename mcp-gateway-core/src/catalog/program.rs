//! What a hosted entry runs, and with which environment.

use std::collections::BTreeSet;
use std::path::Path;

use super::compile::{Problem, bounded, no_variables, unsupported, wrong};
use super::headers;
use super::limits::CatalogLimits as Limits;
use crate::contract::Program;
use crate::record::{Entry, EntryOrigin, Secret};
use crate::wire::untrusted::Untrusted;

/// Variables that change which code runs, or that this gateway gives a meaning.
const RESERVED: &[&str] = &["NODE_OPTIONS", "PATH"];
const RESERVED_PREFIXES: &[&str] = &["LD_", "DYLD_", "PYTHON", "MCP_GATEWAY_"];

pub(super) fn program(entry: &Entry) -> Result<Program, Problem> {
    if let Some(npx) = &entry.npx_config {
        npm_package("npxConfig.package", &npx.package)?;
        return Ok(Program::Npx { package: npx.package.clone(), args: args("npxConfig.args", &npx.args)? });
    }
    if let Some(uvx) = &entry.uvx_config {
        pypi_package("uvxConfig.package", &uvx.package)?;
        if let Some(command) = &uvx.command {
            no_variables("uvxConfig.command", command)?;
            if !is_word(command) {
                return wrong("uvxConfig.command", "must be the plain name of a program that the package installs");
            }
        }
        return Ok(Program::Uvx {
            package: uvx.package.clone(),
            command: uvx.command.clone(),
            args: args("uvxConfig.args", &uvx.args)?,
        });
    }
    let Some(command) = &entry.command else { return wrong("command", "is missing") };
    if !entry.origin.as_ref().is_some_and(EntryOrigin::is_operator) {
        return wrong("command", "may stand only in a local file of the operator's: it runs on the gateway's machine");
    }
    no_variables("command", command)?;
    let named = is_word(command);
    if !named && (!Path::new(command).is_absolute() || command.contains('\0') || command.len() > Limits::URL) {
        return wrong("command", "must be an absolute path, or a plain name that is looked up in PATH");
    }
    Ok(Program::Command { command: command.clone(), args: args("args", &entry.args)? })
}

pub(super) fn environment(entry: &Entry) -> Result<Vec<(String, Secret)>, Problem> {
    bounded("env", &entry.env)?;
    let mut seen = BTreeSet::new();
    let mut environment = Vec::with_capacity(entry.env.len());
    for (index, variable) in entry.env.iter().enumerate() {
        let field = |name: &str| format!("env[{index}].{name}");
        let key = variable.key.as_str();
        let valid = (1..=128).contains(&key.len())
            && !key.as_bytes()[0].is_ascii_digit()
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !valid {
            return wrong(
                field("key"),
                format!("\"{}\" is not the name of a variable: letters, digits and _", Untrusted(key)),
            );
        }
        if RESERVED.contains(&key) || RESERVED_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
            return wrong(field("key"), format!("{key} is reserved: it changes which code runs"));
        }
        if !seen.insert(key) {
            return wrong(field("key"), format!("{key} is given twice"));
        }
        if variable.file || variable.dynamic_file {
            return unsupported(field("file"), "passing a value as a file");
        }
        let value = variable.value.expose();
        if value.is_empty() {
            if variable.required {
                return unsupported(
                    field("value"),
                    "a required variable without a value, to be supplied by each user,",
                );
            }
            continue;
        }
        no_variables(&field("value"), value)?;
        headers::prefix(&field("value"), variable.prefix.as_deref(), value)?;
        if value.contains('\0') || value.len() > Limits::VALUE {
            return wrong(field("value"), format!("must be at most {} bytes without NUL", Limits::VALUE));
        }
        environment.push((variable.key.clone(), variable.value.clone()));
    }
    Ok(environment)
}

fn args(field: &str, args: &[String]) -> Result<Vec<String>, Problem> {
    bounded(field, args)?;
    for (index, arg) in args.iter().enumerate() {
        let field = format!("{field}[{index}]");
        no_variables(&field, arg)?;
        if arg.contains('\0') || arg.len() > Limits::VALUE {
            return wrong(field, format!("must be at most {} bytes without NUL", Limits::VALUE));
        }
    }
    Ok(args.to_vec())
}

/// `name`, `@scope/name`, each with `@version` where given. No path, URL or repository: npm would run those too.
fn npm_package(field: &str, package: &str) -> Result<(), Problem> {
    no_variables(field, package)?;
    let (scope, rest) = match package.strip_prefix('@').and_then(|rest| rest.split_once('/')) {
        Some((scope, rest)) => (Some(scope), rest),
        None => (None, package),
    };
    let (name, version) = split_version(rest, "@");
    if package.len() <= Limits::NAME && scope.is_none_or(is_word) && is_word(name) && version.is_none_or(is_version) {
        return Ok(());
    }
    let text = Untrusted(package);
    wrong(field, format!("\"{text}\" is not an npm package such as @scope/name@1.2.3"))
}

/// `name` or `name[extra]`, with `==version` or `@version` where given. No URL or repository.
fn pypi_package(field: &str, package: &str) -> Result<(), Problem> {
    no_variables(field, package)?;
    let (rest, version) = match split_version(package, "==") {
        (_, None) => split_version(package, "@"),
        split => split,
    };
    let (name, extras) = match rest.strip_suffix(']').and_then(|rest| rest.split_once('[')) {
        Some((name, extras)) => (name, Some(extras)),
        None => (rest, None),
    };
    let valid = package.len() <= Limits::NAME
        && is_word(name)
        && extras.is_none_or(|extras| extras.split(',').all(is_word))
        && version.is_none_or(is_version);
    if valid {
        return Ok(());
    }
    wrong(field, format!("\"{}\" is not a PyPI package such as name==1.2.3", Untrusted(package)))
}

fn split_version<'a>(text: &'a str, separator: &str) -> (&'a str, Option<&'a str>) {
    text.split_once(separator).map_or((text, None), |(name, version)| (name, Some(version)))
}

/// A name that no program takes for an option and no shell for anything but a word.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

fn is_version(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._+!".contains(&byte))
}
