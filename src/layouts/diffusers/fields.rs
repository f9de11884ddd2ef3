//! A configuration of another project, field by field.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::{LoadError, load_config};

/// The name of the class where none is named.
pub(in crate::layouts) const ABSENT: &str = "absent";

/// A JSON object whose every field must be accounted for: one that nothing reads might change what
/// the network computes.
#[derive(Debug)]
pub(in crate::layouts) struct Fields {
    path: PathBuf,
    class: String,
    /// The objects that it lies in, outermost first, each followed by a dot.
    within: String,
    rest: Map<String, Value>,
}

impl Fields {
    /// Reads a file. Fields that begin with an underscore are notes of the library that wrote it,
    /// except for the name of its class, which must be one of `classes`.
    pub(in crate::layouts) fn read(
        path: &Path,
        classes: Option<&[&str]>,
    ) -> Result<Self, LoadError> {
        let rest: Map<String, Value> = load_config(path)?;
        let class = rest.get("_class_name").and_then(Value::as_str).unwrap_or(ABSENT).to_string();
        let mut fields = Self { path: path.into(), class, within: String::new(), rest };
        let class = fields.class();
        if let Some(classes) = classes.filter(|classes| !classes.contains(&class)) {
            return Err(fields.error("_class_name", class, &classes.join(" or ")));
        }
        fields.rest.retain(|name, _| !name.starts_with('_'));
        Ok(fields)
    }

    /// The name of the class that the file is of.
    pub(in crate::layouts) fn class(&self) -> &str {
        &self.class
    }

    /// The error for a field.
    pub(in crate::layouts) fn error(
        &self,
        field: &str,
        found: impl ToString,
        expected: &str,
    ) -> LoadError {
        let field = format!("{}{field}", self.within);
        let source = InvalidSetting::new(field, found.to_string(), expected);
        LoadError::Config { path: self.path.clone(), source }
    }

    /// The error for what our own checks found, with the names of the file for `names` of ours.
    pub(in crate::layouts) fn invalid(
        &self,
        error: &InvalidSetting,
        names: &[(&str, &str)],
    ) -> LoadError {
        let [field, expected] =
            [flat(&error.name), &error.expected].map(|text| renamed(text, names));
        self.error(&field, &error.found, &expected)
    }

    /// An object that has to be there.
    pub(in crate::layouts) fn object(&mut self, name: &str) -> Result<Self, LoadError> {
        let value = self.take(name)?;
        self.of_value(name, value)
    }

    /// A list of objects that has to be there.
    pub(in crate::layouts) fn objects(&mut self, name: &str) -> Result<Vec<Self>, LoadError> {
        let values: Vec<Value> = self.take(name)?;
        let values = values.into_iter().enumerate();
        values.map(|(place, value)| self.of_value(&format!("{name}.{place}"), value)).collect()
    }

    fn of_value(&self, name: &str, value: Value) -> Result<Self, LoadError> {
        let Value::Object(rest) = value else { return Err(self.error(name, value, "an object")) };
        let within = format!("{}{name}.", self.within);
        Ok(Self { path: self.path.clone(), class: self.class.clone(), within, rest })
    }

    /// A field that may be absent.
    pub(in crate::layouts) fn take_or<T: DeserializeOwned>(
        &mut self,
        name: &str,
        absent: T,
    ) -> Result<T, LoadError> {
        Ok(self.take_optional(name)?.unwrap_or(absent))
    }

    /// A field that has to be there.
    pub(in crate::layouts) fn take<T: DeserializeOwned>(
        &mut self,
        name: &str,
    ) -> Result<T, LoadError> {
        match self.take_optional(name)? {
            Some(value) => Ok(value),
            None => Err(self.error(name, "absent", "a value")),
        }
    }

    /// A field that may be absent or null.
    pub(in crate::layouts) fn take_optional<T: DeserializeOwned>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, LoadError> {
        match self.rest.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|error| self.error(name, value, &format!("another type ({error})"))),
        }
    }

    /// A field that may be absent, and must have this value otherwise: nothing else is built here.
    pub(in crate::layouts) fn expect(
        &mut self,
        name: &str,
        expected: impl Into<Value>,
    ) -> Result<(), LoadError> {
        let expected = expected.into();
        match self.rest.remove(name) {
            Some(found) if !same(&found, &expected) => {
                Err(self.error(name, found, &expected.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// A field that has to be there with this value: what stands for an absent one in the other
    /// project is not built here.
    pub(in crate::layouts) fn demand(
        &mut self,
        name: &str,
        expected: impl Into<Value>,
    ) -> Result<(), LoadError> {
        let expected = expected.into();
        if self.rest.contains_key(name) {
            self.expect(name, expected)
        } else {
            Err(self.error(name, "absent", &expected.to_string()))
        }
    }

    /// [`expect`](Self::expect) for several fields.
    pub(in crate::layouts) fn expect_all<const N: usize>(
        &mut self,
        fields: [(&str, Value); N],
    ) -> Result<(), LoadError> {
        fields.into_iter().try_for_each(|(name, value)| self.expect(name, value))
    }

    /// Fields that say nothing about what the network computes.
    pub(in crate::layouts) fn ignore(&mut self, names: &[&str]) {
        self.rest.retain(|name, _| !names.contains(&name.as_str()));
    }

    /// Whether a field is absent or null.
    pub(in crate::layouts) fn is_null(&self, name: &str) -> bool {
        self.rest.get(name).is_none_or(Value::is_null)
    }

    /// The file.
    pub(in crate::layouts) fn path(&self) -> &Path {
        &self.path
    }

    /// As [`rest_is_empty`](Self::rest_is_empty), of fields that are not needed any more.
    pub(in crate::layouts) fn finish(self) -> Result<(), LoadError> {
        self.rest_is_empty()
    }

    /// Checks that no meaningful field is left. Unknown fields that are null are ignored; a list of
    /// nulls is a pipeline part that this pipeline does without.
    pub(in crate::layouts) fn rest_is_empty(&self) -> Result<(), LoadError> {
        let says_nothing = |value: &Value| match value {
            Value::Null => true,
            Value::Array(parts) => !parts.is_empty() && parts.iter().all(Value::is_null),
            _ => false,
        };
        match self.rest.iter().find(|(_, value)| !says_nothing(value)) {
            None => Ok(()),
            Some((name, value)) => Err(self.error(name, value, "no such field")),
        }
    }
}

/// Whether two values are the same, 1 and 1.0 included.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// The name of a field of ours in a file that is flat where ours is nested.
pub(in crate::layouts) fn flat(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// A text with some of its words replaced.
fn renamed(text: &str, names: &[(&str, &str)]) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let pieces = text.split_inclusive(|c| !is_word(c)).map(|piece| {
        let word = piece.trim_end_matches(|c| !is_word(c));
        let theirs = names.iter().find(|(ours, _)| *ours == word).map_or(word, |(_, name)| name);
        format!("{theirs}{}", &piece[word.len()..])
    });
    pieces.collect()
}
