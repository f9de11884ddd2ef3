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
    /// What the result shows; of a model of classes, one of them [default: what the picture shows,
    /// of a model with an image encoder]
    caption: Option<String>,
    /// Draw by the picture's own embedding, with the caption beside it: the embedding counts for
    /// more
    #[arg(long, requires = "caption")]
    keep_subject: bool,
    /// Noise in the image embedding, 0 to 999, of a model that was trained with such (Stable
    /// unCLIP): more makes results less like it [default: 0]
    #[arg(long, value_name = "LEVEL", allow_negative_numbers = true)]
    noise_level: Option<usize>,
    /// Number of results, each with its seed
    #[arg(long, default_value_t = 1)]
    n: usize,
    /// Reverse steps of the prior, which has a part where there is a caption
    #[arg(long, value_name = "N", requires = "caption", conflicts_with = "keep_subject")]
    prior_steps: Option<usize>,
}

/// How new and old find together in an edit that keeps a part.
#[derive(Debug, Args)]
pub(crate) struct Repaint {
    /// Steps after which noise is added again, so that new and old find together [default: 5; of a
    /// model that was trained for inpainting, never]
    #[arg(long, value_name = "STEPS")]
    jump: Option<usize>,
    /// How often each stretch between is walked; 1 never goes back [default: 4]
    #[arg(long, value_name = "N")]
    resample: Option<usize>,
}

impl Repaint {
    pub(crate) fn resampling(&self) -> Option<Resampling> {
        let Resampling { jump, times } = Resampling::default();
        (self.jump.is_some() || self.resample.is_some()).then(|| Resampling {
            jump: self.jump.unwrap_or(jump),
            times: self.resample.unwrap_or(times),
        })
    }
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

    /// Refuses a number of results that no call makes, before anything else.
    pub(crate) fn check(&self) -> Result<(), AnyError> {
        GenerateOptions::default().with_n(self.n).seeds(1)?;
        Ok(())
    }

    /// Number of results.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    pub(crate) fn options(&self, studio: &Studio) -> GenerateOptions {
        studio.look_at(self.caption.as_slice());
        let mut prior = StageOptions::default();
        prior.steps = self.prior_steps;
        let mut options = studio.options.clone();
        options.noise_level = self.noise_level;
        options.with_n(self.n).with_prior(prior).with_decoder(studio.decoder.clone())
    }
}

/// A mask: white where something new is drawn. What is transparent stays.
pub(crate) fn read_mask(path: &Path) -> Result<GrayImage, AnyError> {
    let read = ReadOptions::default().with_background([0; 3]).read(path);
    let picture = read.map_err(|error| format!("mask {error}"))?;
    picture.left_out.iter().for_each(|it| note(format_args!("{}: {it}", path.display())));
    let mask = grayscale(&picture.image);
    if mask.pixels().all(|pixel| pixel[0] < 128) {
        let message = "holds no white, expected some: nothing new would be drawn";
        return Err(format!("{}: {message}", path.display()).into());
    }
    Ok(mask)
}
