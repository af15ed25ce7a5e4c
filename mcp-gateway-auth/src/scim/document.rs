//! What a client says about a user or a group, and how patches change it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::bad;
use super::path::Path;
use super::{ScimError, ScimLimits};

/// A user as the client sees it; the attributes that are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct UserDocument {
    pub(crate) user_name: String,
    pub(crate) external_id: Option<String>,
    pub(crate) display_name: Option<String>,
    pub(crate) formatted: Option<String>,
    pub(crate) given: Option<String>,
    pub(crate) family: Option<String>,
    pub(crate) email: Option<String>,
    pub(crate) active: bool,
}

/// A group as the client sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GroupDocument {
    pub(crate) display_name: String,
    pub(crate) external_id: Option<String>,
    /// Ids of users.
    pub(crate) members: Vec<String>,
}

/// What a patch does to members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberChange {
    Add(Vec<String>),
    Remove(Vec<String>),
    Replace(Vec<String>),
}

/// One operation of a patch.
struct Operation<'a> {
    removes: bool,
    adds: bool,
    path: Option<Path>,
    value: Option<&'a Value>,
}

impl UserDocument {
    /// Reads a whole user.
    pub(crate) fn read(json: &Value) -> Result<Self, ScimError> {
        Self::replacing(json, true)
    }

    /// Reads a whole user in the place of another one, who is as active as before where nothing is said of it.
    pub(crate) fn replacing(json: &Value, active: bool) -> Result<Self, ScimError> {
        let mut user = Self { active, ..Self::default() };
        user.set_all(json)?;
        if user.user_name.is_empty() {
            return bad("invalidValue", "userName must be there");
        }
        Ok(user)
    }

    /// The same after a patch; what is not kept is passed over, since providers send what they have.
    pub(crate) fn patched(mut self, json: &Value) -> Result<Self, ScimError> {
        for operation in operations(json)? {
            let Operation { removes, path, value, .. } = operation;
            match (path, value) {
                (None, Some(value)) if !removes => self.set_all(value)?,
                (Some(path), _) if removes => self.set(&path, None)?,
                (Some(path), Some(value)) => self.set(&path, Some(value))?,
                _ => return bad("noTarget", "an operation must have a path, and a value unless it removes"),
            }
        }
        if self.user_name.is_empty() {
            return bad("invalidValue", "userName must be there");
        }
        Ok(self)
    }

    /// The name, for people.
    pub(crate) fn name(&self) -> String {
        let parts = [self.given.as_deref(), self.family.as_deref()];
        let joined = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let named = [self.display_name.as_deref(), self.formatted.as_deref(), Some(&*joined)];
        named.into_iter().flatten().find(|name| !name.is_empty()).unwrap_or(&self.user_name).to_owned()
    }

    fn set_all(&mut self, json: &Value) -> Result<(), ScimError> {
        let Value::Object(members) = json else { return bad("invalidSyntax", "a user is an object") };
        for (name, value) in members {
            // Entra ID puts paths where names belong.
            let Some(path) = Path::read(name) else { continue };
            match (value, &*path.attribute, &path.sub) {
                (Value::Object(inner), "name", None) => {
                    for (part, value) in inner {
                        let sub = Some(part.to_ascii_lowercase());
                        self.set(&Path { attribute: "name".into(), which: None, sub }, Some(value))?;
                    }
                }
                _ => self.set(&path, Some(value))?,
            }
        }
        Ok(())
    }

    fn set(&mut self, path: &Path, value: Option<&Value>) -> Result<(), ScimError> {
        let place = match (&*path.attribute, path.sub.as_deref()) {
            ("active", None) => {
                self.active = value.is_some_and(is_true);
                return Ok(());
            }
            ("username", None) => {
                self.user_name = text(value)?.unwrap_or_default();
                return Ok(());
            }
            ("externalid", None) => &mut self.external_id,
            ("displayname", None) => &mut self.display_name,
            ("name", Some("formatted")) => &mut self.formatted,
            ("name", Some("givenname")) => &mut self.given,
            ("name", Some("familyname")) => &mut self.family,
            ("emails", Some("value")) => &mut self.email,
            ("emails", None) => {
                self.email = value.and_then(address);
                return Ok(());
            }
            _ => return Ok(()),
        };
        *place = text(value)?;
        Ok(())
    }
}

impl GroupDocument {
    /// Reads a whole group.
    pub(crate) fn read(json: &Value) -> Result<Self, ScimError> {
        let display_name = text(json.get("displayName"))?.unwrap_or_default();
        if display_name.is_empty() {
            return bad("invalidValue", "displayName must be there");
        }
        let external_id = text(json.get("externalId"))?;
        let members = json.get("members").map(ids).transpose()?.unwrap_or_default();
        Ok(Self { display_name, external_id, members })
    }

    /// What a patch says: another name, and what becomes of members, in its order.
    pub(crate) fn patch(json: &Value) -> Result<(Option<String>, Vec<MemberChange>), ScimError> {
        let (mut renamed, mut changes) = (None, Vec::new());
        for Operation { removes, adds, path, value } in operations(json)? {
            let change = |ids: Vec<String>| match (removes, adds) {
                (true, _) => MemberChange::Remove(ids),
                (_, true) => MemberChange::Add(ids),
                _ => MemberChange::Replace(ids),
            };
            match path {
                None => {
                    let Some(Value::Object(members)) = value else {
                        return bad("invalidSyntax", "an operation without a path has an object as its value");
                    };
                    for (name, value) in members {
                        match &*name.to_ascii_lowercase() {
                            "displayname" => renamed = text(Some(value))?,
                            "members" => changes.push(change(ids(value)?)),
                            _ => {}
                        }
                    }
                }
                Some(path) => match (&*path.attribute, path.which, value) {
                    ("displayname", None, value) => renamed = text(value)?,
                    ("members", Some(which), _) if removes && which.attribute == "value" => {
                        changes.push(MemberChange::Remove(vec![which.value]));
                    }
                    ("members", None, Some(value)) => changes.push(change(ids(value)?)),
                    ("members", None, None) if removes => changes.push(MemberChange::Replace(Vec::new())),
                    ("members", ..) => return bad("invalidPath", "members are told by their value"),
                    _ => {}
                },
            }
        }
        Ok((renamed.filter(|name| !name.is_empty()), changes))
    }
}

fn operations(json: &Value) -> Result<Vec<Operation<'_>>, ScimError> {
    // Names of members have no case (RFC 7643 §2.1), and providers differ in this one.
    let found = json.as_object().and_then(|all| all.iter().find(|(name, _)| name.eq_ignore_ascii_case("operations")));
    let Some((_, Value::Array(all))) = found else {
        return bad("invalidSyntax", "a patch has Operations");
    };
    if all.len() > ScimLimits::OPERATIONS {
        return bad("tooMany", "a patch has at most 100 operations");
    }
    all.iter()
        .map(|one| {
            let op = one.get("op").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
            if !matches!(&*op, "add" | "remove" | "replace") {
                return bad("invalidSyntax", "op must be add, remove or replace");
            }
            let path = match one.get("path") {
                None | Some(Value::Null) => None,
                Some(path) => match path.as_str().and_then(Path::read) {
                    Some(path) => Some(path),
                    None => return bad("invalidPath", "the path is none that is known here"),
                },
            };
            Ok(Operation { removes: op == "remove", adds: op == "add", path, value: one.get("value") })
        })
        .collect()
}

fn text(value: Option<&Value>) -> Result<Option<String>, ScimError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= ScimLimits::TEXT && !text.chars().any(char::is_control) => {
            Ok(Some(text.clone()))
        }
        Some(_) => bad("invalidValue", "a text must have at most 1,024 bytes, without control characters"),
    }
}

/// Entra ID sends booleans as texts.
fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true")))
}

/// The primary address, else the first.
fn address(value: &Value) -> Option<String> {
    let all = value.as_array()?;
    let primary = all.iter().find(|one| one.get("primary").is_some_and(is_true)).or_else(|| all.first())?;
    text(primary.get("value")).ok().flatten()
}

fn ids(value: &Value) -> Result<Vec<String>, ScimError> {
    let all = match value {
        Value::Array(all) => all.as_slice(),
        one => std::slice::from_ref(one),
    };
    if all.len() > ScimLimits::MEMBERS {
        return bad("tooMany", "at most 1,000 members may change in one request");
    }
    let id = |member: &Value| member.get("value").and_then(Value::as_str).map(str::to_owned);
    let ids: Option<Vec<_>> = all.iter().map(id).collect();
    ids.ok_or(ScimError::Bad("invalidValue", "a member has a value, the id of a user"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ada() -> UserDocument {
        UserDocument::read(&json!({
            "userName": "ada@a.example", "externalId": "248289", "name": { "givenName": "Ada", "familyName": "King" },
            "emails": [{ "value": "other@a.example" }, { "value": "ada@a.example", "primary": true }],
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": { "department": "x" },
        }))
        .unwrap()
    }

    #[test]
    fn a_user_is_what_is_kept_of_it() {
        let ada = ada();
        assert!(ada.active && ada.name() == "Ada King" && ada.email.as_deref() == Some("ada@a.example"));
        for wrong in
            [json!({}), json!({ "userName": "" }), json!({ "userName": 1 }), json!([]), json!({ "userName": "a\n" })]
        {
            assert!(UserDocument::read(&wrong).is_err(), "{wrong}");
        }
        let long = |bytes| UserDocument::read(&json!({ "userName": "a".repeat(bytes) }));
        assert!(long(ScimLimits::TEXT).is_ok() && long(ScimLimits::TEXT + 1).is_err());
    }

    /// As Entra ID (texts for booleans, paths for names) and Okta (no path) send them.
    #[test]
    fn patches_of_the_usual_providers_are_understood() {
        let patch = |operation: Value| ada().patched(&json!({ "Operations": [operation] }));
        for operation in [
            json!({ "op": "Replace", "path": "active", "value": "False" }),
            json!({ "op": "replace", "value": { "active": false } }),
            json!({ "op": "Add", "value": { "active": "False", "name.givenName": "Ada" } }),
            json!({ "op": "remove", "path": "active" }),
        ] {
            assert!(!patch(operation.clone()).unwrap().active, "{operation}");
        }
        let named = patch(json!({ "op": "replace", "path": "name.givenName", "value": "Augusta" })).unwrap();
        assert_eq!(named.name(), "Augusta King");
        let mailed =
            patch(json!({ "op": "Replace", "path": "emails[type eq \"work\"].value", "value": "k@a.example" }));
        assert_eq!(mailed.unwrap().email.as_deref(), Some("k@a.example"));
        let gone = patch(json!({ "op": "remove", "path": "name.familyName" })).unwrap();
        assert_eq!((gone.family, gone.user_name.as_str()), (None, "ada@a.example"));
        assert_eq!(patch(json!({ "op": "add", "path": "title", "value": "x" })).unwrap(), ada());
        for wrong in [
            json!({ "op": "move", "path": "active", "value": true }),
            json!({ "op": "replace", "path": "active" }),
            json!({ "op": "replace" }),
            json!({ "op": "replace", "path": "userName", "value": "" }),
            json!({ "op": "replace", "path": "a[b", "value": "" }),
        ] {
            assert!(patch(wrong.clone()).is_err(), "{wrong}");
        }
        let many =
            |count| ada().patched(&json!({ "Operations": vec![json!({ "op": "remove", "path": "title" }); count] }));
        assert!(many(ScimLimits::OPERATIONS).is_ok() && many(ScimLimits::OPERATIONS + 1).is_err());
    }

    #[test]
    fn members_change_in_the_order_of_the_patch() {
        let (renamed, changes) = GroupDocument::patch(&json!({ "Operations": [
            { "op": "Add", "path": "members", "value": [{ "value": "a" }, { "value": "b" }] },
            { "op": "Remove", "path": "members", "value": [{ "value": "b" }] },
            { "op": "remove", "path": "members[value eq \"c\"]" },
            { "op": "replace", "value": { "displayName": "Ops", "members": [{ "value": "d" }] } },
            { "op": "remove", "path": "members" },
        ] }))
        .unwrap();
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(renamed.as_deref(), Some("Ops"));
        let wanted = [
            MemberChange::Add(ids(&["a", "b"])),
            MemberChange::Remove(ids(&["b"])),
            MemberChange::Remove(ids(&["c"])),
            MemberChange::Replace(ids(&["d"])),
            MemberChange::Replace(ids(&[])),
        ];
        assert_eq!(changes, wanted);
        let members = |count| {
            let all: Vec<_> = (0..count).map(|n| json!({ "value": n.to_string() })).collect();
            GroupDocument::read(&json!({ "displayName": "Ops", "members": all }))
        };
        assert!(members(ScimLimits::MEMBERS).is_ok() && members(ScimLimits::MEMBERS + 1).is_err());
    }
}
