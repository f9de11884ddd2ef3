//! Pictures of which a part is drawn anew, or all of it from a noisy version.

use burn::tensor::{Tensor, TensorData};
use image::{GrayImage, RgbImage};
use unclip_core::image::{to_rgb, to_tensor};
use unclip_core::resize::bicubic_8bit;
use unclip_core::{Ddim, Kept, Limit, Resampling};
use unclip_decoder::{CaptionKind, Condition, Control};

use crate::bundle::missing;
use crate::hole::{KeptPicture, Square, with_larger_hole};
use crate::loops::check_walk;
use crate::pipeline::finish;
use crate::priors::{check_share, share_of};
use crate::recipe::MadeBy;
use crate::square::check_pictures;
use crate::{
    Error, GenerateOptions, Generated, Observed, Picture, Recipe, Run, Settings, StageId, Start,
    UnClip,
};

/// What an edited picture shows.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// What a caption says, by way of the prior.
    Caption(&'a str),
    /// What a picture shows.
    Picture(&'a RgbImage),
    /// What a picture shows, with a caption beside it.
    Both(&'a str, &'a RgbImage),
}

impl UnClip {
    /// Draws a part of a picture anew: where `mask` is white (128 and more). All other pixels of
    /// the result are the picture's own, at its own size; they guide what is drawn, by RePaint's
    /// resampling (Lugmayr et al. 2022).
    ///
    /// A decoder that was trained for it ([`Control::Kept`]) is told what is kept. Without a
    /// resampling, it walks down once; others walk by the default one. Where none is asked for, a model
    /// whose own sampler remembers steps (PLMS) is walked by DDIM.
    ///
    /// The decoder sees the square in the middle, in which the mask has to lie. A mask without
    /// white gives the picture back, and one that is all white a new one. `n` results, each with
    /// its seed.
    ///
    /// # Errors
    /// As [`text_to_image`](Self::text_to_image) and [`image_variation`](Self::image_variation), as
    /// far as the subject asks for it; a mask of another size than the picture, or with white
    /// beyond the square; a decoder's sampler that may remember steps; recorded noise of a
    /// resampling; a size.
    pub fn inpaint(
        &self,
        (picture, mask): (&RgbImage, &GrayImage),
        subject: Subject<'_>,
        resampling: Option<Resampling>,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        self.quietly().inpaint((picture, mask), subject, resampling, options)
    }

    /// Draws a picture again from a noisy version of it. A `strength` of 1 starts from pure noise,
    /// and one near 0 changes little: that share of the decoder's steps is taken, at least one.
    ///
    /// # Errors
    /// As [`inpaint`](Self::inpaint), apart from masks and samplers; a strength outside (0, 1].
    pub fn image_to_image(
        &self,
        picture: &RgbImage,
        strength: f64,
        subject: Subject<'_>,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        self.quietly().image_to_image(picture, strength, subject, options)
    }
}

impl Observed<'_> {
    /// See [`UnClip::inpaint`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn inpaint(
        self,
        (picture, mask): (&RgbImage, &GrayImage),
        subject: Subject<'_>,
        resampling: Option<Resampling>,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        check_pictures(std::slice::from_ref(picture))?;
        let square = Square::of(picture);
        square.check(picture, mask)?;
        options.expect_no_size("an edit has the size of its picture")?;
        let unclip = self.unclip;
        let is_trained = unclip.bundle.control() == Some(Control::Kept);
        resampling.map_or(Ok(()), |it| it.validate())?;
        // as the references do: Kandinsky 2.1's decoder is told what is kept, and draws it as well;
        // GLIDE's puts it into each of its predictions
        let kind = unclip.bundle.decoder.config().captions;
        let draws_all = is_trained && kind != CaptionKind::Masked;
        // a trained decoder that never goes back has no resampling
        let resampling = resampling
            .or((!is_trained).then(Resampling::default))
            .filter(|it| !(is_trained && it.times == 1));
        let walks = !draws_all || resampling.is_some();
        let options = &if walks { without_memory(options, unclip) } else { options.clone() };
        let seeds = options.seeds(1)?;
        // each result is as large as the picture
        let bytes = (picture.as_raw().len() as u64).saturating_mul(seeds.len() as u64);
        Limit::MemoryBytes.check("memory of all results", bytes)?;
        let settings = subject.settings(options, unclip)?;
        if walks {
            check_walk(&settings.decoder.sampler, options.noise.as_deref(), resampling)?;
        }
        let steps = settings.steps() - settings.decoder.steps;
        let steps = steps + resampling.unwrap_or(Resampling::NONE).calls(settings.decoder.steps);
        let made_by = subject.made_by(unclip, (options, &settings))?;
        let mut run = self.start(&seeds, options, steps)?;
        let mut condition = subject.condition(&mut run, unclip, &settings)?;
        let kept = run.kept_of((&square, picture, mask), is_trained)?;
        if is_trained {
            let mask = kept.mask.clone().narrow(1, 0, 1);
            let known = kept.x_0.clone() * kept.mask.clone();
            condition.control = Some(Tensor::cat(vec![known, mask], 1));
        }
        let bound = run.bind_decoder(&condition, &settings.decoder)?;
        let sample = if walks {
            run.inpaint(&bound, &kept, resampling)?
        } else {
            run.sample(&bound, Start::default())?
        };
        drop(bound);
        let pictures = run.pictures(sample)?;
        let pictures = run.upsample(pictures, &settings.upsamplers)?;
        let recipe = |(row, &seed): (usize, &u64)| {
            let recipe = Recipe::new(&made_by, options, &settings, subject.caption(), (seed, row));
            Recipe { incomplete: true, ..recipe }
        };
        let recipes = run.seeds.iter().enumerate().map(recipe);
        let pictures = to_rgb(pictures).into_iter().zip(recipes).map(|(drawn, recipe)| Picture {
            image: square.put_into(picture, mask, &drawn),
            recipe,
        });
        Ok(Generated::of(pictures.collect(), run))
    }

    /// See [`UnClip::image_to_image`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn image_to_image(
        self,
        picture: &RgbImage,
        strength: f64,
        subject: Subject<'_>,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        check_share("strength", strength)?;
        check_pictures(std::slice::from_ref(picture))?;
        options.expect_no_size("an edit has the size of its picture")?;
        let unclip = self.unclip;
        let seeds = options.seeds(1)?;
        let settings = subject.settings(options, unclip)?;
        let steps = share_of(settings.decoder.steps, strength);
        let made_by = subject.made_by(unclip, (options, &settings))?;
        let total = settings.steps() - settings.decoder.steps + steps;
        let side = unclip.bundle.small_size() as u32;
        let small = bicubic_8bit(&Square::of(picture).cut(picture), side, side);
        let mut run = self.start(&seeds, options, total)?;
        let x_0 = run.samples_of(to_tensor(&[small], &unclip.device()))?;
        let condition = subject.condition(&mut run, unclip, &settings)?;
        let x_0 = Some(x_0.repeat_dim(0, seeds.len()));
        let start = Start { x_0, steps: Some(steps), ..Start::default() };
        let captions = std::iter::repeat(subject.caption());
        let made = (&made_by, options, &settings);
        let mut made = finish(run, (&condition, start), made, captions)?;
        made.pictures.iter_mut().for_each(|picture| picture.recipe.incomplete = true);
        Ok(made)
    }
}

/// The options, with a sampler that an inpainting can walk by where the model's own cannot.
fn without_memory(options: &GenerateOptions, unclip: &UnClip) -> GenerateOptions {
    let mut options = options.clone();
    let own = &unclip.bundle.decoder.config().diffusion.sampler;
    if own.remembers_steps() {
        options.decoder.sampler.get_or_insert(Ddim { eta: 0.0 }.into());
    }
    options
}

impl Run<'_> {
    /// What stays of a picture, as the decoder samples it, one row for each seed. A decoder that was
    /// trained for it saw latents of whole pictures, and larger holes in them.
    fn kept_of(
        &mut self,
        (square, picture, mask): (&Square, &RgbImage, &GrayImage),
        is_trained: bool,
    ) -> Result<Kept<4>, Error> {
        let (bundle, device) = (self.bundle, self.placement.device.clone());
        let side = bundle.small_size();
        let cut =
            if is_trained { square.cut(picture) } else { square.without_hole(picture, mask, side) };
        let small = to_tensor(&[bicubic_8bit(&cut, side as u32, side as u32)], &device);
        let x_0 = self.samples_of(small)?.repeat_dim(0, self.seeds.len());
        // of a latent, all is drawn on which some of the hole lies
        let side = bundle.decoder.config().unet.image_size();
        let mut mask = square.small_mask(mask, side);
        if is_trained && bundle.decoder.config().reads_images() {
            mask = with_larger_hole(&mask, side);
        }
        self.kept = Some(KeptPicture { square: square.cut(picture), mask: mask.clone() });
        let mask = Tensor::<4>::from_data(TensorData::new(mask, [1, 1, side, side]), &device);
        Ok(Kept { mask: mask.expand(x_0.dims()), x_0, noise: None })
    }
}

impl Subject<'_> {
    fn caption(&self) -> &str {
        match self {
            Self::Caption(caption) | Self::Both(caption, _) => caption,
            Self::Picture(_) => "",
        }
    }

    /// Whether the prior has a part in it.
    fn has_caption(&self) -> bool {
        matches!(self, Self::Caption(_))
    }

    fn made_by(
        &self,
        unclip: &UnClip,
        (options, settings): (&GenerateOptions, &Settings),
    ) -> Result<MadeBy, Error> {
        let precision = unclip.placement.precision;
        let sees = !self.has_caption() || settings.leads_from_blank(options, &unclip.bundle);
        MadeBy::of(&unclip.bundle, precision, sees, settings)
    }

    /// The settings, without those of stages that have no part in it.
    fn settings(&self, options: &GenerateOptions, unclip: &UnClip) -> Result<Settings, Error> {
        let mut settings = options.resolve(&unclip.bundle)?;
        if !self.has_caption() {
            options.expect_no_prior("only a caption alone has a prior")?;
            settings = settings.without_prior();
        }
        options.check_control(&unclip.bundle)?;
        settings.check_negatives(options, &unclip.bundle)?;
        settings.check_caption(self.caption())?;
        if self.has_caption() {
            settings = settings.for_subjects(&[self.caption()], options, &unclip.bundle)?;
        } else {
            unclip.bundle.image_encoder()?;
            unclip.bundle.check_caption(self.caption())?;
        }
        Ok(settings)
    }

    /// The decoder's condition, one row for each seed.
    fn condition(
        &self,
        run: &mut Run<'_>,
        unclip: &UnClip,
        settings: &Settings,
    ) -> Result<Condition, Error> {
        let rows = run.seeds.len();
        run.wants_negative = settings.decoder.is_guided();
        if !unclip.bundle.decoder.config().reads_images() {
            return run.condition_of(&[self.caption()], rows);
        }
        let (text, encoded) = if self.has_caption() {
            let text = run.encode(&[self.caption()])?;
            (Some(text.repeat_rows(rows)), Some(text))
        } else {
            (run.decoder_caption(self.caption())?, None)
        };
        let image = match (self, &settings.prior) {
            (Self::Picture(picture) | Self::Both(_, picture), _) => {
                check_pictures(std::slice::from_ref(picture))?;
                unclip.embed(std::slice::from_ref(picture))?.image.repeat_rows(rows)
            }
            (Self::Caption(caption), Some(prior)) => {
                let read = run.encode_for_prior(&[*caption], encoded.as_ref())?.repeat_rows(rows);
                run.best_prior(&read, prior, settings.candidates)?
            }
            (Self::Caption(_), None) => {
                return Err(missing(&unclip.bundle.origin, StageId::Prior));
            }
        };
        Ok(Condition { text, ..Condition::of_image(image) })
    }
}
