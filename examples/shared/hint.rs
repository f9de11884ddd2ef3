//! A picture that a result follows.

use std::path::Path;

use unclip::{ReadOptions, RgbImage};

use crate::console::{AnyError, note};

/// Reads it as a viewer shows it.
pub(crate) fn read_hint(path: &Path) -> Result<RgbImage, AnyError> {
    let picture = ReadOptions::default().read(path)?;
    picture.left_out.iter().for_each(|it| note(format_args!("{}: {it}", path.display())));
    Ok(picture.image)
}
