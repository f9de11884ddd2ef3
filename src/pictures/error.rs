//! What is wrong with a picture's file.

use std::path::Path;

use crate::Error;

pub(super) fn picture_error(path: impl AsRef<Path>, message: impl ToString) -> Error {
    Error::Picture { path: path.as_ref().into(), message: message.to_string() }
}
