//! From a workload to a command line and an environment, without a shell.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mcp_gateway_core::contract::{Program, RuntimeError, RuntimeErrorKind};
use mcp_gateway_core::record::Secret;
use mcp_gateway_core::wire::untrusted::Untrusted;

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandLine {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
}

/// The command line of a program: packages are checked to be names, never options, paths or addresses.
pub(super) fn command_line(program: &Program, path: &OsStr) -> Result<CommandLine, RuntimeError> {
    let (name, args) = match program {
        Program::Npx { package, args } => {
            if !is_npm_package(package) {
                return Err(unsupported(format!("{} is not the name of an npm package", Untrusted(package))));
            }
            // After `--` npx takes no options of its own; the package is the first word and the rest is the server's.
            let own = ["--yes", "--", package.as_str()].map(OsString::from);
            ("npx", own.into_iter().chain(args.iter().map(OsString::from)).collect())
        }
        Program::Uvx { package, command, args } => {
            let Some(plain) = pypi_name(package) else {
                return Err(unsupported(format!("{} is not the name of a PyPI package", Untrusted(package))));
            };
            let command = command.as_deref().unwrap_or(plain);
            if !is_word(command) {
                return Err(unsupported(format!("{} is not the name of a command", Untrusted(command))));
            }
            let own = [OsString::from(format!("--from={package}")), OsString::from(command)];
            ("uvx", own.into_iter().chain(args.iter().map(OsString::from)).collect())
        }
        Program::Command { command, args } => (command.as_str(), args.iter().map(OsString::from).collect::<Vec<_>>()),
        _ => return Err(unsupported("this kind of program does not run as a child process".to_owned())),
    };
    if args.iter().any(|arg| arg.as_encoded_bytes().contains(&0)) {
        return Err(unsupported("an argument holds a NUL character".to_owned()));
    }
    let program = look_up(name, path).ok_or_else(|| missing(name))?;
    Ok(CommandLine { program, args })
}

/// Finds a program as a shell would; one with a slash is taken as it is.
fn look_up(name: &str, path: &OsStr) -> Option<PathBuf> {
    let runs = |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if name.contains('/') {
        // Children start in a folder of their own.
        return std::path::absolute(name).ok().filter(|path| runs(path));
    }
    std::env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|path| runs(path))
}

fn missing(name: &str) -> RuntimeError {
    let hint = match name {
        "npx" => "npx was not found: install Node.js 20 or later (https://nodejs.org), it brings npx with it",
        "uvx" => {
            "uvx was not found: install uv (https://docs.astral.sh/uv/getting-started/installation), or `pip install uv`"
        }
        _ => "it is not in PATH, or is not an executable file",
    };
    RuntimeError {
        kind: RuntimeErrorKind::Missing,
        public: "The server cannot be started: a program that it needs is not installed.".to_owned(),
        detail: Some(format!("{}: {hint}", Untrusted(name))),
    }
}

fn unsupported(detail: String) -> RuntimeError {
    RuntimeError {
        kind: RuntimeErrorKind::Unsupported,
        public: "The server cannot be started: its configuration is not accepted.".to_owned(),
        detail: Some(detail),
    }
}

/// Refuses packages without an exact version: a start may run what was published a minute ago.
pub(super) fn check_pinned(program: &Program) -> Result<(), RuntimeError> {
    let (package, pinned, example) = match program {
        Program::Npx { package, .. } => {
            let version = package.trim_start_matches('@').split_once('@').map(|(_, version)| version);
            (package, version.is_some_and(is_semver), "name@1.2.3")
        }
        Program::Uvx { package, .. } => {
            let exact = package.split_once("==").or_else(|| package.split_once('@')).map(|(_, version)| version);
            (package, exact.is_some_and(is_pep440), "name==1.2.3")
        }
        _ => return Ok(()),
    };
    if pinned {
        return Ok(());
    }
    let name = Untrusted(package);
    Err(unsupported(format!(
        "{name} names no exact version: write it like {example}, or set runtime.process.require_versions: false"
    )))
}

/// An exact version of npm: three numbers, then what SemVer allows. Two numbers are a range, a word is a tag.
fn is_semver(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<&str> = core.split('.').collect();
    let number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.len() == 3 && numbers.iter().all(number)
}

/// An exact version of PyPI: it begins with a number, and holds no wildcard and no second clause.
fn is_pep440(version: &str) -> bool {
    version.starts_with(|first: char| first.is_ascii_digit())
        && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+!-_".contains(&byte))
}

/// `name`, `@scope/name`, each with `@version`. No `git:`, `file:`, `http:` or aliases: packages come from the registry.
fn is_npm_package(spec: &str) -> bool {
    let (scope, rest) = match spec.strip_prefix('@').map(|rest| rest.split_once('/')) {
        Some(Some((scope, rest))) => (scope, rest),
        Some(None) => return false,
        None => ("scope", spec),
    };
    let (name, version) = rest.split_once('@').unwrap_or((rest, "latest"));
    is_word(scope) && is_word(name) && is_version(version)
}

/// The bare name of `name`, `name[extra]` or one with version specifiers (PEP 508, without addresses and markers).
fn pypi_name(spec: &str) -> Option<&str> {
    let end = spec.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(spec.len());
    let (name, mut rest) = spec.split_at(end);
    if let Some(inner) = rest.strip_prefix('[') {
        let (extras, after) = inner.split_once(']')?;
        extras.split(',').all(is_word).then_some(())?;
        rest = after;
    }
    let versions =
        rest.strip_prefix('@').map_or(rest.is_empty() || rest.starts_with(['=', '<', '>', '~', '!']), is_version);
    let plain = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"=<>~!.,*+-_@".contains(&byte));
    (is_word(name) && versions && plain).then_some(name)
}

/// A name that no program takes for an option or a path.
fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || "^~<>=*".contains(c))
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+^~<>=*_".contains(&byte))
}

/// The variables that the runtime itself needs: an entry may not set them.
fn is_reserved(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    ["LD_", "DYLD_", "PYTHON", "MCP_GATEWAY_"].iter().any(|prefix| upper.starts_with(prefix))
        || matches!(
            upper.as_str(),
            "PATH" | "NODE_OPTIONS" | "NPM_CONFIG_NODE_OPTIONS" | "NPM_CONFIG_SCRIPT_SHELL" | "NPM_CONFIG_SHELL"
        )
}

/// Adds what a workload names.
pub(super) fn add_env(env: &mut BTreeMap<OsString, OsString>, named: &[(String, Secret)]) -> Result<(), RuntimeError> {
    for (name, value) in named {
        if is_reserved(name) {
            return Err(unsupported(format!("the environment variable {} is reserved", Untrusted(name))));
        }
        if name.is_empty() || name.contains(['=', '\0']) || value.expose().contains('\0') {
            return Err(unsupported(format!("the environment variable {} cannot be set", Untrusted(name))));
        }
        env.insert(name.into(), value.expose().into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> OsString {
        std::env::var_os("PATH").unwrap()
    }

    #[test]
    fn packages_are_names() {
        for good in ["a", "@a/b", "@a/b@1.2.3", "server-time@^1", "@modelcontextprotocol/server-everything@2026.8.31"] {
            assert!(is_npm_package(good), "{good}");
        }
        for bad in [
            "",
            "-y",
            "--package=x",
            "@a",
            "@a/",
            "a b",
            "git+ssh://x",
            "file:x",
            "http://x",
            "a/b",
            "../x",
            "a@npm:b",
            "@-a/b",
            "a@-x",
            "a@file:x",
        ] {
            assert!(!is_npm_package(bad), "{bad}");
        }
        for (good, name) in [
            ("a", "a"),
            ("mcp-server-time==2026.1.1", "mcp-server-time"),
            ("a[x,y]>=1,<2", "a"),
            ("a@1.2", "a"),
            ("a@latest", "a"),
        ] {
            assert_eq!(pypi_name(good), Some(name));
        }
        for bad in
            ["", "-r x", "--from=x", "a @ http://x", "a@http://x", "./a", "a;b", "a[", "a[-x]", "git+https://x", "a b"]
        {
            assert_eq!(pypi_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn exact_versions_are_told_from_ranges_and_tags() {
        let npx = |package: &str| check_pinned(&Program::Npx { package: package.into(), args: vec![] });
        let uvx = |package: &str| check_pinned(&Program::Uvx { package: package.into(), command: None, args: vec![] });
        for good in ["a@1.2.3", "@a/b@2026.8.31", "a@1.2.3-rc.1+b"] {
            npx(good).unwrap();
        }
        for bad in ["a", "@a/b", "a@latest", "a@1", "a@1.2", "a@^1.2.3", "a@1.2.x", "a@1.2.3.4", "@a/b@>=1.2.3"] {
            let error = npx(bad).unwrap_err();
            assert!(error.detail.unwrap().contains("require_versions"), "{bad}");
        }
        for good in ["a==1", "a==1.2.3", "a[x]==1.0rc1", "a@1.2"] {
            uvx(good).unwrap();
        }
        for bad in ["a", "a[x]", "a>=1.2", "a~=1.2", "a==1.*", "a==1,!=2", "a@latest"] {
            assert!(uvx(bad).is_err(), "{bad}");
        }
        check_pinned(&Program::Command { command: "cat".into(), args: vec![] }).unwrap();
    }

    #[test]
    fn arguments_stay_arguments() {
        let args = vec!["$(id)".to_owned(), "; rm -rf /".to_owned(), "--node-options=x".to_owned()];
        let program = Program::Command { command: "cat".into(), args: args.clone() };
        let line = command_line(&program, &path()).unwrap();
        assert!(line.program.is_absolute());
        assert_eq!(line.args, args.iter().map(OsString::from).collect::<Vec<_>>());
    }

    #[test]
    fn a_missing_program_says_how_to_get_it() {
        let npx = Program::Npx { package: "a".into(), args: vec!["x".into()] };
        let error = command_line(&npx, OsStr::new("/nowhere")).unwrap_err();
        assert_eq!(error.kind, RuntimeErrorKind::Missing);
        assert!(error.detail.unwrap().contains("nodejs.org"));
        let uvx = Program::Uvx { package: "a".into(), command: None, args: Vec::new() };
        let error = command_line(&uvx, OsStr::new("/nowhere")).unwrap_err();
        assert!(error.detail.unwrap().contains("install uv"));
        assert!(!error.public.contains("uvx"), "{}", error.public);
    }

    #[test]
    fn reserved_variables_are_refused_by_name() {
        for name in [
            "LD_PRELOAD",
            "NODE_OPTIONS",
            "PATH",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "MCP_GATEWAY_CHILD",
            "npm_config_node_options",
        ] {
            let error = add_env(&mut BTreeMap::new(), &[(name.to_owned(), Secret::new("x"))]).unwrap_err();
            assert!(error.detail.unwrap().contains(name));
        }
        let mut env = BTreeMap::new();
        add_env(&mut env, &[("API_KEY".to_owned(), Secret::new("x"))]).unwrap();
        assert_eq!(env[OsStr::new("API_KEY")], "x");
        assert!(add_env(&mut env, &[("A=B".to_owned(), Secret::new("x"))]).is_err());
    }
}
