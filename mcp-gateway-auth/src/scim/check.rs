//! What holds of the parsers of what clients send, for any input.

use super::ScimLimits;
use super::document::{GroupDocument, MemberChange, UserDocument};
use super::path::{Comparison, Path};

/// Names of attributes are plain, and what is kept of a user or group is bounded, whatever a patch says.
pub fn scim(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(path) = Path::read(text) {
        assert!(!path.attribute.is_empty() && !path.attribute.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
    if let Some(filter) = Comparison::read(text) {
        assert!(text.len() <= ScimLimits::FILTER && filter.value.len() <= ScimLimits::FILTER);
    }
    let Ok(json) = serde_json::from_str(text) else { return };
    let user = UserDocument { user_name: "ada".to_owned(), active: true, ..UserDocument::default() };
    for user in [UserDocument::read(&json), user.patched(&json)].into_iter().flatten() {
        assert!((1..=ScimLimits::TEXT).contains(&user.user_name.len()) && !user.name().is_empty());
    }
    if let Ok((renamed, changes)) = GroupDocument::patch(&json) {
        assert!(renamed.is_none_or(|name| (1..=ScimLimits::TEXT).contains(&name.len())));
        for MemberChange::Add(ids) | MemberChange::Remove(ids) | MemberChange::Replace(ids) in changes {
            assert!(ids.len() <= ScimLimits::MEMBERS);
        }
    }
}
