//! What is wrong with a network's sizes.

/// Sizes beyond this are refused before anything is allocated.
const MAX_SIZE: usize = 1 << 20;

/// Stacks of more layers are refused before anything is allocated.
const MAX_LAYERS: usize = 1 << 10;

/// A field of a configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found}, expected {expected}")]
pub struct ConfigError {
    /// Name of the field, as the configuration file spells it.
    pub field: String,
    /// Its value.
    pub found: String,
    /// What would have been accepted.
    pub expected: String,
}

impl ConfigError {
    /// Builds the error from anything that displays.
    pub fn new(
        field: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), found: found.to_string(), expected: expected.into() }
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

    /// Checks that a field has the only value that goes with the others.
    ///
    /// # Errors
    /// Names the field.
    pub fn check_equal(field: &str, found: usize, expected: usize) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self::new(field, found, expected.to_string())) }
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
