//! Recipes inside pictures: where they are written, and where another program may have moved them.

use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use exif::experimental::Writer;
use exif::{Field, In, Reader, Tag, Value};
use image::{ImageDecoder, ImageFormat, ImageReader};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value as Json;
use unclip_core::Limit;
use unclip_nn::checkpoint::open_file;

use super::error::picture_error;
use super::read;
use crate::{Error, Recipe};

/// What wrote the file.
pub(super) const SOFTWARE: &str = concat!("unclip ", env!("CARGO_PKG_VERSION"));
/// Name of the PNG text chunk that holds recipes as JSON.
pub(super) const KEYWORD: &str = "unclip";
/// What the text in other formats begins with, where a comment may be anybody's.
const MARK: &str = "unclip: ";
/// The most text that is taken for a recipe.
fn max_text() -> usize {
    usize::try_from(Limit::RecipeBytes.value()).unwrap_or(usize::MAX)
}

/// Recipes as JSON; `None` if there are none. The first of several is whole; each further one is a
/// JSON merge patch (RFC 7396) of the first.
pub(super) fn to_json(recipes: &[Recipe]) -> Result<Option<String>, serde_json::Error> {
    let all: Vec<Json> = recipes.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    Ok(match all.as_slice() {
        [] => None,
        [only] => Some(only.to_string()),
        [first, others @ ..] => {
            let others = others.iter().map(|other| difference(first, other));
            let list: Vec<Json> = std::iter::once(first.clone()).chain(others).collect();
            Some(Json::from(list).to_string())
        }
    })
}

fn from_json(text: &str) -> Result<Vec<Recipe>, serde_json::Error> {
    if !text.trim_start().starts_with('[') {
        // as what it has to be first: such errors tell the line
        let recipe = serde_json::from_str(text)?;
        return Ok(vec![known(recipe, &serde_json::from_str(text)?)?]);
    }
    let list: Vec<Json> = serde_json::from_str(text)?;
    let first = list.first().cloned().unwrap_or_default();
    // each of many recipes may be as long as the first
    if list.len().saturating_mul(first.to_string().len()) > max_text() {
        let found = list.len().saturating_mul(first.to_string().len());
        return Limit::RecipeBytes
            .check_len("recipes of a picture", found)
            .map_err(serde_json::Error::custom)
            .map(|()| Vec::new());
    }
    let whole = |patch: Json| {
        let json = patched(first.clone(), patch);
        known(Recipe::deserialize(&json)?, &json)
    };
    list.into_iter().map(whole).collect()
}

/// The recipe, if every part of it is known: one of a newer version may ask for something that this
/// version would ignore.
fn known(recipe: Recipe, json: &Json) -> Result<Recipe, serde_json::Error> {
    match unknown(json, &serde_json::to_value(&recipe)?) {
        None => Ok(recipe),
        Some(name) => {
            let (by, ours) = (&recipe.version, env!("CARGO_PKG_VERSION"));
            let message = format!(
                "its recipe holds {name:?}, which version {ours} does not know; unclip {by} wrote \
                 it: make it again with that version"
            );
            Err(serde_json::Error::custom(message))
        }
    }
}

/// The first field that says something and that is not in `ours`.
fn unknown(json: &Json, ours: &Json) -> Option<String> {
    // of older versions: one that is read under another name, and one that weights replaced
    const OLD: [&str; 2] = ["upsample", "embedding_space"];
    if let (Json::Array(list), Json::Array(ours)) = (json, ours) {
        return list.iter().zip(ours).find_map(|(item, ours)| unknown(item, ours));
    }
    let (Json::Object(json), Json::Object(ours)) = (json, ours) else { return None };
    json.iter().find_map(|(name, value)| match ours.get(name) {
        Some(other) => unknown(value, other),
        None if OLD.contains(&name.as_str()) => None,
        None => (!says_nothing(value)).then(|| name.clone()),
    })
}

fn says_nothing(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::String(text) => text.is_empty(),
        Json::Array(list) => list.is_empty(),
        Json::Object(map) => map.is_empty(),
        Json::Bool(true) | Json::Number(_) => false,
    }
}

/// The patch that leads from one value to another.
fn difference(from: &Json, to: &Json) -> Json {
    let (Json::Object(from), Json::Object(to)) = (from, to) else { return to.clone() };
    let removed = from.keys().filter(|key| !to.contains_key(*key));
    let removed = removed.map(|key| (key.clone(), Json::Null));
    let changed = to.iter().filter(|(key, value)| from.get(*key) != Some(value));
    let changed = changed.map(|(key, value)| {
        let patch = from.get(key).map_or_else(|| value.clone(), |old| difference(old, value));
        (key.clone(), patch)
    });
    Json::Object(removed.chain(changed).collect())
}

fn patched(value: Json, patch: Json) -> Json {
    let Json::Object(patch) = patch else { return patch };
    let mut map = match value {
        Json::Object(map) => map,
        _ => serde_json::Map::new(),
    };
    for (key, part) in patch {
        if part.is_null() {
            map.remove(&key);
        } else {
            let old = map.remove(&key).unwrap_or_default();
            map.insert(key, patched(old, part));
        }
    }
    Json::Object(map)
}

/// An Exif block of at most so many bytes, whose user comment is the text.
pub(super) fn to_exif(json: &str, most: usize) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let comment = [b"ASCII\0\0\0", MARK.as_bytes(), ascii(json).as_bytes()].concat();
    let field = |tag, value| Field { tag, ifd_num: In::PRIMARY, value };
    let software = field(Tag::Software, Value::Ascii(vec![SOFTWARE.into()]));
    let comment = field(Tag::UserComment, Value::Undefined(comment, 0));
    let mut writer = Writer::new();
    writer.push_field(&software);
    writer.push_field(&comment);
    let mut block = Cursor::new(Vec::new());
    writer.write(&mut block, true)?;
    match block.get_ref().len() {
        found if found > most => Err(format!(
            "its recipe takes {found} bytes, and the format holds {most}: write a PNG or WebP"
        )
        .into()),
        _ => Ok(block.into_inner()),
    }
}

/// The same JSON in ASCII alone.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

impl Recipe {
    /// Reads the recipe from a file written by [`Picture::save`](crate::Picture::save), or by
    /// another program that kept the recipe.
    ///
    /// # Errors
    /// [`Error::Load`] if there is no such file, [`Error::Picture`] if it is not a picture, holds
    /// no recipe, or holds several, as a sheet does.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        match Self::read_all(path)?.as_slice() {
            [recipe] => Ok(recipe.clone()),
            several => {
                let message = format!("holds {} recipes, expected one", several.len());
                Err(picture_error(path, message))
            }
        }
    }

    /// Reads the recipes of all pictures in a file: one, or those of a sheet in the order of its
    /// pictures. They are looked for in the text chunks of a PNG, and in the Exif comment of a PNG,
    /// JPEG or WebP file.
    ///
    /// # Errors
    /// [`Error::Load`] if there is no such file, [`Error::Picture`] if it is not a picture or holds
    /// no recipe.
    pub fn read_all(path: impl AsRef<Path>) -> Result<Vec<Self>, Error> {
        let path = path.as_ref();
        let (file, _) = open_file(path)?;
        Self::find(BufReader::new(file)).map_err(|message| picture_error(path, message))
    }

    /// Like [`read_all`](Self::read_all), from the bytes of a file.
    ///
    /// # Errors
    /// [`Error::Picture`], as [`read_all`](Self::read_all).
    pub fn all_from_bytes(bytes: &[u8]) -> Result<Vec<Self>, Error> {
        Self::find(Cursor::new(bytes)).map_err(|message| picture_error("picture", message))
    }

    fn find(mut file: impl BufRead + Seek) -> Result<Vec<Self>, String> {
        // of several texts, those of other programs may be no recipes
        let mut wrong =
            "holds no recipe: it was not made by this library, or a program that wrote \
                         it since left the recipe out"
                .to_string();
        for text in texts(&mut file)? {
            match from_json(&text) {
                Ok(recipes) if !recipes.is_empty() => return Ok(recipes),
                Ok(_) => {}
                Err(error) => {
                    wrong = format!(
                        "its recipe cannot be read ({error}), expected one that was written by this version"
                    );
                }
            }
        }
        Err(wrong)
    }
}

/// The texts in a picture that are recipes.
fn texts(file: &mut (impl BufRead + Seek)) -> Result<Vec<String>, String> {
    let format = read::format(file)?;
    let mut texts = Vec::new();
    if format == ImageFormat::Png {
        texts = png_texts(file)?;
        file.rewind().map_err(|error| error.to_string())?;
    }
    let decoder = ImageReader::with_format(file, format).into_decoder();
    let block = decoder.and_then(|mut it| it.exif_metadata()).map_err(|error| error.to_string())?;
    texts.extend(block.into_iter().filter_map(comment));
    let check = |text: &String| Limit::RecipeBytes.check_len("recipe in the picture", text.len());
    texts.iter().try_for_each(check).map_err(|error| error.to_string())?;
    Ok(texts)
}

/// Text chunks of any kind with our keyword, before the pixels or after them.
fn png_texts(file: &mut (impl BufRead + Seek)) -> Result<Vec<String>, String> {
    let text = |error: png::DecodingError| error.to_string();
    let packed = |error| format!("recipe in the picture: {error}; expected {}", Limit::RecipeBytes);
    let mut reader = png::Decoder::new(file).read_info().map_err(text)?;
    // what is wrong with the pixels is no matter here
    let _ = reader.finish();
    let info = reader.info();
    let mut texts = Vec::new();
    for chunk in info.utf8_text.iter().filter(|chunk| chunk.keyword == KEYWORD) {
        // other programs may have compressed it, without a bound
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(max_text()).map_err(packed)?;
        texts.push(chunk.get_text().map_err(text)?);
    }
    for chunk in info.compressed_latin1_text.iter().filter(|chunk| chunk.keyword == KEYWORD) {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(max_text()).map_err(packed)?;
        texts.push(chunk.get_text().map_err(text)?);
    }
    let latin1 = info.uncompressed_latin1_text.iter();
    texts.extend(latin1.filter(|chunk| chunk.keyword == KEYWORD).map(|it| it.text.clone()));
    Ok(texts)
}

/// The recipe in the user comment of an Exif block.
fn comment(block: Vec<u8>) -> Option<String> {
    let block = match block.strip_prefix(b"Exif\0\0") {
        Some(rest) => rest.to_vec(),
        None => block,
    };
    let exif = Reader::new().read_raw(block).ok()?;
    // some programs write it as bytes
    let bytes = match &exif.get_field(Tag::UserComment, In::PRIMARY)?.value {
        Value::Undefined(bytes, _) | Value::Byte(bytes) => bytes,
        _ => return None,
    };
    let (code, text) = bytes.split_at_checked(8)?;
    let text = match code {
        b"UNICODE\0" => utf_16(text, exif.little_endian())?,
        _ => String::from_utf8(text.to_vec()).ok()?,
    };
    text.trim_end_matches('\0').strip_prefix(MARK).map(String::from)
}

fn utf_16(bytes: &[u8], is_little_endian: bool) -> Option<String> {
    let unit = |pair: &[u8]| {
        let pair = [pair[0], pair[1]];
        if is_little_endian { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) }
    };
    let units: Vec<u16> = bytes.chunks_exact(2).map(unit).collect();
    String::from_utf16(&units).ok()
}
