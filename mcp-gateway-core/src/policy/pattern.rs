//! Names with `*` in them.

/// A name in which `*` stands for any characters, or none. Everything else stands for itself, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// What stands between the stars: one part if there is none.
    parts: Box<[Box<str>]>,
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        Self { parts: text.split('*').map(Into::into).collect() }
    }

    /// Whether a name fits. Takes time in proportion to the name's length times the longest part's, whatever the number of
    /// stars: each part is looked for once, from where the one before ended.
    pub(crate) fn fits(&self, name: &str) -> bool {
        let [first, rest @ ..] = &*self.parts else { return false };
        let [middle @ .., last] = rest else { return **first == *name };
        let Some(mut name) = name.strip_prefix(&**first).and_then(|name| name.strip_suffix(&**last)) else {
            return false;
        };
        for part in middle {
            let Some(at) = name.find(&**part) else { return false };
            name = &name[at + part.len()..];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_anything_and_everything_else_is_itself() {
        for (pattern, name, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "A", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "x/y", true),
            ("delete_*", "delete_", true),
            ("delete_*", "xdelete_", false),
            ("*_all", "delete_all", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("file:///*.md", "file:///x/y.md", true),
            ("a?[b]", "a?[b]", true),
            ("a?", "ab", false),
        ] {
            assert_eq!(Pattern::new(pattern).fits(name), fits, "{pattern} {name}");
        }
    }

    /// By trying every length for every star.
    fn slowly(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|taken| slowly(rest, &name[taken..])),
            Some((one, rest)) => name.split_first().is_some_and(|(first, tail)| first == one && slowly(rest, tail)),
        }
    }

    proptest! {
        #[test]
        fn it_fits_what_the_slow_way_fits(pattern in "[ab*é]{0,8}", name in "[abé]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(Pattern::new(&pattern).fits(&name), slowly(&chars(&pattern), &chars(&name)));
        }
    }
}
