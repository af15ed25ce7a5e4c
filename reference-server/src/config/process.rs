//! What one process of several does.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, Database};

/// A part of the gateway's work, in `process.roles`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProcessRole {
    /// The data plane: `/mcp-connect`, and the documents that its challenges point to. Runs servers.
    Gateway,
    /// Login, the authorization server, SCIM.
    Auth,
    /// The admin API.
    Api,
    /// What is done now and then, by one process at a time.
    Worker,
}

impl ProcessRole {
    /// Everything, which is the default.
    pub const ALL: [Self; 4] = [Self::Gateway, Self::Auth, Self::Api, Self::Worker];

    /// As it is written in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Auth => "auth",
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for ProcessRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Config {
    /// Whether this process does this part of the work.
    #[must_use]
    pub fn does(&self, role: ProcessRole) -> bool {
        self.process.roles.contains(&role)
    }

    /// What other processes must do; `None` when this one does everything.
    #[must_use]
    pub fn left_to_others(&self) -> Option<Vec<ProcessRole>> {
        let others: Vec<_> = ProcessRole::ALL.into_iter().filter(|role| !self.does(*role)).collect();
        (!others.is_empty()).then_some(others)
    }

    pub(super) fn check_process(&self) -> Result<(), ConfigError> {
        if self.process.roles.is_empty() {
            return Err(ConfigError::value("process.roles", "must name gateway, auth, api or worker, or several"));
        }
        if self.left_to_others().is_some() && !matches!(self.database()?, Database::Postgres(_)) {
            let problem = "must be gateway, auth, api and worker: a database that is not in Postgres is one process's own, \
                           and nobody else would do the rest of the work";
            return Err(ConfigError::value("process.roles", problem));
        }
        Ok(())
    }
}
