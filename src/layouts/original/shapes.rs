//! Sizes read off the shapes of tensors.

use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::{LoadError, Weights};

use super::unet_names::{Heads, UNetNames};

/// The shapes of a file's tensors below a prefix. In errors they have the names of the file.
#[derive(Debug, Clone, Copy)]
pub(in crate::layouts) struct Shapes<'a> {
    weights: &'a Weights,
    prefix: &'static str,
}

impl<'a> Shapes<'a> {
    pub(in crate::layouts) fn of(weights: &'a Weights, prefix: &'static str) -> Self {
        Self { weights, prefix }
    }

    /// The error for a tensor, or for what was read off it.
    pub(in crate::layouts) fn error(
        &self,
        key: &str,
        found: impl ToString,
        expected: &str,
    ) -> LoadError {
        let key = format!("{}{key}", self.prefix);
        self.invalid(InvalidSetting::new(key, found.to_string(), expected))
    }

    fn invalid(&self, source: InvalidSetting) -> LoadError {
        LoadError::Config { path: self.weights.path().into(), source }
    }

    /// The sides of a tensor, which has to be there and has to have so many.
    pub(in crate::layouts) fn sides<const D: usize>(
        &self,
        key: &str,
    ) -> Result<[usize; D], LoadError> {
        let shape = self.weights.shape(&format!("{}{key}", self.prefix));
        let expected = format!("a tensor of {D} dimensions");
        let shape = shape.ok_or_else(|| self.error(key, "absent", &expected))?;
        let found = || self.error(key, format!("a tensor of the shape {shape:?}"), &expected);
        shape.try_into().map_err(|_| found())
    }

    /// Whether there is a tensor of this name.
    pub(in crate::layouts) fn has(&self, key: &str) -> bool {
        self.weights.shape(&format!("{}{key}", self.prefix)).is_some()
    }

    /// How many layers are numbered after `before`.
    pub(in crate::layouts) fn layers(&self, before: &str) -> usize {
        let before = format!("{}{before}", self.prefix);
        let number = |key: String| -> Option<usize> {
            key.strip_prefix(&before)?.split('.').next()?.parse().ok()
        };
        let last = self.weights.keys().into_iter().filter_map(number).max();
        last.map_or(0, |last| last.saturating_add(1))
    }

    /// How a U-Net's blocks are numbered.
    pub(in crate::layouts) fn unet_names(&self, heads: Heads) -> Result<UNetNames, LoadError> {
        UNetNames::of(self.weights, self.prefix, heads).map_err(|error| self.invalid(error))
    }

    /// How often `unit` goes into a size that was read off a tensor.
    pub(in crate::layouts) fn divide(
        &self,
        key: &str,
        size: usize,
        unit: usize,
        what: &str,
    ) -> Result<usize, LoadError> {
        if unit > 0 && size > 0 && size.is_multiple_of(unit) {
            Ok(size / unit)
        } else {
            let found = format!("a tensor of the width {size}");
            Err(self.error(key, found, &format!("a multiple of {unit}, {what}")))
        }
    }
}
