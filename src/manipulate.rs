//! From pictures to their latents, and from latents to pictures.

use image::RgbImage;
use unclip_core::image::to_tensor;
use unclip_core::{Ddim, ImageEmbedding, InvalidSetting};
use unclip_decoder::Condition;
use unclip_prior::DiffusionPriorConfig;

use crate::pipeline::{Embedded, finish};
use crate::recipe::MadeBy;
use crate::square::check_pictures;
use crate::{
    Error, GenerateOptions, Generated, Latents, Observed, Slot, StageId, StageOptions,
    StageSettings, Start, UnClip,
};

/// A share of the variance of pictures' embeddings that is as good as all of it, for
/// [`UnClip::keep_variance`].
pub const SHARE: f64 = 0.995;

impl UnClip {
    /// Both latents of pictures: the embedding that CLIP gives each, and the noise from which the
    /// decoder draws it under that embedding.
    ///
    /// The sampler of `options.decoder` says how the noise is found. `ddim`, the default, inverts DDIM
    /// (Dhariwal & Nichol 2021, appendix F), which is the closer the more steps there are. `belm`
    /// inverts exactly, but for round-off, which grows with the number of steps. The guidance scale
    /// is 1 if nothing is said. Of all other options, a hint alone has a part; others are refused, but
    /// for seeds, numbers and the upsamplers', which are those of what is drawn.
    ///
    /// # Example
    /// ```no_run
    /// use unclip::{GenerateOptions, StageOptions, UnClip, device, read_picture};
    ///
    /// let unclip = UnClip::shapes(&device("flex")?)?;
    /// let steps = StageOptions::default().with_steps(50);
    /// let options = GenerateOptions::default().with_decoder(steps);
    /// let latents = unclip.invert(&[read_picture("picture.png")?], &options)?;
    /// let texts = unclip.embed_texts(&["a red circle", "a blue circle"])?;
    /// let [from, to] = [0, 1].map(|row| texts.narrow(row, 1).pooled);
    /// let image = latents.image.text_diff(&from, &to, 0.4)?;
    /// let image = unclip.keep_variance(&image, unclip::SHARE)?;
    /// let made = unclip.draw(&latents.with_image(image), &GenerateOptions::default())?;
    /// made.pictures[0].save("blue.png")?;
    /// # Ok::<(), unclip::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`image_variation`](Self::image_variation), and a sampler that cannot be inverted.
    pub fn invert(
        &self,
        pictures: &[RgbImage],
        options: &GenerateOptions,
    ) -> Result<Latents, Error> {
        self.quietly().invert(pictures, options)
    }

    /// The embeddings that the prior gives captions, one row each: what [`Latents::drawn`] takes
    /// where a caption stands in the place of a picture.
    ///
    /// # Errors
    /// As [`text_to_image`](Self::text_to_image), as far as it concerns the prior: options of the
    /// decoder have no part in it.
    pub fn imagine<S: AsRef<str>>(
        &self,
        captions: &[S],
        options: &GenerateOptions,
    ) -> Result<ImageEmbedding, Error> {
        self.quietly().imagine(captions, options)
    }

    /// Image embeddings with nothing but their first `k` principal components, the loudest first
    /// (paper, section 3.4).
    ///
    /// # Errors
    /// `k` of 0 or beyond the embeddings' width; a model whose prior holds no principal components.
    pub fn keep_components(
        &self,
        image: &ImageEmbedding,
        k: usize,
    ) -> Result<ImageEmbedding, Error> {
        let slot = self.componential_prior()?;
        let width = slot.config().d_embedding;
        if !(1..=width).contains(&k) {
            let expected = format!("1 to {width}, the width of the embeddings");
            return Err(InvalidSetting::new("components", k, expected).into());
        }
        let (prior, _) = slot.network(&self.placement)?;
        Ok(prior.keep_components(image, k))
    }

    /// Image embeddings with the principal components alone that hold this share of the variance of
    /// pictures' embeddings: [`SHARE`](crate::SHARE), say. What words lead to, as in a text diff,
    /// has others beside them, which no picture has: small as they are, they confuse a decoder that
    /// reads every component alike.
    ///
    /// # Errors
    /// A share outside 0 to 1; a model whose prior holds no principal components.
    pub fn keep_variance(
        &self,
        image: &ImageEmbedding,
        share: f64,
    ) -> Result<ImageEmbedding, Error> {
        InvalidSetting::check_range("share of the variance", share, 0.0, 1.0)?;
        let (prior, _) = self.componential_prior()?.network(&self.placement)?;
        Ok(prior.keep_components(image, prior.components_holding(share)))
    }

    /// The prior, if it holds principal components.
    fn componential_prior(&self) -> Result<&Slot<DiffusionPriorConfig>, Error> {
        let slot = self.bundle().prior()?;
        if slot.config().principal_components {
            return Ok(slot);
        }
        let expected = "one whose prior whitens along principal components";
        Err(InvalidSetting::new("model", self.bundle().name(), expected).into())
    }

    /// Latents to pictures, `n` of each: all of the first, then of the next.
    ///
    /// Without options it is the way back of [`invert`](Self::invert): an unchanged picture comes
    /// back. With `ddim:ETA` as the decoder's sampler it is a variation, the farther from the
    /// picture the larger eta is. Steps and spacing are those of the latents. Every row has the
    /// same seeds, so that the upsamplers draw the same details in all frames of a sequence.
    ///
    /// # Errors
    /// As [`image_variation`](Self::image_variation); other steps or another spacing than those of
    /// the latents; recorded noise.
    pub fn draw(&self, latents: &Latents, options: &GenerateOptions) -> Result<Generated, Error> {
        self.quietly().draw(latents, options)
    }
}

impl Observed<'_> {
    /// See [`UnClip::invert`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn invert(
        self,
        pictures: &[RgbImage],
        options: &GenerateOptions,
    ) -> Result<Latents, Error> {
        check(options)?;
        options.check_control(self.unclip.bundle())?;
        let decoder = &options.decoder;
        let (unclip, bundle) = (self.unclip, self.unclip.bundle());
        let straight =
            StageOptions::default().with_sampler(Ddim { eta: 0.0 }).with_guidance_scale(1.0);
        let stage = &bundle.decoder;
        let settings =
            decoder.clone().or(straight).resolve(stage.id(), &stage.config().diffusion)?;
        bundle.check_image_guidance(decoder)?;
        let is_exact = is_exact(&settings)?;
        let least = if is_exact { 3 } else { 2 };
        if settings.steps < least {
            let expected = format!("at least {least}");
            return Err(
                InvalidSetting::new("steps of an inversion", settings.steps, expected).into()
            );
        }
        check_pictures(pictures)?;
        let Embedded { image, .. } = unclip.embed(pictures)?;
        let device = unclip.device();
        let small = pictures.iter().map(|picture| bundle.fit_small(picture, &device));
        let small = to_tensor(&small.collect::<Result<Vec<_>, _>>()?, &device);
        let seeds = vec![0; pictures.len()];
        let hint = options.hint.clone();
        let options = GenerateOptions { hint, ..GenerateOptions::default() };
        // the cleanest level stands for the picture itself
        let mut run = self.start(&seeds, &options, settings.steps + 1 - least)?;
        let small = run.samples_of(small)?;
        run.noise_level = None;
        let text = run.decoder_caption("")?;
        let condition = Condition { text, ..Condition::of_image(image.clone()) };
        let bound = run.bind_decoder(&condition, &settings)?;
        let start = if is_exact {
            run.invert_exactly(&bound, &small)?
        } else {
            Start { x_t: Some(run.invert(&bound, &small)?), ..Start::default() }
        };
        Ok(Latents { image, start, settings, caption: String::new() })
    }

    /// See [`UnClip::imagine`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn imagine<S: AsRef<str>>(
        self,
        captions: &[S],
        options: &GenerateOptions,
    ) -> Result<ImageEmbedding, Error> {
        let bundle = &self.unclip.bundle;
        let settings = options.prior_request()?.resolve(bundle)?;
        bundle.check_negative(&options.negative_prompt)?;
        if !bundle.prior_reads_negative() && !options.negative_prompt.is_empty() {
            let found = format!("{:?}", options.negative_prompt);
            let expected = "none: the prior of this model is not led by it";
            return Err(InvalidSetting::new("negative prompt", found, expected).into());
        }
        let settings = settings.ok_or_else(|| bundle.lacks(StageId::Prior))?;
        options.expect_one_each()?;
        let seeds = options.seeds(captions.len())?;
        let mut run = self.start(&seeds, options, settings.steps() * options.candidates)?;
        run.wants_negative = false;
        let text = run.encode_for_prior(captions, None)?;
        run.best_prior(&text, &settings, options.candidates)
    }

    /// See [`UnClip::draw`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn draw(self, latents: &Latents, options: &GenerateOptions) -> Result<Generated, Error> {
        let unclip = self.unclip;
        let of_latents = StageOptions::from(latents.settings.clone());
        let decoder = options.decoder.clone().or(of_latents);
        let options = GenerateOptions { decoder, ..options.clone() };
        check(&options)?;
        options.check_control(&unclip.bundle)?;
        latents.check(&unclip.bundle)?;
        let seeds = options.seeds(latents.batch())?;
        let settings = options.resolve(&unclip.bundle)?.without_prior();
        settings.check_negatives(&options, &unclip.bundle)?;
        settings.check_caption(&latents.caption)?;
        unclip.bundle.check_caption(&latents.caption)?;
        expect_steps(&settings.decoder, &latents.settings)?;
        let made_by = MadeBy::of(&unclip.bundle, unclip.placement.precision, true, &settings)?;
        let Latents { image, mut start, caption, .. } = latents.repeat_rows(options.n);
        // only the sampler that found it can undo it
        if settings.decoder.sampler != latents.settings.sampler {
            start.x_prev = None;
        }
        let left_out = settings.decoder.steps - start.steps.unwrap_or(settings.decoder.steps);
        let mut run = self.start(&seeds, &options, settings.steps() - left_out)?;
        run.trace.image = Some(image.clone());
        // an inversion has none that could come back
        run.noise_level = None;
        let text = run.decoder_caption(&caption)?;
        // of one caption there is one end
        run.dropped.retain(Option::is_some);
        let condition = (&Condition { text, ..Condition::of_image(image) }, start);
        let made = (&made_by, &options, &settings);
        let mut made = finish(run, condition, made, std::iter::repeat(caption.as_str()))?;
        made.pictures.iter_mut().for_each(|picture| picture.recipe.incomplete = true);
        Ok(made)
    }
}

/// Whether the inversion is exact.
fn is_exact(settings: &StageSettings) -> Result<bool, InvalidSetting> {
    match settings.sampler.to_string().as_str() {
        "ddim" => Ok(false),
        "belm" => Ok(true),
        other => {
            let expected = "ddim or belm, whose steps can be undone";
            Err(InvalidSetting::new("sampler of an inversion", other, expected))
        }
    }
}

/// Refuses options that have no part in it.
fn check(options: &GenerateOptions) -> Result<(), InvalidSetting> {
    options.expect_no_prior("latents have no prior")?;
    options.expect_no_size("it is that of the latents")?;
    if let Some(level) = options.noise_level {
        let expected = "absent: embeddings of latents are taken as they are";
        return Err(InvalidSetting::new("noise level", level, expected));
    }
    match &options.noise {
        Some(noise) => {
            let expected = "absent: latents are the noise";
            Err(InvalidSetting::new("recorded noise", noise.name(), expected))
        }
        None => Ok(()),
    }
}

fn expect_steps(found: &StageSettings, expected: &StageSettings) -> Result<(), InvalidSetting> {
    let of = |settings: &StageSettings| format!("{} steps, {}", settings.steps, settings.spacing);
    let (found, expected) = (of(found), of(expected));
    if found == expected {
        return Ok(());
    }
    let expected = format!("{expected}: those of the latents");
    Err(InvalidSetting::new("decoder", found, expected))
}
