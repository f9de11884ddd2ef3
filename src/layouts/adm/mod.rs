//! ADM (guided-diffusion) in the files of its own code, converted to safetensors.
//!
//! ```text
//! 64x64_diffusion.safetensors     a U-Net of classes; or 128x128_, 256x256_, 512x512_, of one kind
//!                                 256x256_diffusion_uncond, lsun_bedroom, lsun_cat, lsun_horse, …
//! 64x64_classifier.safetensors    guides it, if it is there; of the same size
//! 64_256_upsampler.safetensors    64 to 256 pixels; or 128_512_upsampler, if it is there
//! classes.txt                     names of the classes, a line each, if they are there
//! ```
//! There are no configurations: the sizes are in the README's commands. Sizes that tensor shapes
//! reveal are taken from them; the rest is what ADM published for the file of this name.

mod names;
mod networks;

use std::path::Path;

use unclip_core::InvalidSetting;
use unclip_decoder::{ClassifierConfig, DecoderConfig};
use unclip_nn::checkpoint::StageFiles;

use super::classes::class_names;
use super::layout::Layout;
use super::original::shapes::Shapes;
use super::original::unet::unet;
use super::original::{is_there, stage, weights};
use crate::bundle::{Parts, Upsampling};
use crate::{Error, OpenOptions};
use networks::{DRAWING, Drawing, UPSAMPLING, UpsamplingOf};

pub(super) struct Adm;

impl Layout for Adm {
    fn name(&self) -> &'static str {
        "adm"
    }

    /// Whether it has a U-Net of one of the published names, converted or not.
    fn recognizes(&self, folder: &Path) -> bool {
        let of_upsampler = UPSAMPLING.iter().map(|it| it.name);
        DRAWING.iter().map(|it| it.name).chain(of_upsampler).any(|name| is_there(folder, name))
    }

    fn open(&self, folder: &Path, options: &OpenOptions) -> Result<Parts, Error> {
        if let Some(padding) = options.padding {
            let expected = "absent: this model reads no captions";
            return Err(InvalidSetting::new("padding", padding, expected).into());
        }
        let drawing = the_one(folder)?;
        let decoder = decoder(folder, drawing)?;
        let classifier = classifier(folder, drawing)?;
        let upsamplers = UPSAMPLING.iter().filter(|it| is_there(folder, it.name));
        let upsamplers: Vec<&UpsamplingOf> = upsamplers.collect();
        if let Some(other) = upsamplers.iter().find(|it| it.from != drawing.side) {
            let expected =
                format!("absent, or one of {} pixels, beside {}", drawing.side, drawing.name);
            return Err(InvalidSetting::new("upsampler", other.name, expected).into());
        }
        Ok(Parts {
            class_names: class_names(folder)?,
            classifier,
            upsamplers: (upsamplers.into_iter())
                .map(|it| upsampler(folder, it))
                .collect::<Result<_, _>>()?,
            ..Parts::of(decoder)
        })
    }
}

/// What the one file that draws is.
fn the_one(folder: &Path) -> Result<&'static Drawing, InvalidSetting> {
    let found: Vec<&Drawing> = DRAWING.iter().filter(|it| is_there(folder, it.name)).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let names: Vec<&str> = DRAWING.iter().map(|it| it.name).collect();
            let (name, expected) = (format!("files in {}", folder.display()), names.join(", "));
            Err(InvalidSetting::new(name, "an upsampler alone", format!("one of {expected} too")))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|it| it.name).collect();
            let name = format!("files in {}", folder.display());
            let expected =
                "one of them: put each into a folder of its own, with what belongs to it";
            Err(InvalidSetting::new(name, names.join(", "), expected))
        }
    }
}

fn decoder(folder: &Path, drawing: &Drawing) -> Result<StageFiles<DecoderConfig>, Error> {
    let weights = weights(folder, drawing.name)?;
    let shapes = Shapes::of(&weights, "");
    let names = shapes.unet_names(drawing.heads)?;
    let config = networks::decoder(drawing, &shapes, unet(&shapes, &names, drawing.side)?)?;
    stage(config, names::unet(weights, &names, names::CONDITIONER)?)
}

/// The classifier for pictures of this size, if it is there.
fn classifier(
    folder: &Path,
    drawing: &Drawing,
) -> Result<Option<StageFiles<ClassifierConfig>>, Error> {
    let name = |side: usize| format!("{side}x{side}_classifier");
    let own = drawing.classified.then(|| name(drawing.side));
    let others = networks::CLASSIFIED.into_iter().map(name).filter(|it| Some(it) != own.as_ref());
    if let Some(other) = others.into_iter().find(|it| is_there(folder, it)) {
        let expected = match &own {
            Some(own) => format!("absent: {own} is that of {}", drawing.name),
            None => format!("absent: {} has none", drawing.name),
        };
        return Err(InvalidSetting::new("classifier", other, expected).into());
    }
    let Some(name) = own.filter(|name| is_there(folder, name)) else { return Ok(None) };
    let side = drawing.side;
    let weights = weights(folder, &name)?;
    let shapes = Shapes::of(&weights, "");
    let names = networks::encoder_names(&shapes, side)?;
    let config = networks::classifier(drawing, &shapes, &names)?;
    stage(config, names::classifier(weights, &names)?).map(Some)
}

fn upsampler(folder: &Path, of: &UpsamplingOf) -> Result<Upsampling, Error> {
    let weights = weights(folder, of.name)?;
    let shapes = Shapes::of(&weights, "");
    let names = shapes.unet_names(of.heads)?;
    let config = networks::upsampler(of, &shapes, unet(&shapes, &names, of.from * of.factor)?)?;
    Ok((stage(config, names::unet(weights, &names, "")?)?, None))
}
