//! What is wrong with a setting or with a field of a configuration: one type for all crates.

/// Sizes beyond this are refused before anything is allocated.
const MAX_SIZE: usize = 1 << 20;

/// Stacks of more layers are refused before anything is allocated.
const MAX_LAYERS: usize = 1 << 10;

/// A setting, or a field of a configuration, that cannot be used: names it, what was found and what
/// was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {found}, expected {expected}")]
pub struct InvalidSetting {
    /// Name of the setting as the user spells it, for instance `guidance scale`; a field of a
    /// configuration with its path, as the file has it, for instance `unet.norm_groups`.
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

    /// Checks that a size is neither 0 nor absurd.
    ///
    /// # Errors
    /// Names the field.
    pub fn check_size(field: &str, size: usize) -> Result<(), Self> {
        match size {
            1..=MAX_SIZE => Ok(()),
            _ => Err(Self::new(field, size, format!("1 to {MAX_SIZE}"))),
        }
    }

    /// Checks that a number of layers is neither 0 nor absurd.
    ///
    /// # Errors
    /// Names the field.
    pub fn check_layers(field: &str, layers: usize) -> Result<(), Self> {
        match layers {
            1..=MAX_LAYERS => Ok(()),
            _ => Err(Self::new(field, layers, format!("1 to {MAX_LAYERS}"))),
        }
    }

    /// Checks what a norm adds to a variance.
    ///
    /// # Errors
    /// Names the field.
    pub fn check_epsilon(field: &str, epsilon: f64) -> Result<(), Self> {
        if (1e-12..=1.0).contains(&epsilon) {
            Ok(())
        } else {
            Err(Self::new(field, epsilon, "1e-12 to 1"))
        }
    }

    /// Checks that a field has the only value that goes with the others.
    ///
    /// # Errors
    /// Names the field.
    pub fn check_equal(field: &str, found: usize, expected: usize) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self::new(field, found, expected.to_string())) }
    }

    /// Checks that `size` is a multiple of another field's value.
    ///
    /// # Errors
    /// Names both fields.
    pub fn check_multiple(field: &str, size: usize, of: &str, unit: usize) -> Result<(), Self> {
        if unit > 0 && size.is_multiple_of(unit) {
            return Ok(());
        }
        Err(Self::new(field, size, format!("a multiple of {of}, which is {unit}")))
    }
}
