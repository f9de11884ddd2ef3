//! Checks that the sizes of a network are usable. Every error names the field.

use unclip_core::InvalidSetting;

/// Sizes beyond this are refused before anything is allocated.
const MAX_SIZE: usize = 1 << 20;

/// Stacks of more layers are refused before anything is allocated.
const MAX_LAYERS: usize = 1 << 10;

/// Checks that a size is neither 0 nor absurdly large.
///
/// # Errors
/// Names the field.
pub fn size(field: &str, size: usize) -> Result<(), InvalidSetting> {
    match size {
        1..=MAX_SIZE => Ok(()),
        _ => Err(InvalidSetting::new(field, size, format!("1 to {MAX_SIZE}"))),
    }
}

/// Checks that a number of layers is neither 0 nor absurdly large.
///
/// # Errors
/// Names the field.
pub fn layers(field: &str, layers: usize) -> Result<(), InvalidSetting> {
    match layers {
        1..=MAX_LAYERS => Ok(()),
        _ => Err(InvalidSetting::new(field, layers, format!("1 to {MAX_LAYERS}"))),
    }
}

/// Checks the epsilon that a norm adds to a variance.
///
/// # Errors
/// Names the field.
pub fn epsilon(field: &str, epsilon: f64) -> Result<(), InvalidSetting> {
    if (1e-12..=1.0).contains(&epsilon) {
        Ok(())
    } else {
        Err(InvalidSetting::new(field, epsilon, "1e-12 to 1"))
    }
}

/// Checks that a field has the one value that fits the others.
///
/// # Errors
/// Names the field.
pub fn equal(field: &str, found: usize, expected: usize) -> Result<(), InvalidSetting> {
    if found == expected {
        Ok(())
    } else {
        Err(InvalidSetting::new(field, found, expected.to_string()))
    }
}

/// Checks that `size` is a multiple of another field's value.
///
/// # Errors
/// Names both fields.
pub fn multiple(field: &str, size: usize, of: &str, unit: usize) -> Result<(), InvalidSetting> {
    if unit > 0 && size.is_multiple_of(unit) {
        return Ok(());
    }
    Err(InvalidSetting::new(field, size, format!("a multiple of {of}, which is {unit}")))
}
