//! Results that get in the way of each other or of what is read.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use unclip::unclip_nn::checkpoint::followed;

use crate::console::AnyError;

/// Checks that no place is that of another, of an input, or in the model's folder.
pub(crate) fn check_apart<'a>(
    places: impl Iterator<Item = &'a Path>,
    inputs: &[&Path],
    models: &[Option<&Path>],
) -> Result<(), AnyError> {
    let models = models.iter().flatten().filter_map(|model| model.canonicalize().ok());
    let models: Vec<PathBuf> = models.flat_map(|model| whole(&model)).collect();
    let inputs = inputs.iter().filter_map(|input| input.canonicalize().ok());
    let mut taken: HashSet<PathBuf> = inputs.collect();
    for place in places {
        let real = place.canonicalize().unwrap_or_else(|_| absolute(place));
        let place = place.display();
        if models.iter().any(|model| real.starts_with(model)) {
            return Err(format!("{place}: is in the model's folder, expected another").into());
        }
        if !taken.insert(real) {
            let message = "is read or written otherwise, expected a place of its own";
            return Err(format!("{place}: {message}: choose another").into());
        }
    }
    Ok(())
}

/// The folder of a whole model, and what its links lead to: of a hub client's, a snapshot's files are links to
/// others beside it.
fn whole(model: &Path) -> Vec<PathBuf> {
    let above = model.parent().filter(|it| it.ends_with("snapshots"));
    let folder = above.and_then(Path::parent).unwrap_or(model);
    let mut all = vec![folder.to_path_buf()];
    // stages are folders of the model, and their files lie in them
    let inside = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in inside(model).flat_map(|stage| inside(&stage.path()).chain([stage])) {
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            all.extend(entry.path().canonicalize());
        }
    }
    all
}

/// Where something would be that is not there yet, also through a link.
fn absolute(path: &Path) -> PathBuf {
    let path = &followed(path);
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent.canonicalize().unwrap_or_else(|_| parent.into());
    parent.join(path.file_name().unwrap_or_default())
}
