//! Which release of DALLE2-pytorch a file is of: the sizes of a network do not say how it computes.

use std::collections::HashSet;

use unclip_core::InvalidSetting;
use unclip_nn::LaionRelease;
use unclip_nn::checkpoint::{LoadError, Weights};

/// Where the converter notes what a checkpoint says of its release.
const NOTE: &str = "dalle2_pytorch";

/// The first release that is read: before it, priors weighed distances by another factor, and all norms
/// divided by the largest value first.
const FIRST: [u32; 3] = [0, 23, 3];

/// Between the releases that are read: linear attention, cosines and lengths changed before the tensors' names
/// did.
const BETWEEN: std::ops::Range<[u32; 3]> = [1, 2, 0]..[1, 10, 0];

/// Side of the kernels that halve pictures in the early releases.
const EARLY_KERNEL: usize = 4;

/// The convolutions that halve pictures in the U-Net at this place, if it is of the early releases, by their
/// names in it.
pub(super) fn early_halvings(weights: &Weights, place: usize) -> HashSet<String> {
    let unet = format!("unets.{place}.");
    let module = |key: String| {
        let kernel = weights.shape(&key)?.get(2).copied();
        let module = key.strip_prefix(&unet)?.strip_suffix(".weight")?;
        (module.starts_with("downs.") && kernel == Some(EARLY_KERNEL)).then(|| module.into())
    };
    weights.keys().into_iter().filter_map(module).collect()
}

/// That of a decoder's file: as it is noted, else by the convolutions of its U-Nets, any of which may be
/// without such.
///
/// # Errors
/// A release that is not read, if the file notes one; a note that contradicts the tensors.
pub(super) fn of_decoder(weights: &Weights) -> Result<LaionRelease, LoadError> {
    let halves_early = |key: &String| {
        let kernel = weights.shape(key).and_then(|shape| shape.get(2).copied());
        key.starts_with("unets.") && key.contains(".downs.") && kernel == Some(EARLY_KERNEL)
    };
    let found = weights.keys().into_iter().find(halves_early);
    match (noted(weights)?, found) {
        (Some((LaionRelease::V1_15, note)), Some(key)) => {
            let kernel = format!("a kernel of {EARLY_KERNEL} pixels, of releases up to 1.1");
            Err(contradiction(weights, &note, &format!("{key} has {kernel}")))
        }
        (Some((release, _)), _) => Ok(release),
        (None, Some(_)) => Ok(LaionRelease::V1_0),
        (None, None) => Ok(LaionRelease::V1_15),
    }
}

/// That of a prior's file: by what it has learned to stand for padding.
///
/// # Errors
/// As [`of_decoder`].
pub(super) fn of_prior(weights: &Weights) -> Result<LaionRelease, LoadError> {
    let is_early = weights.shape(PADDING).is_some();
    let found = if is_early { LaionRelease::V1_0 } else { LaionRelease::V1_15 };
    match noted(weights)? {
        Some((release, note)) if release != found => {
            let there = if is_early { "there, as in" } else { "absent, unlike in" };
            let found = format!("{PADDING} is {there} releases up to 1.1");
            Err(contradiction(weights, &note, &found))
        }
        _ => Ok(found),
    }
}

/// What stands for padding in early priors.
const PADDING: &str = "net.null_text_embed";

/// What the file notes.
fn noted(weights: &Weights) -> Result<Option<(LaionRelease, String)>, LoadError> {
    let Some(noted) = weights.note(NOTE) else { return Ok(None) };
    let mut numbers = noted.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let release = std::array::from_fn(|_| numbers.next().unwrap_or(0));
    if release < FIRST || BETWEEN.contains(&release) {
        let expected = "one from 0.23.3 to 1.1, or from 1.10 on: the others compute in another way";
        return Err(refused(weights, noted, expected));
    }
    let release = if release < BETWEEN.start { LaionRelease::V1_0 } else { LaionRelease::V1_15 };
    Ok(Some((release, noted.into())))
}

fn contradiction(weights: &Weights, noted: &str, found: &str) -> LoadError {
    refused(weights, noted, &format!("the release of the tensors: {found}"))
}

fn refused(weights: &Weights, noted: &str, expected: &str) -> LoadError {
    let source = InvalidSetting::new("release of DALLE2-pytorch", noted, expected);
    LoadError::Config { path: weights.path().into(), source }
}
