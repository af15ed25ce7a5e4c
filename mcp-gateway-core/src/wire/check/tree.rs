//! A JSON value with repeated members and their order, as `serde_json` reads it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Enough of a value to decide whether a message should be accepted.
#[derive(Debug)]
pub(super) enum Tree {
    Null,
    Bool,
    Number,
    String(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl Tree {
    pub(super) fn members(&self) -> Option<&[(String, Tree)]> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }

    pub(super) fn member(&self, name: &str) -> Option<&Tree> {
        self.members()?.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub(super) fn string(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    pub(super) fn depth(&self) -> usize {
        match self {
            Self::Array(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => 1 + members.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Whether this very object has two members of one name.
    pub(super) fn repeats(&self) -> bool {
        let members = self.members().unwrap_or_default();
        members.iter().enumerate().any(|(i, (key, _))| members[..i].iter().any(|(other, _)| other == key))
    }

    pub(super) fn repeats_anywhere(&self) -> bool {
        self.repeats()
            || match self {
                Self::Array(items) => items.iter().any(Self::repeats_anywhere),
                Self::Object(members) => members.iter().any(|(_, value)| value.repeats_anywhere()),
                _ => false,
            }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Bool)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Tree>()? {
            // With the feature `arbitrary_precision` a number arrives as an object with this one member.
            if key == "$serde_json::private::Number" {
                return Ok(Tree::Number);
            }
            members.push((key, value));
        }
        Ok(Tree::Object(members))
    }
}
