//! Reading the configuration: file, then environment.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Config;
use super::section::{Describe as _, Key, Shape};

/// What every environment variable of a setting begins with.
pub(super) const PREFIX: &str = "MCP_GATEWAY__";

/// The configuration cannot be used. Names the setting and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: cannot be read: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no YAML, or no mapping.
    #[error("{path}: {problem}", path = .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column where they are known.
        problem: String,
    },
    /// A key that does not exist.
    #[error("{place}: there is no such setting{}", .nearest.as_ref().map_or_else(String::new, |key| format!("; did you mean {key}?")))]
    Unknown {
        /// File and path, or the variable.
        place: String,
        /// The most similar key.
        nearest: Option<String>,
    },
    /// A value that does not fit.
    #[error("{place}: {problem}")]
    Value {
        /// The path of the setting.
        place: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl ConfigError {
    /// A value that does not fit.
    pub(crate) fn value(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::Value { place: place.to_string(), problem: problem.to_string() }
    }
}

/// Every key.
#[must_use]
pub(super) fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    Config::default().describe("", &[], &mut keys);
    keys
}

/// Reads a file, if there is one, and puts the variables over it. Empty variables count as not set.
///
/// # Errors
/// [`ConfigError`] at the first thing that is wrong.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let keys = keys();
    let mut tree = match file {
        Some(path) => read(path)?,
        None => Map::new(),
    };
    if let Some(path) = file {
        check_keys(&tree, "", &path.display().to_string(), &keys)?;
    }
    drop_empty(&mut tree);
    let mut variables: Vec<_> = environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort_unstable();
    for (name, text) in variables {
        let key = keys.iter().find(|key| key.variable() == name).ok_or_else(|| ConfigError::Unknown {
            nearest: nearest(&name, keys.iter().map(Key::variable)),
            place: name.clone(),
        })?;
        if !text.is_empty() {
            set(&mut tree, &key.path, value_of(&name, key.shape, &text)?);
        }
    }
    let config: Config = serde_path_to_error::deserialize(Value::Object(tree)).map_err(|error| {
        let path = error.path().to_string();
        ConfigError::value(place_of(&path, &keys), error.into_inner())
    })?;
    config.check()?;
    Ok(config)
}

/// The path with the variable that could have set it: who looks for the mistake need not know where it came from.
fn place_of(path: &str, keys: &[Key]) -> String {
    match keys.iter().find(|key| path.starts_with(&key.path)) {
        Some(key) => format!("{path} ({})", key.variable()),
        None => path.to_owned(),
    }
}

fn read(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let syntax = |problem: String| ConfigError::Syntax { path: path.to_owned(), problem };
    match serde_yaml_ng::from_str::<Value>(&text).map_err(|error| syntax(error.to_string()))? {
        Value::Null => Ok(Map::new()),
        Value::Object(tree) => Ok(tree),
        _ => Err(syntax("must be a mapping such as `listen: 127.0.0.1:8080`".to_owned())),
    }
}

fn check_keys(tree: &Map<String, Value>, prefix: &str, file: &str, keys: &[Key]) -> Result<(), ConfigError> {
    for (name, value) in tree {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let below = format!("{path}.");
        match value {
            _ if keys.iter().any(|key| key.path == path) => {}
            Value::Object(inner) if keys.iter().any(|key| key.path.starts_with(&below)) => {
                check_keys(inner, &path, file, keys)?;
            }
            // An empty section.
            Value::Null if keys.iter().any(|key| key.path.starts_with(&below)) => {}
            _ if keys.iter().any(|key| key.path.starts_with(&below)) => {
                return Err(ConfigError::value(format!("{file}: {path}"), "is a section: its settings go below it"));
            }
            _ => {
                return Err(ConfigError::Unknown {
                    nearest: nearest(&path, keys.iter().map(|key| key.path.clone())),
                    place: format!("{file}: {path}"),
                });
            }
        }
    }
    Ok(())
}

/// A key or section without a value is one that is not there.
fn drop_empty(tree: &mut Map<String, Value>) {
    tree.retain(|_, value| !value.is_null());
    for value in tree.values_mut() {
        if let Value::Object(inner) = value {
            drop_empty(inner);
        }
    }
}

fn set(tree: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            tree.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = tree.entry(section).or_insert_with(|| Value::Object(Map::new()));
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            if let Value::Object(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

fn value_of(name: &str, shape: Shape, text: &str) -> Result<Value, ConfigError> {
    Ok(match shape {
        Shape::Text => Value::String(text.to_owned()),
        Shape::Number => Value::from(
            text.trim().parse::<u64>().map_err(|_| ConfigError::value(name, "must be a whole number such as 100"))?,
        ),
        Shape::Part => Value::from(
            text.trim().parse::<f64>().map_err(|_| ConfigError::value(name, "must be a number from 0 to 1"))?,
        ),
        Shape::Flag => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Value::Bool(true),
            "false" | "0" | "no" | "off" => Value::Bool(false),
            _ => return Err(ConfigError::value(name, "must be true or false")),
        },
        Shape::Tree => serde_yaml_ng::from_str(text).map_err(|error| {
            ConfigError::value(name, format!("must be YAML such as [{{name: company, ..}}]: {error}"))
        })?,
        // As JSON or YAML write lists; split at its commas, it would be items that nothing ever equals.
        Shape::List if text.trim_start().starts_with('[') => match serde_yaml_ng::from_str(text) {
            Ok(Value::Array(items)) if items.iter().all(Value::is_string) => Value::Array(items),
            _ => {
                return Err(ConfigError::value(
                    name,
                    "must be texts with commas between, or a list such as [\"a\", \"b\"]",
                ));
            }
        },
        Shape::List => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect::<Vec<_>>().into()
        }
    })
}

/// The most similar text, unless none is similar.
fn nearest(text: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let last = |text: &str| text.rsplit(['.']).next().unwrap_or(text).to_owned();
    let (word, limit) = (last(text), text.len() / 3 + 1);
    candidates
        .map(|candidate| {
            // The right name in the wrong section is as likely as a typing error.
            let by_name = if last(&candidate) == word && !word.is_empty() { 1 } else { usize::MAX };
            (distance(text, &candidate).min(by_name), candidate)
        })
        .min()
        .filter(|(distance, _)| *distance <= limit)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
