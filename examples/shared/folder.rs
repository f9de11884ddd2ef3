//! Reads the pictures of a folder.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::path::{Path, PathBuf};

use unclip::{ReadOptions, RgbImage};

use crate::console::{AnyError, note};

/// The files of pictures in a folder and its subfolders, by name; or a file alone.
pub(crate) fn pictures_in(path: &Path) -> Result<Vec<PathBuf>, AnyError> {
    const ENDINGS: [&str; 9] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "jfif"];
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let failed = |path: &Path, error| format!("{}: {error}", path.display());
    let (mut folders, mut files) = (vec![path.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|error| failed(&folder, error))? {
            let entry = entry.map_err(|error| failed(&folder, error))?;
            let path = entry.path();
            let ending = path.extension().map(|it| it.to_string_lossy().to_lowercase());
            // a folder behind a link may hold the link
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if ending.is_some_and(|it| ENDINGS.contains(&it.as_str())) {
                files.push(path);
            }
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(format!("{}: holds no picture, expected some", path.display()).into());
    }
    Ok(files)
}

/// Pictures that can be read, with the numbers of their files; what cannot be is said, and left
/// out.
pub(crate) fn read_all(files: &[PathBuf]) -> Vec<(usize, RgbImage)> {
    let read = |(number, path): (usize, &PathBuf)| match ReadOptions::default().read(path) {
        Ok(picture) => Some((number, picture.image)),
        Err(error) => {
            note(format_args!("left out: {error}"));
            None
        }
    };
    files.iter().enumerate().filter_map(read).collect()
}
