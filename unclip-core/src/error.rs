//! The error for a setting or configuration field that cannot be used: one type for all crates.

use crate::Printable;

/// A setting or configuration field that cannot be used: its name, what was found and what was
/// expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is {}, expected {}", Printable(name), Printable(found), Printable(expected))]
pub struct InvalidSetting {
    /// Name of the setting as the user spells it, such as `guidance scale`, or path of the field in
    /// a stage's configuration, such as `unet.norm_groups`.
    pub name: String,
    /// The value that was given.
    pub found: String,
    /// What would have been accepted, with the remedy where one exists.
    pub expected: String,
}

impl InvalidSetting {
    /// Builds the error from anything that displays.
    pub fn new(
        name: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), found: found.to_string(), expected: expected.into() }
    }

    /// Checks that `value` lies in `[low, high]`; NaN and infinities never do.
    ///
    /// # Errors
    /// Names the setting and the range.
    pub fn check_range(name: &str, value: f64, low: f64, high: f64) -> Result<(), Self> {
        if value.is_finite() && (low..=high).contains(&value) {
            return Ok(());
        }
        Err(Self::new(name, value, format!("a number from {low} to {high}")))
    }

    /// The same field, as part of `parent`.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        Self { name: format!("{parent}.{}", self.name), ..self }
    }
}
