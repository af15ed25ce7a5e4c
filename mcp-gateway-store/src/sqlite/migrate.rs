//! Forward-only migrations, run when a file is opened.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::OpenError;

/// What a file holds, and how it came to look as it does.
#[derive(Debug)]
pub(super) struct Schema {
    /// What the file holds: `resources`, `audit`.
    pub(super) name: &'static str,
    /// Migration *n* (from 1) brings version *n* - 1 to *n*. One that was released is never changed.
    pub(super) migrations: &'static [&'static str],
}

impl Schema {
    /// Brings a file to the newest version, or refuses one that is newer or holds something else.
    ///
    /// Each migration is one transaction together with its row in `schema_version`.
    pub(super) fn migrate(&self, connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
        let database = |error: rusqlite::Error| OpenError::Database { path: path.to_owned(), source: error.into() };
        connection
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS schema_version (
                     version INTEGER PRIMARY KEY,
                     name TEXT NOT NULL,
                     applied_at TEXT NOT NULL
                 ) STRICT;",
            )
            .map_err(database)?;
        let newest: Option<(u32, String)> = connection
            .query_row("SELECT version, name FROM schema_version ORDER BY version DESC LIMIT 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
            .map_err(database)?;
        let mut version = 0;
        if let Some((found, name)) = newest {
            if name != self.name {
                return Err(OpenError::OtherSchema { path: path.to_owned(), found: name, expected: self.name });
            }
            let known = u32::try_from(self.migrations.len()).unwrap_or(u32::MAX);
            if found > known {
                return Err(OpenError::NewerSchema { path: path.to_owned(), found, known });
            }
            version = found;
        }
        for (number, migration) in (1u32..).zip(self.migrations).filter(|(number, _)| *number > version) {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(database)?;
            transaction.execute_batch(migration).map_err(database)?;
            transaction
                .execute(
                    "INSERT INTO schema_version (version, name, applied_at) VALUES (?1, ?2, ?3)",
                    (number, self.name, Timestamp::now().to_string()),
                )
                .map_err(database)?;
            transaction.commit().map_err(database)?;
            tracing::info!(file = %path.display(), schema = self.name, version = number, "schema migrated");
        }
        Ok(())
    }
}

impl Schema {
    /// Refuses a file that does not have the newest version, and changes nothing.
    pub(super) fn check(&self, connection: &Connection, path: &Path) -> Result<(), OpenError> {
        let newest = connection
            .query_row("SELECT version, name FROM schema_version ORDER BY version DESC LIMIT 1", [], |row| {
                Ok((row.get::<_, u32>(0)?, row.get::<_, String>(1)?))
            })
            .map_err(|error| OpenError::Database { path: path.to_owned(), source: error.into() })?;
        let known = u32::try_from(self.migrations.len()).unwrap_or(u32::MAX);
        match newest {
            (_, name) if name != self.name => {
                Err(OpenError::OtherSchema { path: path.to_owned(), found: name, expected: self.name })
            }
            (found, _) if found > known => Err(OpenError::NewerSchema { path: path.to_owned(), found, known }),
            (found, _) if found < known => Err(OpenError::OlderSchema { path: path.to_owned(), found, known }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::Durability;
    use crate::sqlite::connection::{PAGE, open_writer};

    const ONE: Schema = Schema { name: "things", migrations: &["CREATE TABLE one (a INTEGER) STRICT;"] };
    const TWO: Schema = Schema {
        name: "things",
        migrations: &["CREATE TABLE one (a INTEGER) STRICT;", "ALTER TABLE one ADD COLUMN b INTEGER;"],
    };

    #[test]
    fn migrations_run_once_and_only_forward() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let mut connection = open_writer(&path, Durability::Process, PAGE).unwrap();
        ONE.migrate(&mut connection, &path).unwrap();
        connection.execute("INSERT INTO one (a) VALUES (7)", []).unwrap();
        TWO.migrate(&mut connection, &path).unwrap();
        TWO.migrate(&mut connection, &path).unwrap();
        let row: (i64, Option<i64>) =
            connection.query_row("SELECT a, b FROM one", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(row, (7, None));

        let error = ONE.migrate(&mut connection, &path).unwrap_err();
        assert!(matches!(error, OpenError::NewerSchema { found: 2, known: 1, .. }), "{error}");
        assert!(error.to_string().contains("start the newer program"), "{error}");
    }

    #[test]
    fn a_file_of_another_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let mut connection = open_writer(&path, Durability::Process, PAGE).unwrap();
        ONE.migrate(&mut connection, &path).unwrap();
        let other = Schema { name: "others", migrations: ONE.migrations };
        let error = other.migrate(&mut connection, &path).unwrap_err();
        assert!(matches!(error, OpenError::OtherSchema { expected: "others", .. }), "{error}");
    }

    #[test]
    fn a_migration_that_fails_leaves_the_version_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let mut connection = open_writer(&path, Durability::Process, PAGE).unwrap();
        ONE.migrate(&mut connection, &path).unwrap();
        let broken = Schema {
            name: "things",
            migrations: &["CREATE TABLE one (a INTEGER) STRICT;", "CREATE TABLE two (a INTEGER); nonsense;"],
        };
        assert!(matches!(broken.migrate(&mut connection, &path), Err(OpenError::Database { .. })));
        TWO.migrate(&mut connection, &path).unwrap();
    }
}
