//! What the examples share that edit a picture: what it is to show, masks.

use std::path::Path;

use clap::Args;
use unclip::image::GrayImage;
use unclip::image::imageops::grayscale;
use unclip::{GenerateOptions, ReadOptions, Resampling, RgbImage, StageOptions, Subject};

use super::Studio;
use crate::console::{AnyError, note};

/// Options of every edit.
#[derive(Debug, Args)]
pub(crate) struct Edit {
    /// What the result shows [default: what the picture shows]
    caption: Option<String>,
    /// Let the picture's own embedding count beside the caption
    #[arg(long, requires = "caption")]
    keep_subject: bool,
    /// Number of results, each with its seed
    #[arg(long, default_value_t = 1)]
    n: usize,
    /// Reverse steps of the prior
    #[arg(long, value_name = "N")]
    prior_steps: Option<usize>,
    /// Steps after which noise is added again, so that new and old find together [default: 5]
    #[arg(long, value_name = "STEPS")]
    jump: Option<usize>,
    /// How often each stretch between is walked [default: 4]
    #[arg(long, value_name = "N")]
    resample: Option<usize>,
}

impl Edit {
    /// What the result shows.
    pub(crate) fn subject<'a>(&'a self, picture: &'a RgbImage) -> Subject<'a> {
        match (&self.caption, self.keep_subject) {
            (None, _) => Subject::Picture(picture),
            (Some(caption), false) => Subject::Caption(caption),
            (Some(caption), true) => Subject::Both(caption, picture),
        }
    }

    pub(crate) fn resampling(&self) -> Resampling {
        let default = Resampling::default();
        Resampling {
            jump: self.jump.unwrap_or(default.jump),
            times: self.resample.unwrap_or(default.times),
        }
    }

    /// For edits that draw everything.
    pub(crate) fn refuse_resampling(&self) -> Result<(), AnyError> {
        match (self.jump, self.resample) {
            (None, None) => Ok(()),
            _ => Err("--jump and --resample are for inpainting, expected neither".into()),
        }
    }

    pub(crate) fn options(&self, studio: &Studio) -> GenerateOptions {
        let mut prior = StageOptions::default();
        prior.steps = self.prior_steps;
        studio.options.clone().with_n(self.n).with_prior(prior).with_decoder(studio.decoder.clone())
    }
}

/// A mask: white where something new is drawn. What is transparent stays.
pub(crate) fn read_mask(path: &Path) -> Result<GrayImage, AnyError> {
    let picture = ReadOptions::default().with_background([0; 3]).read(path)?;
    picture.left_out.iter().for_each(|it| note(format_args!("{}: {it}", path.display())));
    Ok(grayscale(&picture.image))
}
