//! How captions are written down.

use serde_json::Value;

use super::Reason;

/// Fields of a description that hold captions, in files that people have.
pub(super) const FIELDS: [&str; 3] = ["text", "caption", "captions"];

/// The captions in a text file: one on each line that is not empty.
pub(super) fn of_text(bytes: &[u8]) -> Result<Vec<String>, Reason> {
    let bytes = unclip_nn::checkpoint::without_mark(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| Reason::Caption(error.to_string()))?;
    said(text.lines().map(String::from))
}

/// The captions in a description: a text, or a list of texts.
pub(super) fn of_value(value: &Value) -> Result<Vec<String>, Reason> {
    let refused = || {
        let found = format!("{value}, expected a text or a list of texts");
        Reason::Caption(found)
    };
    match value {
        Value::String(one) => said([one.clone()]),
        Value::Array(several) => {
            let texts = several.iter().map(|it| it.as_str().map(String::from));
            said(texts.collect::<Option<Vec<_>>>().ok_or_else(refused)?)
        }
        _ => Err(refused()),
    }
}

/// The captions in a JSON file beside a picture.
pub(super) fn of_json(bytes: &[u8]) -> Result<Vec<String>, Reason> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| Reason::Caption(error.to_string()))?;
    match FIELDS.iter().find_map(|field| value.get(field)) {
        Some(found) => of_value(found),
        None => Err(Reason::Caption(format!("none of the fields {}", FIELDS.join(", ")))),
    }
}

/// Texts without what is around them; at least one of them says something.
fn said(texts: impl IntoIterator<Item = String>) -> Result<Vec<String>, Reason> {
    let texts = texts.into_iter().map(|text| text.trim().to_string());
    let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
    if texts.is_empty() { Err(Reason::EmptyCaption) } else { Ok(texts) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn captions_are_found_in_whatever_form() {
        assert_eq!(of_text(b"\xef\xbb\xbf a cat \n\n a dog\r\n").unwrap(), ["a cat", "a dog"]);
        assert_eq!(of_text(b" \n\t"), Err(Reason::EmptyCaption));
        assert!(matches!(of_text(b"\xff"), Err(Reason::Caption(_))));
        assert_eq!(of_value(&json!(["a", " b "])).unwrap(), ["a", "b"]);
        assert!(matches!(of_value(&json!(3)), Err(Reason::Caption(_))));
        assert_eq!(of_json(br#"{"url": "x", "caption": "a cat"}"#).unwrap(), ["a cat"]);
        assert!(matches!(of_json(b"{}"), Err(Reason::Caption(_))));
        assert!(matches!(of_json(b"["), Err(Reason::Caption(_))));
    }
}
