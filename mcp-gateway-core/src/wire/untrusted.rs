//! Foreign text on its way into a log, an error or an export.

use std::fmt::{self, Write as _};

/// Shows text that somebody else wrote so that it can forge nothing.
///
/// Control characters (C0, DEL, C1), line and paragraph separators, and the characters that change the direction of
/// text come out as escapes; text over [`Untrusted::LONGEST`] bytes is cut and ends in `…`.
///
/// # Example
///
/// ```
/// use mcp_gateway_core::wire::untrusted::Untrusted;
///
/// assert_eq!(Untrusted("a\nb\u{202e}").to_string(), r"a\nb\u{202e}");
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Untrusted<'a>(pub &'a str);

impl Untrusted<'_> {
    /// Most bytes of the text that are shown.
    pub const LONGEST: usize = 256;
}

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.0[..self.0.floor_char_boundary(Self::LONGEST)];
        for c in text.chars() {
            match c {
                // So that an escape in the output is always ours.
                '\\' => f.write_str(r"\\")?,
                c if c.is_control() || is_layout(c) => write!(f, "{}", c.escape_default())?,
                c => f.write_char(c)?,
            }
        }
        if text.len() < self.0.len() { f.write_char('…') } else { Ok(()) }
    }
}

impl fmt::Debug for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Characters that break lines, change direction or hide (Unicode UAX #9 and UAX #14).
fn is_layout(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn controls_are_escaped() {
        assert_eq!(Untrusted("\r\n\x1b[31m\x7f\u{85}\u{9b}").to_string(), r"\r\n\u{1b}[31m\u{7f}\u{85}\u{9b}");
    }

    #[test]
    fn direction_is_escaped_and_other_scripts_are_not() {
        assert_eq!(Untrusted("\u{202e}abc\u{2066}").to_string(), r"\u{202e}abc\u{2066}");
        assert_eq!(Untrusted("名前 naïve").to_string(), "名前 naïve");
    }

    #[test]
    fn an_escape_of_the_sender_cannot_pass_for_ours() {
        assert_eq!(Untrusted(r"\n").to_string(), r"\\n");
    }

    #[test]
    fn text_is_cut_at_the_limit_between_characters() {
        let whole = "a".repeat(256);
        assert_eq!(Untrusted(&whole).to_string(), whole);
        assert_eq!(Untrusted(&"a".repeat(257)).to_string(), format!("{whole}…"));
        assert_eq!(Untrusted(&format!("{}é", "a".repeat(255))).to_string(), format!("{}…", "a".repeat(255)));
    }

    proptest! {
        #[test]
        fn nothing_shown_controls_anything(text: String) {
            let shown = Untrusted(&text).to_string();
            let bare = shown.chars().all(|c| !c.is_control() && !is_layout(c));
            prop_assert!(bare);
        }
    }
}
