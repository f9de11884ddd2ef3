//! The assembled stages.

use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use image::RgbImage;
use unclip_clip::{ImageEncoder, TextEncoder, preprocess};
use unclip_core::{ImageEmbedding, InvalidSetting};
use unclip_decoder::{Condition, Decoder};
use unclip_nn::Placement;
use unclip_nn::checkpoint::{StageConfig, StageFiles};
use unclip_prior::DiffusionPrior;
use unclip_upsample::Upsampler;

use crate::settings::Settings;
use crate::{Bundle, Error, GenerateOptions, Observer, Run, Stage, Trace};

/// How many times longer than the other one side of a picture may be; nothing of it would be left
/// in a square.
const MAX_PROPORTION: u32 = 16;

/// Whether networks stay in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// All of them, for many pictures.
    Resident,
    /// Each is loaded when its turn comes and dropped afterwards, for little memory.
    OneByOne,
}

/// A model ready to make pictures. It can be shared between threads, and used again after an
/// error or a stop.
#[derive(Debug)]
pub struct UnClip {
    pub(crate) bundle: Bundle,
    pub(crate) placement: Placement,
    pub(crate) text_encoder: Option<TextEncoder>,
    image_encoder: Option<ImageEncoder>,
    pub(crate) prior: Option<DiffusionPrior>,
    pub(crate) decoder: Option<Decoder>,
    pub(crate) upsamplers: Option<Vec<Upsampler>>,
}

/// What a call made, and how.
#[derive(Debug)]
pub struct Generated {
    /// The pictures.
    pub images: Vec<RgbImage>,
    /// Everything that is needed to make each picture again, alone.
    pub settings: Vec<Settings>,
    /// The end of each caption that did not fit into the model's context, if any.
    pub dropped: Vec<Option<String>>,
    /// What each stage cost.
    pub costs: Vec<StageCost>,
    /// What went between the stages.
    pub trace: Trace,
}

/// What a stage cost.
#[derive(Debug, Clone)]
pub struct StageCost {
    /// The stage.
    pub stage: Stage,
    /// Time to load it, nothing if it was in memory.
    pub loading: Duration,
    /// Time for what is the same in every call: what the network makes of captions and embeddings.
    pub binding: Duration,
    /// Time of each network call, with the sampler's step around it.
    pub calls: Vec<Duration>,
    /// Number of parameters.
    pub parameters: usize,
}

impl StageCost {
    /// Before the first call of a network that was bound between `start` and now.
    pub(crate) fn new(
        stage: Stage,
        loading: Duration,
        start: Instant,
        network: &impl Module,
    ) -> Self {
        let (binding, parameters) = (start.elapsed(), network.num_params());
        Self { stage, loading, binding, calls: Vec::new(), parameters }
    }
}

impl UnClip {
    /// Takes an opened model to a device, and perhaps to another number format than f32: see
    /// [`Placement`].
    ///
    /// # Errors
    /// A number format that the device does not compute in; weights that cannot be read, if they
    /// are to stay in memory.
    pub fn new(
        bundle: Bundle,
        placement: impl Into<Placement>,
        residency: Residency,
    ) -> Result<Self, Error> {
        let placement = placement.into();
        let Placement { device, precision } = &placement;
        if !precision.is_supported(device) {
            let expected = "a number format that the device computes in, such as f32";
            return Err(InvalidSetting::new("precision", precision, expected).into());
        }
        let mut unclip = Self {
            bundle,
            placement,
            text_encoder: None,
            image_encoder: None,
            prior: None,
            decoder: None,
            upsamplers: None,
        };
        if residency == Residency::Resident {
            let Self { bundle, placement, .. } = &unclip;
            let text = bundle.text_encoder.load(placement)?;
            let prior = bundle.prior.as_ref().map(|stage| stage.load(placement)).transpose()?;
            let decoder = bundle.decoder.load(placement)?;
            let upsamplers = bundle.upsamplers.iter().map(|stage| stage.load(placement));
            let upsamplers = upsamplers.collect::<Result<_, _>>()?;
            let image = bundle.image_encoder.as_ref().map(|stage| stage.load(placement));
            unclip.image_encoder = image.transpose()?;
            unclip.text_encoder = Some(text);
            unclip.prior = prior;
            unclip.decoder = Some(decoder);
            unclip.upsamplers = Some(upsamplers);
        }
        Ok(unclip)
    }

    /// The shapes model that is part of the program, kept in memory.
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

    /// A caption to pictures.
    ///
    /// The empty caption gives a picture of anything. A caption that is too long is cut, and
    /// [`Generated::dropped`] tells what was lost.
    ///
    /// # Errors
    /// Options out of range, before anything is computed; weights that cannot be read; a stop by
    /// the observer; values that are not finite.
    pub fn text_to_image(
        &self,
        caption: &str,
        options: &GenerateOptions,
        observer: &mut dyn Observer,
    ) -> Result<Generated, Error> {
        self.text_to_images(&[caption], options, observer)
    }

    /// Several captions to pictures in one batch: all pictures of the first, then of the next. Each
    /// caption's pictures have the seeds that they would have alone.
    ///
    /// # Errors
    /// As [`text_to_image`](Self::text_to_image), and no caption.
    pub fn text_to_images<S: AsRef<str>>(
        &self,
        captions: &[S],
        options: &GenerateOptions,
        observer: &mut dyn Observer,
    ) -> Result<Generated, Error> {
        let seeds = options.seeds(captions.len())?;
        let settings = Settings::resolve(&self.bundle, options)?;
        let prior = &self.bundle.prior()?.manifest.config.diffusion;
        let prior = options.prior.resolve("prior", prior)?;
        let mut run = self.start(&seeds, options, observer);
        let tokens = self.bundle.tokenizer.encode(captions);
        let text = run.encode(&tokens)?.repeat_rows(options.n);
        let image = run.prior(&text, &prior)?;
        let pictures = run.decode(&Condition { image, text }, &settings.decoder)?;
        let pictures = run.upsample(pictures, &settings.upsample)?;
        let rows = seeds.iter().zip(captions.iter().flat_map(|c| vec![c.as_ref(); options.n]));
        let settings = rows.map(|(&seed, prompt)| Settings {
            seed,
            prompt: prompt.into(),
            precision: self.placement.precision,
            ..settings.clone()
        });
        Ok(Generated {
            images: unclip_core::image::to_rgb(pictures),
            settings: settings.collect(),
            dropped: (0..captions.len()).map(|i| tokens.dropped(i).map(String::from)).collect(),
            costs: run.costs,
            trace: run.trace,
        })
    }

    /// Pictures to variations of them: each is embedded, and decoded again from noise. What the
    /// embedding holds stays (things, style), what it does not hold changes (places, details).
    ///
    /// All variations of the first picture, then of the next. Pictures may differ in size.
    ///
    /// # Errors
    /// As [`text_to_image`](Self::text_to_image); a model without an image encoder; a picture that
    /// cannot be fitted into a square; options of the prior, which has no part in this.
    pub fn image_variation(
        &self,
        pictures: &[RgbImage],
        options: &GenerateOptions,
        observer: &mut dyn Observer,
    ) -> Result<Generated, Error> {
        if options.prior != crate::StageOptions::default() {
            let expected = "absent: variations have no prior";
            let found = format!("{:?}", options.prior);
            return Err(InvalidSetting::new("prior options", found, expected).into());
        }
        let seeds = options.seeds(pictures.len())?;
        let settings = Settings { prior: None, ..Settings::resolve(&self.bundle, options)? };
        let pixels = self.preprocess(pictures)?;
        let image = self.embed(pixels.clone())?;
        let rows = |row: usize| vec![image.0.clone().narrow(0, row, 1); options.n];
        let rows = Tensor::cat((0..pictures.len()).flat_map(rows).collect(), 0);
        let mut run = self.start(&seeds, options, observer);
        run.trace.pixels = Some(pixels);
        run.trace.image = Some(image);
        let tokens = self.bundle.tokenizer.encode(&[""]);
        let text = run.encode(&tokens)?.repeat_rows(seeds.len());
        let condition = Condition { image: ImageEmbedding(rows), text };
        let made = run.decode(&condition, &settings.decoder)?;
        let made = run.upsample(made, &settings.upsample)?;
        let precision = self.placement.precision;
        let settings = seeds.iter().map(|&seed| Settings { seed, precision, ..settings.clone() });
        Ok(Generated {
            images: unclip_core::image::to_rgb(made),
            settings: settings.collect(),
            dropped: Vec::new(),
            costs: run.costs,
            trace: run.trace,
        })
    }

    fn start<'a>(
        &'a self,
        seeds: &'a [u64],
        options: &'a GenerateOptions,
        observer: &'a mut dyn Observer,
    ) -> Run<'a> {
        let run = self.run(seeds, observer).with_negative_prompt(&options.negative_prompt);
        match &options.noise {
            Some(noise) => run.with_noise(noise),
            None => run,
        }
    }

    /// Drives the stages one by one: a picture for each seed.
    pub fn run<'a>(&'a self, seeds: &'a [u64], observer: &'a mut dyn Observer) -> Run<'a> {
        Run::new(self, seeds, observer)
    }

    /// Where the networks are.
    pub fn device(&self) -> Device {
        self.placement.device.clone()
    }

    /// The embeddings that CLIP gives pictures: the other way into the decoder.
    ///
    /// # Errors
    /// A model without an image encoder, weights that cannot be read, no picture, or one that
    /// cannot be fitted into a square.
    pub fn embed_images(&self, pictures: &[RgbImage]) -> Result<ImageEmbedding, Error> {
        self.embed(self.preprocess(pictures)?)
    }

    /// Pictures as the image encoder wants them.
    fn preprocess(&self, pictures: &[RgbImage]) -> Result<Tensor<4>, Error> {
        let config = &self.bundle.image_encoder()?.manifest.config;
        let sizes: Vec<(u32, u32)> = pictures.iter().map(|picture| picture.dimensions()).collect();
        let usable = |&(w, h): &(u32, u32)| w.min(h) > 0 && w.max(h) / w.min(h) <= MAX_PROPORTION;
        if sizes.is_empty() || !sizes.iter().all(usable) {
            let expected = format!(
                "at least one picture, with no side 0 and none more than {MAX_PROPORTION} times \
                 the other"
            );
            return Err(InvalidSetting::new("pictures", format!("{sizes:?}"), expected).into());
        }
        // neighbours of one size go together
        let pixels = pictures.chunk_by(|a, b| a.dimensions() == b.dimensions()).map(|pictures| {
            preprocess(config, unclip_core::image::to_tensor(pictures, &self.placement.device))
        });
        Ok(Tensor::cat(pixels.collect(), 0))
    }

    fn embed(&self, pixels: Tensor<4>) -> Result<ImageEmbedding, Error> {
        let (tower, _) = self.network(&self.image_encoder, self.bundle.image_encoder()?)?;
        Ok(tower.forward(pixels))
    }

    /// A network from memory or from its files, and the time that took.
    pub(crate) fn network<T: StageConfig>(
        &self,
        resident: &Option<T::Network>,
        files: &StageFiles<T>,
    ) -> Result<(T::Network, Duration), Error> {
        let start = Instant::now();
        let network = match resident {
            Some(network) => network.clone(),
            None => files.load(&self.placement)?,
        };
        Ok((network, start.elapsed()))
    }
}
