//! What is said of a picture.

use crate::icons::Icon;

/// Several captions of an emoji on a background, from short to long.
pub fn captions(icon: &Icon, background: &str) -> Vec<String> {
    let name = icon.concept.replace('-', " ");
    let article = if name.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    let style = icon.style;
    let mut said = vec![
        format!("{article} {name} in the {style} style on a {background} background"),
        format!("{name}, {style} style"),
        format!("{article} {name} on a {background} background"),
    ];
    if !icon.keywords.is_empty() {
        let words = icon.keywords[..icon.keywords.len().min(3)].join(", ");
        said.push(format!("{name}: {words}, in the {style} style on a {background} background"));
    }
    said
}
