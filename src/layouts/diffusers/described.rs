//! What all descriptions of a model share: files, and errors for what they cannot hold.

use serde::Serialize;
use serde_json::{Value, json};
use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::LoadError;
use unclip_nn::{AnyUNetConfig, UNetConfig};

use crate::{Bundle, Error};

/// A configuration file: its place in the folder, and what stands in it.
pub(in crate::layouts) type File = (&'static str, Value);

/// The error for what diffusers cannot hold.
pub(in crate::layouts) fn refused(bundle: &Bundle, stage: &str, error: InvalidSetting) -> Error {
    let path = bundle.origin.join(stage);
    LoadError::Config { path, source: error }.into()
}

/// Refuses a field unless it has the only value that diffusers' class has.
pub(in crate::layouts) fn require<T: PartialEq + Serialize>(
    field: &str,
    found: T,
    expected: T,
    class: &str,
) -> Result<(), InvalidSetting> {
    if found == expected {
        Ok(())
    } else {
        let expected = format!("{}: diffusers' {class} has no other", json!(expected));
        Err(InvalidSetting::new(field, json!(found), expected))
    }
}

/// The sizes of a U-Net that diffusers has, which is one of ADM's family.
pub(in crate::layouts) fn adm(unet: &AnyUNetConfig) -> Result<&UNetConfig, InvalidSetting> {
    unet.adm().ok_or_else(|| {
        let expected = "one of ADM's family: diffusers has no other";
        InvalidSetting::new("unet", "a U-Net of DALLE2-pytorch", expected)
    })
}
