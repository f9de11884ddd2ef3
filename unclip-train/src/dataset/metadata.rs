//! One list of all captions, as Hugging Face's image folders have it.

use std::collections::HashSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use unclip_core::{InvalidSetting, Limit};
use unclip_nn::checkpoint::{LoadError, read_text};

use super::complaint::{Complaints, DataError};
use super::item::{Item, Place, name_in};
use super::{Reason, captions};

/// Names of the lists: of JSON lines, and of a table.
pub(super) const LINES: &str = "metadata.jsonl";
pub(super) const TABLE: &str = "metadata.csv";

/// The field that names a picture.
const PICTURE: &str = "file_name";

/// The items of a list, whose pictures lie in its folder or below, and every picture that it names.
///
/// # Errors
/// A list that cannot be read, or names a picture elsewhere. One that is named twice has both captions.
pub(super) fn items(
    folder: &Path,
    list: &Path,
    complaints: &Complaints,
) -> Result<(Vec<Item>, Vec<PathBuf>), DataError> {
    let text = read_text(list, Limit::ListBytes)?;
    let is_table = list.file_name().is_some_and(|name| name == TABLE);
    let rows = if is_table { of_table(list, &text)? } else { of_lines(list, &text)? };
    let own = list.parent().unwrap_or(folder);
    let mut items = Vec::with_capacity(rows.len());
    let mut named = Vec::with_capacity(rows.len());
    for (line, row) in rows {
        let error = |found: String, expected: &str| invalid(list, line, PICTURE, found, expected);
        let Some(name) = row.get(PICTURE).and_then(Value::as_str) else {
            return Err(error("absent".into(), "the picture's path").into());
        };
        let relative = PathBuf::from(name);
        let is_below = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !is_below {
            let expected = "a path in the list's own folder, or below it";
            return Err(error(format!("{name:?}"), expected).into());
        }
        let picture = own.join(relative);
        let name = name_in(folder, &picture);
        named.push(picture.clone());
        let said = captions::FIELDS.iter().find_map(|field| row.get(*field));
        match said.map_or(Err(Reason::NoCaption), captions::of_value) {
            Err(reason) => complaints.add(name, reason),
            Ok(_) if !picture.is_file() => complaints.add(name, Reason::NoPicture),
            Ok(captions) => items.push(Item { name, captions, place: Place::File(picture) }),
        }
    }
    Ok((joined(items), named))
}

/// Items with all the captions that several rows give them.
fn joined(mut items: Vec<Item>) -> Vec<Item> {
    items.sort_by(|a, b| a.name.cmp(&b.name));
    items.dedup_by(|later, first| {
        let is_same = later.name == first.name;
        if is_same {
            first.captions.append(&mut later.captions);
        }
        is_same
    });
    items
}

type Rows = Vec<(usize, Map<String, Value>)>;

/// The fields of a row that are read, each once; of others, which may be much longer, nothing is kept.
struct Row(Map<String, Value>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RowVisitor)
    }
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = Row;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
        let mut row = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if !is_read(&name) {
                map.next_value::<IgnoredAny>()?;
            } else if row.insert(name.clone(), map.next_value()?).is_some() {
                return Err(A::Error::custom(format!("{name} stands there twice")));
            }
        }
        Ok(Row(row))
    }
}

fn is_read(name: &str) -> bool {
    name == PICTURE || captions::FIELDS.contains(&name)
}

fn of_lines(list: &Path, text: &[u8]) -> Result<Rows, LoadError> {
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let parsed = lines.map(|(number, line)| {
        let object = serde_json::from_slice(line).map(|Row(object)| object);
        let expected = "an object with file_name and text";
        let error =
            |error| invalid(list, number + 1, "object", format!("unreadable ({error})"), expected);
        object.map(|object| (number + 1, object)).map_err(error)
    });
    parsed.collect()
}

fn of_table(list: &Path, text: &[u8]) -> Result<Rows, LoadError> {
    let expected = "a table with the columns file_name and text";
    let refused =
        |line: usize, error: csv::Error| invalid(list, line, "row", error.to_string(), expected);
    let mut reader = csv::ReaderBuilder::new().from_reader(text);
    let headers = reader.headers().map_err(|error| refused(1, error))?.clone();
    if !headers.iter().any(|name| name == PICTURE) {
        return Err(invalid(list, 1, "columns", format!("{headers:?}"), expected));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = headers.iter().find(|name| is_read(name) && !seen.insert(*name)) {
        return Err(invalid(list, 1, "columns", format!("{twice:?} twice"), expected));
    }
    let rows = reader.records().enumerate().map(|(number, record)| {
        let record = record.map_err(|error| refused(number + 2, error))?;
        let fields = headers.iter().zip(&record).filter(|(name, _)| is_read(name));
        let row = fields.map(|(name, value)| (name.to_string(), Value::from(value))).collect();
        Ok((number + 2, row))
    });
    rows.collect()
}

/// The error for a line of a list.
fn invalid(list: &Path, line: usize, field: &str, found: String, expected: &str) -> LoadError {
    let name = format!("{field} in line {line}");
    LoadError::Config { path: list.into(), source: InvalidSetting::new(name, found, expected) }
}
