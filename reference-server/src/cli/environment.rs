//! The settings of the environment, taken out of it.
//!
//! What a process was started with stays readable in `/proc/PID/environ`, whatever it does to its variables later. So
//! `serve` starts itself once more, before there is a second thread: without its variables, which come back as its
//! standard input, a file in memory that nobody else has.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use rustix::fs::{MemfdFlags, memfd_create};

/// What every variable of this program begins with: settings, which may hold passwords, and the owner's first token.
const OWN: &str = "MCP_GATEWAY_";
/// Says to the second start where the variables are.
const TAKEN: &str = "MCP_GATEWAY_ENVIRONMENT";
/// Its value.
const STDIN: &str = "stdin";

/// A variable's name and value.
pub(super) type Variable = (String, String);

/// The variables of this program as they are, for commands that end soon.
///
/// # Errors
/// When one is not UTF-8: it says a setting that nobody would read.
pub(super) fn read() -> anyhow::Result<Vec<Variable>> {
    own(std::env::vars_os())
}

fn own(variables: impl Iterator<Item = (OsString, OsString)>) -> anyhow::Result<Vec<Variable>> {
    let own = variables.filter(|(name, _)| name.as_encoded_bytes().starts_with(OWN.as_bytes()) && name != TAKEN).map(
        |(name, value)| match (name.clone().into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => Ok((name, value)),
            _ => Err(name),
        },
    );
    own.collect::<Result<_, OsString>>().map_err(|name| anyhow::anyhow!("{} is not UTF-8", name.display()))
}

/// The same, after which they are no longer in this process's environment.
///
/// Must run before the process has a second thread. Standard input is `/dev/null` afterwards.
///
/// # Errors
/// When the program cannot be started again. There is no way on: its secrets would stay where children may find them.
pub(super) fn take() -> anyhow::Result<Vec<Variable>> {
    if std::env::var_os(TAKEN).is_some_and(|taken| taken == STDIN) {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).context("the settings on standard input cannot be read")?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        return Ok(unpack(&text));
    }
    let variables = read()?;
    if variables.is_empty() {
        return Ok(variables);
    }
    let mut file = File::from(memfd_create("mcp-gateway-settings", MemfdFlags::CLOEXEC)?);
    file.write_all(pack(&variables).as_bytes())?;
    file.rewind()?;
    let program = std::env::current_exe().context("this program's own path")?;
    let mut again = Command::new(&program);
    let mut args = std::env::args_os();
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    again.args(args).stdin(Stdio::from(file)).env(TAKEN, STDIN);
    for (name, _) in &variables {
        again.env_remove(name);
    }
    let error = again.exec();
    Err(error)
        .with_context(|| format!("{}: cannot be started without the secrets in its environment", program.display()))
}

/// No variable has a NUL, and no name an equals sign.
fn pack(variables: &[Variable]) -> String {
    variables.iter().map(|(name, value)| format!("{name}={value}\0")).collect()
}

fn unpack(text: &str) -> Vec<Variable> {
    let pairs = text.split_terminator('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn a_setting_that_is_no_text_is_named() {
        let with = |name: &str, value: &[u8]| (OsString::from(name), OsString::from_vec(value.to_vec()));
        let foreign = || with("LANG", b"\xff");
        let read = own([foreign(), with("MCP_GATEWAY__LISTEN", b"x"), with(TAKEN, b"stdin")].into_iter()).unwrap();
        assert_eq!(read, [("MCP_GATEWAY__LISTEN".to_owned(), "x".to_owned())]);
        let error = own([foreign(), with("MCP_GATEWAY__DATABASE", b"\xff")].into_iter()).unwrap_err();
        assert_eq!(error.to_string(), "MCP_GATEWAY__DATABASE is not UTF-8");
    }

    #[test]
    fn variables_come_back_as_they_were() {
        let variables = [("MCP_GATEWAY_A", ""), ("MCP_GATEWAY_B", "x=y\nz"), ("MCP_GATEWAY__C", "ä")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(unpack(&pack(&variables)), variables);
        assert_eq!(unpack(""), []);
    }
}
