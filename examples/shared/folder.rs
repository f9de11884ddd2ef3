//! Reads the pictures of a folder.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use unclip::{Gallery, ImageEmbedding, ReadOptions, RgbImage, UnClip};

use crate::console::{AnyError, note};

/// The files of pictures in a folder and its subfolders, by name; or a file alone.
pub(crate) fn pictures_in(path: &Path) -> Result<Vec<PathBuf>, AnyError> {
    const ENDINGS: [&str; 9] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "jfif"];
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let failed = |path: &Path, error| format!("{}: {error}", path.display());
    let (mut folders, mut files) = (vec![path.to_path_buf()], Vec::new());
    let mut seen = HashSet::new();
    while let Some(folder) = folders.pop() {
        // a folder behind a link may hold the link
        if !seen.insert(folder.canonicalize().map_err(|error| failed(&folder, error))?) {
            continue;
        }
        for entry in std::fs::read_dir(&folder).map_err(|error| failed(&folder, error))? {
            let entry = entry.map_err(|error| failed(&folder, error))?;
            let path = entry.path();
            let ending = path.extension().map(|it| it.to_string_lossy().to_lowercase());
            if path.is_dir() {
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

/// A picture of a file, made into what is needed of it; what is not shown of it is said. If it
/// cannot be used, that is said, and it is left out.
pub(crate) fn read<T>(
    path: &Path,
    make: impl FnOnce(RgbImage) -> Result<T, unclip::Error>,
) -> Option<T> {
    let name = path.display();
    let made = ReadOptions::default().read(path).and_then(|picture| {
        picture.left_out.iter().for_each(|it| note(format_args!("{name}: {it}")));
        make(picture.image)
    });
    made.inspect_err(|error| note(format_args!("{name} is left out: {error}"))).ok()
}

/// Embeds pictures, with progress: as many at once as take little memory, each as the square that
/// CLIP sees of it.
pub(crate) fn embedded(unclip: &UnClip, files: &[PathBuf]) -> Result<Gallery, AnyError> {
    const TOGETHER: usize = 64;
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} eta {eta}")?;
    let bar = ProgressBar::new(files.len() as u64).with_style(style);
    let (mut images, mut names) = (Vec::new(), Vec::new());
    for files in files.chunks(TOGETHER) {
        let mut pictures = Vec::new();
        for path in files {
            bar.inc(1);
            let Some(name) = path.to_str() else {
                let name = path.display();
                bar.suspend(|| note(format_args!("{name} is left out: its name is not UTF-8")));
                continue;
            };
            let fitted = bar
                .suspend(|| read(path, |picture| unclip.bundle().fit(&picture, &unclip.device())));
            let Some((picture, cropped)) = fitted else { continue };
            cropped.iter().for_each(|it| bar.suspend(|| note(format_args!("{name}: {it}"))));
            pictures.push(picture);
            names.push(name.to_string());
        }
        if !pictures.is_empty() {
            images.push(unclip.embed_images(&pictures)?);
        }
    }
    bar.finish_and_clear();
    if images.is_empty() {
        return Err("no picture can be read, expected at least one".into());
    }
    Ok(Gallery::new(ImageEmbedding::cat(images), names)?)
}
