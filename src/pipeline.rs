//! The assembled stages.

use std::time::Instant;

use burn::tensor::{Device, Tensor};
use image::RgbImage;
use unclip_clip::preprocess;
use unclip_core::{ImageEmbedding, InvalidSetting, Limit, TextEmbedding};
use unclip_decoder::Condition;
use unclip_nn::{Placement, is_cpu};

use crate::bundle::missing;
use crate::finite::finite;
use crate::recipe::MadeBy;
use crate::square::check_pictures;
use crate::{
    Bundle, Cropped, Error, GenerateOptions, Observer, Picture, Recipe, Run, Settings, StageCost,
    StageId, Start, TextReader, Trace,
};

/// Whether networks stay in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// All of them stay, which suits many pictures.
    Resident,
    /// Each is loaded when its turn comes and dropped afterwards, which saves memory: no two are
    /// ever loaded at once.
    OneByOne,
}

/// A model ready to make pictures. It can be shared between threads, and used again after an
/// error or a stop.
#[derive(Debug)]
pub struct UnClip {
    pub(crate) bundle: Bundle,
    pub(crate) placement: Placement,
    residency: Residency,
}

/// What a call made, and how.
#[derive(Debug)]
#[non_exhaustive]
pub struct Generated {
    /// The pictures, each with its recipe.
    pub pictures: Vec<Picture>,
    /// For each caption, the end that did not fit into the model's context, if any; of a model with two
    /// text towers, the longer of the two ends.
    pub dropped: Vec<Option<String>>,
    /// The end of the negative prompt that did not fit.
    pub dropped_negative: Option<String>,
    /// For each picture to be varied, how it was cropped to the square that the image encoder sees,
    /// if it was; empty for captions.
    pub cropped: Vec<Option<Cropped>>,
    /// What each stage cost.
    pub costs: Vec<StageCost>,
    /// What the stages passed to each other.
    pub trace: Trace,
}

impl Generated {
    /// Pictures, and what their run has to tell.
    pub(crate) fn of(pictures: Vec<Picture>, run: Run<'_>) -> Self {
        Self {
            pictures,
            dropped: run.dropped,
            dropped_negative: run.dropped_negative,
            cropped: Vec::new(),
            costs: run.costs,
            trace: run.trace,
        }
    }

    /// The pictures alone.
    pub fn images(&self) -> Vec<RgbImage> {
        self.pictures.iter().map(|picture| picture.image.clone()).collect()
    }
}

impl UnClip {
    /// Places an opened model on a device, optionally in a number format other than f32: see
    /// [`Placement`].
    ///
    /// # Errors
    /// The device does not compute in the number format; weights that are to stay in memory cannot
    /// be read.
    pub fn new(
        mut bundle: Bundle,
        placement: impl Into<Placement>,
        residency: Residency,
    ) -> Result<Self, Error> {
        let placement = placement.into();
        let Placement { device, precision } = &placement;
        if !precision.is_supported(device) {
            let expected = "a number format that the device computes in, such as f32";
            return Err(InvalidSetting::new("precision", precision, expected).into());
        }
        if residency == Residency::Resident {
            // what a GPU has is its driver's to say
            if is_cpu(&placement.device) {
                let weights = bundle.weights_of_all(placement.precision);
                Limit::MemoryBytes.check("memory of all weights", weights)?;
            }
            bundle.keep(&placement)?;
        }
        Ok(Self { bundle, placement, residency })
    }

    /// The bundled shapes model, kept in memory.
    ///
    /// # Errors
    /// See [`Bundle::shapes`].
    #[cfg(feature = "bundled")]
    pub fn shapes(device: &Device) -> Result<Self, Error> {
        Self::new(Bundle::shapes()?, device, Residency::Resident)
    }

    /// The model.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The device that the networks run on.
    pub fn device(&self) -> Device {
        self.placement.device.clone()
    }

    /// The same model with an observer, which is called after every step and may stop the work.
    ///
    /// ```no_run
    /// use std::ops::ControlFlow;
    /// use unclip::{GenerateOptions, UnClip, device};
    ///
    /// let unclip = UnClip::shapes(&device("flex")?)?;
    /// let made = unclip
    ///     .observed(&mut |event| {
    ///         println!("{} {}/{}", event.stage, event.index + 1, event.total);
    ///         ControlFlow::Continue(())
    ///     })
    ///     .text_to_image("a pink ring", &GenerateOptions::default())?;
    /// # Ok::<(), unclip::Error>(())
    /// ```
    pub fn observed<'a>(&'a self, observer: &'a mut Observer<'a>) -> Observed<'a> {
        Observed { unclip: self, observer: Some(observer) }
    }

    pub(crate) fn quietly(&self) -> Observed<'_> {
        Observed { unclip: self, observer: None }
    }

    /// Makes pictures of a caption.
    ///
    /// The empty caption gives arbitrary pictures. Of a model of classes, a caption is one of them
    /// ([`Bundle::class_of`]). A caption that is too long is cut, and
    /// [`Generated::dropped`] says what was lost.
    ///
    /// # Example
    /// ```no_run
    /// use unclip::{GenerateOptions, StageOptions, UnClip, device};
    ///
    /// let unclip = UnClip::shapes(&device("flex")?)?;
    /// let decoder = StageOptions::default().with_steps(50).with_guidance_scale(5.0);
    /// let options = GenerateOptions::default().with_seed(7).with_n(4).with_decoder(decoder);
    /// let made = unclip.text_to_image("a small green star", &options)?;
    /// unclip::Sheet::grid(&made.pictures).save("stars.png")?;
    /// # Ok::<(), unclip::Error>(())
    /// ```
    ///
    /// # Errors
    /// Options that are out of range, before anything is computed; weights that cannot be read;
    /// values that are not finite.
    pub fn text_to_image(
        &self,
        caption: &str,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        self.quietly().text_to_image(caption, options)
    }

    /// Makes pictures of several captions in one batch: all pictures of the first, then of the
    /// next. Each caption's pictures have the seeds that they would have alone.
    ///
    /// # Errors
    /// As [`text_to_image`](Self::text_to_image), and no caption.
    pub fn text_to_images<S: AsRef<str>>(
        &self,
        captions: &[S],
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        self.quietly().text_to_images(captions, options)
    }

    /// Starts a run that drives the stages one by one, with one picture for each seed.
    ///
    /// # Example
    /// ```no_run
    /// use unclip::decoder::Condition;
    /// use unclip::{GenerateOptions, UnClip, device};
    ///
    /// let unclip = UnClip::shapes(&device("flex")?)?;
    /// let settings = GenerateOptions::default().resolve(unclip.bundle())?;
    /// let mut run = unclip.run(&[7]);
    /// let text = run.encode(&["a pink ring"])?;
    /// let image = run.prior(&text, &settings.prior.expect("it has one"))?;
    /// let small = run.decode(&Condition::new(image, text), &settings.decoder)?;
    /// let large = run.upsample(small, &settings.upsamplers)?;
    /// assert_eq!(large.dims(), [1, 3, 512, 512]);
    /// # Ok::<(), unclip::Error>(())
    /// ```
    pub fn run<'a>(&'a self, seeds: &'a [u64]) -> Run<'a> {
        Run::new(&self.bundle, &self.placement, seeds)
    }

    /// CLIP's embeddings of captions, one row each.
    ///
    /// # Example
    /// How similar captions and pictures are, according to CLIP:
    /// ```no_run
    /// use unclip::unclip_core::normalize;
    /// use unclip::{UnClip, device, read_picture};
    ///
    /// let unclip = UnClip::shapes(&device("flex")?)?;
    /// let text = unclip.embed_texts(&["a pink ring", "a blue square"])?;
    /// let image = unclip.embed_images(&[read_picture("picture.png")?])?;
    /// let cosines = normalize(text.pooled).matmul(normalize(image.0).transpose());
    /// println!("{cosines}");
    /// # Ok::<(), unclip::Error>(())
    /// ```
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn embed_texts<S: AsRef<str>>(&self, captions: &[S]) -> Result<TextEmbedding, Error> {
        let TextReader { tokenizer, encoder, .. } = self.bundle.clip_text()?;
        let (tower, _) = encoder.network(&self.placement)?;
        Ok(tower.forward(&tokenizer.encode(captions), &self.placement.device))
    }

    /// CLIP's embeddings of pictures, one row each: the other way into the decoder.
    ///
    /// # Errors
    /// A model without an image encoder, weights that cannot be read, no picture, or one that
    /// cannot be fitted into a square.
    pub fn embed_images(&self, pictures: &[RgbImage]) -> Result<ImageEmbedding, Error> {
        check_pictures(pictures)?;
        Ok(self.embed(pictures)?.image)
    }

    /// Refuses what does not fit in memory. Of a task that asks for less than these options say, it is an upper
    /// limit.
    pub(crate) fn check_memory(&self, rows: usize, options: &GenerateOptions) -> Result<(), Error> {
        let Self { bundle, placement, residency } = self;
        let settings = options.resolve(bundle).ok().filter(|_| is_cpu(&placement.device));
        let Some(settings) = settings else { return Ok(()) };
        let (captions, precision) = (rows.div_ceil(options.n.max(1)), placement.precision);
        let rows = [captions, rows];
        let estimate = bundle.estimate_of(rows, &settings, options.size, precision);
        Ok(estimate.check(*residency)?)
    }

    /// Pictures that were checked, to what the image encoder makes of them.
    pub(crate) fn embed(&self, pictures: &[RgbImage]) -> Result<Embedded, Error> {
        let slot = self.bundle.image_encoder()?;
        let (tower, loading) = slot.network(&self.placement)?;
        let start = Instant::now();
        let device = &self.placement.device;
        let pixels = pictures.iter().map(|it| preprocess(slot.config(), it, device));
        let pixels = Tensor::cat(pixels.collect(), 0);
        let image = tower.forward(pixels.clone());
        let cost = StageCost::of_one_call(slot.id(), loading, start, &tower);
        let cost = cost.of_rows(pictures.len());
        Ok(Embedded { pixels, image: ImageEmbedding(finite(slot.id(), image.0)?), cost })
    }
}

/// What the image encoder makes of pictures.
pub(crate) struct Embedded {
    /// The pictures as it wants them.
    pub(crate) pixels: Tensor<4>,
    pub(crate) image: ImageEmbedding,
    pub(crate) cost: StageCost,
}

/// A model with an observer, made by [`UnClip::observed`].
pub struct Observed<'a> {
    pub(crate) unclip: &'a UnClip,
    observer: Option<&'a mut Observer<'a>>,
}

impl<'a> Observed<'a> {
    /// See [`UnClip::text_to_image`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn text_to_image(
        self,
        caption: &str,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        self.text_to_images(&[caption], options)
    }

    /// See [`UnClip::text_to_images`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn text_to_images<S: AsRef<str>>(
        self,
        captions: &[S],
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        let bundle = &self.unclip.bundle;
        let seeds = options.seeds(captions.len())?;
        let settings = options.resolve(bundle)?.for_subjects(captions, options, bundle)?;
        if settings.prior.is_none() && bundle.decoder.config().reads_images() {
            return Err(missing(&bundle.origin, StageId::Prior));
        }
        options.check_control(bundle)?;
        settings.check_negatives(options, bundle)?;
        captions.iter().try_for_each(|caption| settings.check_caption(caption.as_ref()))?;
        let precision = self.unclip.placement.precision;
        let sees = settings.leads_from_blank(options, bundle);
        let made_by = MadeBy::of(bundle, precision, sees, &settings)?;
        let mut run = self.start(&seeds, options, settings.steps())?;
        run.wants_negative = settings.decoder.is_guided();
        let condition = match &settings.prior {
            Some(prior) => {
                let text = run.encode(captions)?;
                let read = run.encode_for_prior(captions, Some(&text))?.repeat_rows(options.n);
                let image = run.best_prior(&read, prior, settings.candidates)?;
                Condition::new(image, text.repeat_rows(options.n))
            }
            None => run.condition_of(captions, options.n)?,
        };
        // names of classes are those of a file; their numbers are the model's own
        let prompts: Vec<String> = match &condition.classes {
            Some(classes) => classes.iter().map(usize::to_string).collect(),
            None => {
                let each = |caption: &S| std::iter::repeat_n(caption.as_ref().into(), options.n);
                captions.iter().flat_map(each).collect()
            }
        };
        let prompts = prompts.iter().map(String::as_str);
        finish(run, (&condition, Start::default()), (&made_by, options, &settings), prompts)
    }

    pub(crate) fn start<'b>(
        self,
        seeds: &'b [u64],
        options: &'b GenerateOptions,
        steps: usize,
    ) -> Result<Run<'b>, Error>
    where
        'a: 'b,
    {
        self.unclip.check_memory(seeds.len(), options)?;
        let mut run = self.unclip.run(seeds).with_steps(steps);
        run = run.with_negative_prompt(&options.negative_prompt);
        if let Some(guidance) = options.guiding_clip() {
            run = run.with_clip_guidance(guidance, None).with_clip_against(&options.clip_against);
        }
        run.classifier_scale = options.classifier(&self.unclip.bundle);
        if let Some(image) = &options.negative_image {
            run = run.with_negative_image(image);
        }
        if let Some(hint) = &options.hint {
            run = run.with_hint(hint);
        }
        if let Some(size) = options.size {
            run = run.with_size(size);
        }
        if let Some(level) = options.noise_level {
            run = run.with_noise_level(level);
        }
        if let Some(gallery) = &options.gallery {
            run = run.with_gallery(gallery);
        }
        if let Some(observer) = self.observer {
            run = run.with_observer(observer);
        }
        Ok(match &options.noise {
            Some(noise) => run.with_noise(noise),
            None => run,
        })
    }
}

/// What every task ends with: from a condition to pictures, each with its recipe.
pub(crate) fn finish<'p>(
    mut run: Run<'_>,
    (condition, start): (&Condition, Start<4>),
    (made_by, options, settings): (&MadeBy, &GenerateOptions, &Settings),
    prompts: impl Iterator<Item = &'p str>,
) -> Result<Generated, Error> {
    let pictures = run.decode_from(start, condition, &settings.decoder)?;
    let pictures = run.upsample(pictures, &settings.upsamplers)?;
    let recipe =
        |(row, (prompt, &seed))| Recipe::new(made_by, options, settings, prompt, (seed, row));
    let recipes = prompts.zip(run.seeds.iter()).enumerate().map(recipe);
    let pictures = Picture::join(pictures, recipes);
    Ok(Generated::of(pictures, run))
}
