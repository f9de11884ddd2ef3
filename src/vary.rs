//! Pictures to variations of them.

use std::iter::repeat;

use image::RgbImage;
use unclip_core::{ImageEmbedding, InvalidSetting, TextEmbedding, normalize};
use unclip_decoder::Condition;

use crate::pipeline::{Embedded, finish};
use crate::priors::{check_share, no_negative, share_of, starting};
use crate::recipe::MadeBy;
use crate::square::check_pictures;
use crate::{
    Bundle, Cropped, Error, GenerateOptions, Generated, Observed, PriorSettings, Run, Settings,
    StageId, Start, UnClip,
};

/// What goes into a variation beside the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variation<'a> {
    /// A caption that counts beside the picture; by default the empty one.
    pub caption: &'a str,
    /// How much the picture counts, from 0, where the caption alone is drawn, to 1, the default.
    /// Between them the decoder gets an embedding on the way from what the prior makes of the
    /// caption to the picture's.
    pub strength: f64,
    /// Whether the picture's embedding goes through the prior, in the place of the caption's: it
    /// draws another picture's that may go with it. By default not.
    pub through_prior: bool,
    /// The share of the prior's steps that take a noisy version of the picture's embedding toward the
    /// caption, above 0 and up to 1 (Kandinsky's prior from embeddings, whose default is 0.3). By
    /// default none.
    pub prior_strength: Option<f64>,
}

impl Default for Variation<'_> {
    fn default() -> Self {
        Self { caption: "", strength: 1.0, through_prior: false, prior_strength: None }
    }
}

impl Variation<'_> {
    /// Whether the prior has a part in it.
    pub fn has_prior(&self) -> bool {
        self.priors() > 0
    }

    /// How many times the prior runs.
    fn priors(&self) -> usize {
        let way = self.through_prior || self.prior_strength.is_some();
        usize::from(way) + usize::from(self.strength < 1.0)
    }

    /// Reverse steps of the prior, all runs together.
    fn prior_steps(&self, settings: &Settings) -> usize {
        let Some(prior) = &settings.prior else { return 0 };
        let once = prior.steps() * settings.candidates;
        let way = match self.prior_strength {
            Some(share) => share_of(prior.steps(), share),
            None if self.through_prior => once,
            None => 0,
        };
        way + if self.strength < 1.0 { once } else { 0 }
    }

    /// Refuses ways through the prior that exclude each other.
    fn check_ways(
        &self,
        settings: &Settings,
        options: &GenerateOptions,
        bundle: &Bundle,
    ) -> Result<(), InvalidSetting> {
        let Some(share) = self.prior_strength else { return Ok(()) };
        check_share("strength of the prior", share)?;
        settings.prior.as_ref().map(starting).transpose()?;
        let negative = &options.negative_prompt;
        let needs = bundle.decoder.config().needs_null_image() && settings.decoder.is_guided();
        if !negative.is_empty() && needs && options.negative_image.is_none() {
            return Err(no_negative(negative));
        }
        if self.through_prior {
            let expected = "absent: the embedding goes through the prior in one way or the other";
            return Err(InvalidSetting::new("strength of the prior", share, expected));
        }
        if self.strength == 1.0 && settings.candidates > 1 {
            let expected = "1: a prior that starts from a picture draws one embedding";
            return Err(InvalidSetting::new("candidates", settings.candidates, expected));
        }
        Ok(())
    }

    /// The settings, with those of the prior if it has a part.
    fn settings(&self, options: &GenerateOptions, unclip: &UnClip) -> Result<Settings, Error> {
        InvalidSetting::check_range("strength of the picture", self.strength, 0.0, 1.0)?;
        let has_way = self.through_prior || self.prior_strength.is_some();
        if has_way && self.strength == 0.0 {
            let expected = "above 0: of a picture that does not count there is nothing to draw";
            return Err(InvalidSetting::new("strength of the picture", 0, expected).into());
        }
        let bundle = &unclip.bundle;
        let settings = options.resolve(bundle)?;
        let settings = match (self.priors(), &settings.prior) {
            (0, _) => {
                options.expect_no_prior("a variation of full strength has no prior")?;
                settings.without_prior()
            }
            (_, None) => return Err(bundle.lacks(StageId::Prior)),
            (_, Some(_)) => settings,
        };
        settings.check_negatives(options, bundle)?;
        self.check_ways(&settings, options, bundle)?;
        settings.check_caption(self.caption)?;
        if self.priors() == 0 {
            bundle.check_caption(self.caption)?;
        }
        Ok(settings)
    }
}

impl UnClip {
    /// Makes variations of pictures: each is embedded, and decoded again from noise. What the
    /// embedding holds (things, style) stays; what it does not hold (places, details) changes.
    ///
    /// All variations of the first picture come first, then those of the next. Pictures may differ
    /// in size.
    ///
    /// # Example
    /// ```no_run
    /// use unclip::{GenerateOptions, UnClip, device, read_picture};
    ///
    /// let unclip = UnClip::shapes(&device("flex")?)?;
    /// let pictures = [read_picture("picture.png")?];
    /// let made = unclip.image_variation(&pictures, &GenerateOptions::default().with_n(4))?;
    /// # Ok::<(), unclip::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`text_to_image`](Self::text_to_image); a model without an image encoder; a picture that
    /// cannot be fitted into a square; options of the prior, which is not used.
    pub fn image_variation(
        &self,
        pictures: &[RgbImage],
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        self.vary(pictures, &Variation::default(), options)
    }

    /// As [`image_variation`](Self::image_variation), with a caption beside the picture, less of
    /// the picture, or by way of the prior.
    ///
    /// # Errors
    /// As there; a strength outside 0 to 1; a model without a prior, if one is needed.
    pub fn vary(
        &self,
        pictures: &[RgbImage],
        variation: &Variation<'_>,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        self.quietly().vary(pictures, variation, options)
    }

    /// The embeddings that [`vary`](Self::vary) decodes for the seed, for pictures of these
    /// embeddings, one row each.
    ///
    /// # Errors
    /// As there.
    pub fn reimagine(
        &self,
        image: &ImageEmbedding,
        variation: &Variation<'_>,
        options: &GenerateOptions,
    ) -> Result<ImageEmbedding, Error> {
        self.quietly().reimagine(image, variation, options)
    }
}

impl Observed<'_> {
    /// See [`UnClip::image_variation`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn image_variation(
        self,
        pictures: &[RgbImage],
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        self.vary(pictures, &Variation::default(), options)
    }

    /// See [`UnClip::vary`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn vary(
        self,
        pictures: &[RgbImage],
        variation: &Variation<'_>,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        let unclip = self.unclip;
        let seeds = options.seeds(pictures.len())?;
        options.check_control(&unclip.bundle)?;
        let settings = variation.settings(options, unclip)?;
        check_pictures(pictures)?;
        let (bundle, prior) = (&unclip.bundle, settings.prior.as_ref());
        let made_by = MadeBy::of(bundle, unclip.placement.precision, true, &settings)?;
        unclip.check_memory(seeds.len(), options)?;
        let Embedded { pixels, image, cost } = unclip.embed(pictures)?;
        let rows = image.repeat_rows(options.n);
        let once = prior.map_or(0, |prior| prior.steps() * settings.candidates);
        let steps = settings.steps() - once + variation.prior_steps(&settings);
        let mut run = self.start(&seeds, options, steps)?;
        run.costs.push(cost);
        run.trace.pixels = Some(pixels);
        run.trace.image = Some(image);
        run.wants_negative = settings.decoder.is_guided();
        let caption = &[variation.caption];
        let (text, read) = match prior {
            Some(_) => {
                let text = run.encode(caption)?;
                let read = run.encode_for_prior(caption, Some(&text))?;
                (Some(text.repeat_rows(seeds.len())), Some(read.repeat_rows(seeds.len())))
            }
            None => (run.decoder_caption(variation.caption)?, None),
        };
        // of one caption there is one end
        run.dropped.retain(Option::is_some);
        let image = match (prior, &read) {
            (Some(prior), Some(read)) => {
                run.varied(rows, read, variation, (prior, settings.candidates))?
            }
            _ => rows,
        };
        let condition = Condition { text, ..Condition::of_image(image) };
        let encoder = bundle.image_encoder()?.config();
        let cropped = pictures.iter().map(|picture| Cropped::of(encoder, picture)).collect();
        let made = finish(
            run,
            (&condition, Start::default()),
            (&made_by, options, &settings),
            repeat(variation.caption),
        )?;
        let mut made = Generated { cropped, ..made };
        for picture in &mut made.pictures {
            picture.recipe.strength = variation.strength;
            picture.recipe.through_prior = variation.through_prior;
            picture.recipe.prior_strength = variation.prior_strength;
        }
        Ok(made)
    }

    /// See [`UnClip::reimagine`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn reimagine(
        self,
        image: &ImageEmbedding,
        variation: &Variation<'_>,
        options: &GenerateOptions,
    ) -> Result<ImageEmbedding, Error> {
        let (found, width) = (image.0.dims(), self.unclip.bundle.d_embedding());
        if found[1] != width {
            let name = "width of the image embeddings";
            return Err(InvalidSetting::new(name, found[1], width.to_string()).into());
        }
        options.expect_one_each()?;
        let settings = variation.settings(options, self.unclip)?;
        let seeds = options.seeds(image.batch())?;
        let (prior, candidates) = (settings.prior.as_ref(), settings.candidates);
        let steps = variation.prior_steps(&settings);
        let mut run = self.start(&seeds, options, steps)?;
        run.wants_negative = false;
        let Some(prior) = prior else { return Ok(image.clone()) };
        let text = run.encode_for_prior(&[variation.caption], None)?.repeat_rows(seeds.len());
        run.varied(image.clone(), &text, variation, (prior, candidates))
    }
}

impl Run<'_> {
    /// What the decoder gets of pictures, one row for each seed.
    fn varied(
        &mut self,
        mut image: ImageEmbedding,
        text: &TextEmbedding,
        variation: &Variation<'_>,
        (prior, candidates): (&PriorSettings, usize),
    ) -> Result<ImageEmbedding, Error> {
        if variation.through_prior {
            // the picture's direction, as long as captions are: CLIP compares directions alone
            let length = text.pooled.clone().powf_scalar(2.0).sum_dim(1).sqrt();
            let pooled = normalize(image.0) * length;
            let likeness = TextEmbedding { pooled, ..text.clone() };
            image = self.best_prior(&likeness, prior, candidates)?;
        }
        if let Some(strength) = variation.prior_strength {
            image = self.prior_from(&image, text, prior, strength)?;
        }
        if variation.strength == 1.0 {
            return Ok(image);
        }
        let said = self.best_prior(text, prior, candidates)?;
        if variation.strength == 0.0 {
            return Ok(said);
        }
        let image = said.between(&image, variation.strength)?;
        self.trace.prior = Some(image.clone());
        Ok(image)
    }
}
