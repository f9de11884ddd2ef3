//! Which release of DALLE2-pytorch a file is of: the sizes of a network do not say how it computes.

use std::collections::HashSet;

use unclip_core::InvalidSetting;
use unclip_nn::LaionRelease;
use unclip_nn::checkpoint::{LoadError, Weights};

/// Where the converter notes what a checkpoint says of its release.
const NOTE: &str = "dalle2_pytorch";

/// Between the releases that are read: linear attention, cosines and lengths changed before the tensors' names
/// did.
const BETWEEN: std::ops::Range<[u32; 2]> = [1, 2]..[1, 10];

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

/// That of a decoder's file, by these convolutions of a U-Net.
///
/// # Errors
/// A release between those that are read, if the file notes it.
pub(super) fn of_unet(weights: &Weights, place: usize) -> Result<LaionRelease, LoadError> {
    check(weights)?;
    let is_early = !early_halvings(weights, place).is_empty();
    Ok(if is_early { LaionRelease::V1_0 } else { LaionRelease::V1_15 })
}

/// That of a prior's file, by what it has learned to stand for padding.
///
/// # Errors
/// As [`of_unet`].
pub(super) fn of_prior(weights: &Weights) -> Result<LaionRelease, LoadError> {
    check(weights)?;
    let is_early = weights.shape("net.null_text_embed").is_some();
    Ok(if is_early { LaionRelease::V1_0 } else { LaionRelease::V1_15 })
}

fn check(weights: &Weights) -> Result<(), LoadError> {
    let Some(noted) = weights.note(NOTE) else { return Ok(()) };
    let mut numbers = noted.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let release = [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)];
    if !BETWEEN.contains(&release) {
        return Ok(());
    }
    let expected = "one up to 1.1, or from 1.10 on: those between compute in another way";
    let source = InvalidSetting::new("release of DALLE2-pytorch", noted, expected);
    Err(LoadError::Config { path: weights.path().into(), source })
}
