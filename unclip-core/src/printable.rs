//! Text from strangers, in messages.

use std::fmt;

/// Text that may come from anywhere (a file, a request, a name), fit for a message: on one line,
/// without characters that move a terminal's cursor or turn its text around, and of a length that
/// can be read. Of what is longer, the beginning and the end are shown.
///
/// Every error of the workspace shows foreign text this way.
///
/// ```
/// use unclip_core::Printable;
///
/// assert_eq!(Printable("a red ring").to_string(), "a red ring");
/// assert_eq!(Printable("red\u{1b}[2J").to_string(), r"red\u{1b}[2J");
/// assert!(Printable("x".repeat(1 << 20)).to_string().len() < 1000);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Printable<T>(pub T);

impl<T> Printable<T> {
    /// How many characters are shown.
    pub const MAX_CHARS: usize = 600;
    /// How many of them are of the end, where a path has its name.
    const END: usize = 200;
}

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let len = text.chars().count();
        if len <= Self::MAX_CHARS {
            return write!(f, "{}", escaped(&text));
        }
        let place = |chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
        let (begin, end) = (place(Self::MAX_CHARS - Self::END), place(len - Self::END));
        let left_out = len - Self::MAX_CHARS;
        write!(
            f,
            "{} … ({left_out} characters) … {}",
            escaped(&text[..begin]),
            escaped(&text[end..])
        )
    }
}

/// The same text of any length, in which every character that controls how others appear is written
/// as Rust writes it in a string.
///
/// ```
/// assert_eq!(unclip_core::escaped("two\nlines"), r"two\nlines");
/// ```
pub fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_layout(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Characters that turn the text after them around, or end a line.
fn is_layout(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_is_left() {
        let hostile: String = ('\0'..='\u{a0}').chain('\u{2000}'..='\u{2070}').collect();
        let shown = escaped(&hostile);
        assert!(!shown.chars().any(|c| c.is_control() || is_layout(c)), "{shown:?}");
        assert_eq!(escaped(&shown), shown, "a message within a message stays as it is");
    }

    #[test]
    fn words_of_all_scripts_stay() {
        for text in ["ein roter Kreis, größer", "赤い丸", "דלת", "👩‍🚀 emoji", r"C:\pictures\a.png"]
        {
            assert_eq!(Printable(text).to_string(), text);
        }
    }

    #[test]
    fn of_a_long_text_both_ends_are_shown() {
        let text = format!("begin{}end", "é".repeat(1 << 20));
        let shown = Printable(&text).to_string();
        assert!(shown.starts_with("begin") && shown.ends_with("end"), "{shown}");
        assert!(shown.chars().count() < Printable::<()>::MAX_CHARS + 50);
        let longest = "x".repeat(Printable::<()>::MAX_CHARS);
        assert_eq!(Printable(&longest).to_string(), longest);
    }
}
