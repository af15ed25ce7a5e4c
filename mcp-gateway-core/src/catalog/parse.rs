//! Reading entries from the text of a file.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_path_to_error::{Path, Segment, Track};

use super::compile::is_label;
use super::limits::CatalogLimits as Limits;
use crate::contract::EntryError;
use crate::record::Entry;
use crate::wire::untrusted::Untrusted;

/// Fields and values of the wider catalog format that this version does not serve. A clear word about them instead of
/// "unknown field" tells an author that the file is right and the gateway is not there yet.
const UNSUPPORTED_FIELDS: &[&str] = &[
    "alias",
    "compositeConfig",
    "containerizedConfig",
    "denyAllEgress",
    "egressDomains",
    "filterConfig",
    "headers",
    "hostname",
    "idleShutdownIntervalHours",
    "multiUserConfig",
    "options",
    "replicas",
    "secretBinding",
    "toolOverrides",
    "tunnelName",
    "urlTemplate",
];
const UNSUPPORTED_RUNTIMES: &[&str] = &["composite", "containerized"];

/// Reads one entry or a list of them, YAML (or, when `name` ends in `.json`, JSON).
///
/// One bad entry of a list leaves the others alone. What is read is not yet [compiled](super::compile()): only its form
/// is right. `name` stands in the errors, with line and column; their field begins with the index in a list
/// (`[2].npxConfig.package`).
pub fn parse(text: &[u8], name: &str) -> Vec<Result<Entry, EntryError>> {
    let whole =
        |problem: String| vec![Err(EntryError { place: Untrusted(name).to_string(), field: None, problem, id: None })];
    if text.len() > Limits::FILE {
        return whole(format!("is larger than {} bytes; split it", Limits::FILE));
    }
    let Ok(text) = std::str::from_utf8(text) else { return whole("is not UTF-8".to_owned()) };
    let json = name.to_ascii_lowercase().ends_with(".json");
    if !json && text.lines().map(str::trim).all(|line| matches!(line, "" | "---") || line.starts_with('#')) {
        return Vec::new();
    }

    // A parser cannot go on behind an error, so each bad entry costs one more pass, in which it is passed over.
    let mut bad = BTreeSet::new();
    let mut errors = Vec::new();
    loop {
        let failure = match read(text, json, &bad) {
            Ok(entries) => return finish(entries, errors, name),
            Err(failure) => failure,
        };
        let index = failure.index.filter(|index| !bad.contains(index));
        errors.push(Err(failure.into_error(text, json, name)));
        // Not about one entry: the rest cannot be read either.
        let Some(index) = index else { return errors };
        if bad.len() == Limits::ERRORS {
            errors.extend(whole(format!("has more than {} bad entries; nothing of it is used", Limits::ERRORS)));
            return errors;
        }
        bad.insert(index);
    }
}

/// Reads and compiles arbitrary bytes; for fuzz targets and property tests. Must not panic.
#[doc(hidden)]
pub fn check(data: &[u8]) {
    let Ok(mount) = crate::record::Mount::new("https://gateway.example", "/mcp-connect") else { return };
    for name in ["fuzz.yaml", "fuzz.json"] {
        for entry in parse(data, name).into_iter().flatten() {
            if let Ok(route) = super::compile(&entry, &mount) {
                assert!(is_label(&route.id), "a compiled entry has a proper id");
            }
        }
    }
}

/// What is left to check when the form is right, in the order of the file.
fn finish(
    entries: Vec<(Option<usize>, Entry)>,
    errors: Vec<Result<Entry, EntryError>>,
    name: &str,
) -> Vec<Result<Entry, EntryError>> {
    let entries = entries.into_iter().map(|(index, entry)| {
        let at = |field: &str| index.map_or_else(|| field.to_owned(), |index| format!("[{index}].{field}"));
        let wrong = |field: Option<String>, problem: &str| EntryError {
            place: Untrusted(name).to_string(),
            field,
            problem: problem.to_owned(),
            id: is_label(&entry.entry_key).then(|| entry.entry_key.clone()),
        };
        if entry.origin.is_some() {
            return Err(wrong(Some(at("origin")), "is set by the gateway; remove it"));
        }
        if serde_json::to_vec(&entry).map_or(usize::MAX, |json| json.len()) > Limits::ENTRY {
            let field = index.map(|index| format!("[{index}]"));
            return Err(wrong(field, "is an entry of more than 128 KiB; shorten its description or previews"));
        }
        Ok(entry)
    });
    entries.chain(errors).collect()
}

/// Where and why reading failed.
struct Failure {
    /// The entry of a list.
    index: Option<usize>,
    path: Path,
    message: String,
    line: usize,
    column: usize,
}

impl Failure {
    fn into_error(self, text: &str, json: bool, name: &str) -> EntryError {
        let name = Untrusted(name);
        let place = if self.line == 0 { name.to_string() } else { format!("{name}:{}:{}", self.line, self.column) };
        let leaf = self.path.iter().next_back().and_then(|segment| match segment {
            Segment::Map { key } => Some(key.as_str()),
            _ => None,
        });
        let problem = match leaf {
            Some(field) if self.message.starts_with("unknown field") && UNSUPPORTED_FIELDS.contains(&field) => {
                format!("{field} is not supported by this version")
            }
            _ => match unsupported_runtime(&self.message) {
                Some(runtime) => format!("runtime: {runtime} is not supported by this version"),
                None => Untrusted(&self.message).to_string(),
            },
        };
        let path = self.path.to_string();
        let field = (path != ".").then(|| Untrusted(&path).to_string());
        EntryError { place, field, problem, id: id_of(text, json, self.index) }
    }
}

fn unsupported_runtime(message: &str) -> Option<&'static str> {
    let rest = message.strip_prefix("unknown variant `")?;
    UNSUPPORTED_RUNTIMES.iter().find(|runtime| rest.starts_with(&format!("{runtime}`"))).copied()
}

fn read(text: &str, json: bool, skip: &BTreeSet<usize>) -> Result<Vec<(Option<usize>, Entry)>, Failure> {
    let mut track = Track::new();
    let (message, line, column) = if json {
        let mut input = serde_json::Deserializer::from_str(text);
        let read = File { skip }.deserialize(serde_path_to_error::Deserializer::new(&mut input, &mut track));
        match read.and_then(|entries| input.end().map(|()| entries)) {
            Ok(entries) => return Ok(entries),
            Err(error) => (bare(&error.to_string()), error.line(), error.column()),
        }
    } else {
        let input = serde_yaml_ng::Deserializer::from_str(text);
        let read = File { skip }.deserialize(serde_path_to_error::Deserializer::new(input, &mut track));
        match read {
            Ok(entries) => return Ok(entries),
            Err(error) => {
                let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
                (bare(&error.to_string()), line, column)
            }
        }
    };
    let path = track.path();
    let index = path.iter().next().and_then(|segment| match segment {
        Segment::Seq { index } => Some(*index),
        _ => None,
    });
    Err(Failure { index, path, message, line, column })
}

/// The message without the path before and the position behind it, which stand in fields of their own.
fn bare(message: &str) -> String {
    let end = message.rfind(" at line ").unwrap_or(message.len());
    let message = &message[..end];
    let known = ["unknown ", "missing ", "invalid ", "duplicate "];
    let begin = known.iter().filter_map(|word| message.find(&format!(": {word}"))).min().map_or(0, |at| at + 2);
    message[begin..].to_owned()
}

/// The id of an entry that could not be read, if at least that can be: what was served under it goes on being served.
fn id_of(text: &str, json: bool, index: Option<usize>) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "entryKey")]
        entry_key: Option<String>,
    }

    let keys: Vec<Option<String>> = match (json, index) {
        (true, None) => serde_json::from_str::<Named>(text).map(|one| vec![one.entry_key]).ok()?,
        (false, None) => serde_yaml_ng::from_str::<Named>(text).map(|one| vec![one.entry_key]).ok()?,
        (true, Some(_)) => keys(serde_json::from_str::<Vec<Lenient<Named>>>(text).ok()?),
        (false, Some(_)) => keys(serde_yaml_ng::from_str::<Vec<Lenient<Named>>>(text).ok()?),
    };
    fn keys(all: Vec<Lenient<Named>>) -> Vec<Option<String>> {
        all.into_iter().map(|one| one.0.and_then(|named| named.entry_key)).collect()
    }
    keys.into_iter().nth(index.unwrap_or(0)).flatten().filter(|id| is_label(id))
}

/// A value that may be anything; `None` when it is no mapping.
struct Lenient<T>(Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<T> {
            Mapping(T),
            Other(IgnoredAny),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Mapping(value) => Self(Some(value)),
            Either::Other(IgnoredAny) => Self(None),
        })
    }
}

/// A file: one entry, or a list of which some are passed over.
struct File<'a> {
    skip: &'a BTreeSet<usize>,
}

impl<'de> DeserializeSeed<'de> for File<'_> {
    type Value = Vec<(Option<usize>, Entry)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for File<'_> {
    type Value = Vec<(Option<usize>, Entry)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entry or a list of entries")
    }

    /// A file that says `null`.
    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Ok(vec![(None, Entry::deserialize(MapAccessDeserializer::new(map))?)])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        for index in 0.. {
            let more = if self.skip.contains(&index) {
                list.next_element::<IgnoredAny>()?.is_some()
            } else {
                let entry = list.next_element()?;
                let found = entry.is_some();
                entries.extend(entry.map(|entry| (Some(index), entry)));
                found
            };
            if !more {
                break;
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
