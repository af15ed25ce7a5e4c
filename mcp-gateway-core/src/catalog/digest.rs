//! A fingerprint of everything that makes one workload differ from another.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::contract::{Program, Workload};

/// Sixty-four hexadecimal digits. Every part is preceded by its length, so that no two workloads are written alike.
pub(super) fn digest(workload: &Workload) -> Arc<str> {
    let mut hash = Parts(Sha256::new());
    hash.text("mcp-gateway workload 1");
    match &workload.program {
        Program::Npx { package, args } => {
            hash.text("npx");
            hash.text(package);
            hash.list(args);
        }
        Program::Uvx { package, command, args } => {
            hash.text("uvx");
            hash.text(package);
            hash.list(command.as_slice());
            hash.list(args);
        }
        Program::Command { command, args } => {
            hash.text("command");
            hash.text(command);
            hash.list(args);
        }
    }
    hash.number(workload.env.len() as u64);
    for (name, value) in &workload.env {
        hash.text(name);
        hash.text(value.expose());
    }
    hash.optional(workload.limits.memory);
    hash.optional(workload.limits.cpu_millis.map(u64::from));
    hash.number(workload.startup_timeout.as_secs());
    hash.optional(workload.idle_timeout.map(|timeout| timeout.as_secs()));
    hash.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

struct Parts(Sha256);

impl Parts {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn optional(&mut self, number: Option<u64>) {
        self.number(u64::from(number.is_some()));
        self.number(number.unwrap_or_default());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    fn list(&mut self, texts: &[String]) {
        self.number(texts.len() as u64);
        texts.iter().for_each(|text| self.text(text));
    }
}
