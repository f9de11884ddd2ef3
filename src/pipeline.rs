//! The assembled stages.

use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use image::RgbImage;
use unclip_clip::{ImageEncoder, TextEncoder, Tokens, preprocess};
use unclip_core::{
    ClassifierFree, Denoiser, DiffusionConfig, Draw, ImageEmbedding, Network, NoiseSource,
    SeededNoise, StepEvent, TextEmbedding, sample,
};
use unclip_decoder::{Condition, Decoder};
use unclip_nn::checkpoint::{StageConfig, StageFiles};
use unclip_prior::DiffusionPrior;
use unclip_upsample::Upsampler;

use crate::settings::Settings;
use crate::{Bundle, Error, Event, GenerateOptions, Observer, Stage, StageSettings};

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
    bundle: Bundle,
    device: Device,
    text_encoder: Option<TextEncoder>,
    image_encoder: Option<ImageEncoder>,
    prior: Option<DiffusionPrior>,
    decoder: Option<Decoder>,
    upsamplers: Option<Vec<Upsampler>>,
}

/// What a call made, and how.
#[derive(Debug)]
pub struct Generated {
    /// The pictures.
    pub images: Vec<RgbImage>,
    /// Everything that is needed to make each picture again, alone.
    pub settings: Vec<Settings>,
    /// The end of the caption that did not fit into the model's context, if any.
    pub dropped: Option<String>,
    /// What each stage cost.
    pub costs: Vec<StageCost>,
}

/// What a stage cost.
#[derive(Debug, Clone)]
pub struct StageCost {
    /// The stage.
    pub stage: Stage,
    /// Time to load it, nothing if it was in memory.
    pub loading: Duration,
    /// Time of each network call, with the sampler's step around it.
    pub calls: Vec<Duration>,
    /// Number of parameters.
    pub parameters: usize,
}

impl UnClip {
    /// Takes an opened model to a device.
    ///
    /// # Errors
    /// Weights that cannot be read, if they are to stay in memory.
    pub fn new(bundle: Bundle, device: &Device, residency: Residency) -> Result<Self, Error> {
        let mut unclip = Self {
            bundle,
            device: device.clone(),
            text_encoder: None,
            image_encoder: None,
            prior: None,
            decoder: None,
            upsamplers: None,
        };
        if residency == Residency::Resident {
            let Self { bundle, device, .. } = &unclip;
            let (text, prior) = (bundle.text_encoder.load(device)?, bundle.prior.load(device)?);
            let decoder = bundle.decoder.load(device)?;
            let upsamplers = bundle.upsamplers.iter().map(|stage| stage.load(device));
            let upsamplers = upsamplers.collect::<Result<_, _>>()?;
            let image = bundle.image_encoder.as_ref().map(|stage| stage.load(device));
            unclip.image_encoder = image.transpose()?;
            unclip.text_encoder = Some(text);
            unclip.prior = Some(prior);
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
        let settings = Settings::resolve(&self.bundle, caption, options)?;
        let seeds = options.seeds()?;
        let mut run = self.run(&seeds, observer);
        let tokens = self.bundle.tokenizer.encode(&[caption]);
        let text = run.encode(&tokens)?.repeat_rows(seeds.len());
        let image = run.prior(&text, &settings.prior)?;
        let pictures = run.decode(&Condition { image, text }, &settings.decoder)?;
        let pictures = run.upsample(pictures, &settings.upsample)?;
        Ok(Generated {
            images: unclip_core::image::to_rgb(pictures),
            settings: seeds.iter().map(|&seed| Settings { seed, ..settings.clone() }).collect(),
            dropped: tokens.dropped(0).map(String::from),
            costs: run.costs,
        })
    }

    /// Drives the stages one by one: a picture for each seed.
    pub fn run<'a>(&'a self, seeds: &'a [u64], observer: &'a mut dyn Observer) -> Run<'a> {
        Run { unclip: self, seeds, observer, costs: Vec::new() }
    }

    /// Where the networks are.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// The embeddings that CLIP gives pictures of one size: the other way into the decoder.
    ///
    /// # Errors
    /// A model without an image encoder, weights that cannot be read, no picture, or pictures of
    /// different sizes.
    pub fn embed_images(&self, pictures: &[RgbImage]) -> Result<ImageEmbedding, Error> {
        let Some(files) = &self.bundle.image_encoder else {
            let model = self.bundle.origin.clone();
            return Err(Error::MissingStage { model, stage: "image_encoder".into() });
        };
        let sizes: Vec<(u32, u32)> = pictures.iter().map(|picture| picture.dimensions()).collect();
        let usable = sizes
            .first()
            .is_some_and(|&(w, h)| w.min(h) > 0 && w.max(h) / w.min(h) <= MAX_PROPORTION);
        if !usable || sizes.iter().any(|size| *size != sizes[0]) {
            let expected = format!(
                "at least one picture, all of one size, with no side 0 and none more than \
                 {MAX_PROPORTION} times the other"
            );
            let found = format!("{sizes:?}");
            return Err(unclip_core::InvalidSetting::new("pictures", found, expected).into());
        }
        let pixels = unclip_core::image::to_tensor(pictures, &self.device);
        let (tower, _) = self.network(&self.image_encoder, files)?;
        Ok(tower.forward(preprocess(&files.manifest.config, pixels)))
    }

    /// A network from memory or from its files, and the time that took.
    fn network<T: StageConfig>(
        &self,
        resident: &Option<T::Network>,
        files: &StageFiles<T>,
    ) -> Result<(T::Network, Duration), Error> {
        let start = Instant::now();
        let network = match resident {
            Some(network) => network.clone(),
            None => files.load(&self.device)?,
        };
        Ok((network, start.elapsed()))
    }
}

/// One batch of pictures on its way through the stages; [`UnClip::run`] makes it.
///
/// Each method is one stage. What goes between them can be looked at, kept, and replaced: that is
/// what variations, interpolations and the like are made of.
pub struct Run<'a> {
    unclip: &'a UnClip,
    seeds: &'a [u64],
    observer: &'a mut dyn Observer,
    /// What each stage has cost so far.
    pub costs: Vec<StageCost>,
}

/// What the reverse loop of a stage needs.
struct Job<'a, const D: usize> {
    stage: Stage,
    config: &'a DiffusionConfig,
    settings: &'a StageSettings,
    shape: [usize; D],
    /// The sample as a picture, if it is one.
    preview: fn(&Tensor<D>) -> Option<&Tensor<4>>,
}

impl Run<'_> {
    /// Captions to embeddings, one row each.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn encode(&mut self, tokens: &Tokens) -> Result<TextEmbedding, Error> {
        let files = &self.unclip.bundle.text_encoder;
        let (tower, loading) = self.unclip.network(&self.unclip.text_encoder, files)?;
        let start = Instant::now();
        let text = tower.forward(tokens, &self.unclip.device);
        self.begin(Stage::TextEncoder, loading, tower.num_params());
        self.end(vec![start.elapsed()]);
        Ok(text)
    }

    /// Embeddings of the empty caption: the null condition, one row for each seed.
    fn null(&mut self) -> Result<TextEmbedding, Error> {
        let tokens = self.unclip.bundle.tokenizer.encode(&[""]);
        let costs = self.costs.len();
        let null = self.encode(&tokens)?.repeat_rows(self.seeds.len());
        self.costs.truncate(costs);
        Ok(null)
    }

    /// Text embeddings to image embeddings: `[seeds, d_embedding]`.
    ///
    /// # Errors
    /// Weights that cannot be read, a stop, values that are not finite.
    ///
    /// # Panics
    /// If there is not one row for each seed.
    pub fn prior(
        &mut self,
        text: &TextEmbedding,
        settings: &StageSettings,
    ) -> Result<ImageEmbedding, Error> {
        let files = &self.unclip.bundle.prior;
        let config = &files.manifest.config;
        let (prior, loading) = self.unclip.network(&self.unclip.prior, files)?;
        let network: Box<dyn Network<2>> = match settings.guidance_scale {
            1.0 => Box::new(prior.bind(text)),
            scale => Box::new(ClassifierFree::new(prior.bind_pair(text, &self.null()?), scale)),
        };
        let job = Job {
            stage: Stage::Prior,
            config: &config.diffusion,
            settings,
            shape: [self.seeds.len(), config.d_embedding],
            preview: |_| None,
        };
        self.begin(Stage::Prior, loading, prior.num_params());
        let whitened = self.sample(&config.diffusion.denoiser(network), job)?;
        Ok(prior.restore(whitened))
    }

    /// Image embeddings and captions to small pictures: `[seeds, 3, side, side]` in [−1, 1].
    ///
    /// # Errors
    /// Weights that cannot be read, a stop, values that are not finite.
    ///
    /// # Panics
    /// If there is not one row for each seed.
    pub fn decode(
        &mut self,
        condition: &Condition,
        settings: &StageSettings,
    ) -> Result<Tensor<4>, Error> {
        let files = &self.unclip.bundle.decoder;
        let config = &files.manifest.config;
        let (decoder, loading) = self.unclip.network(&self.unclip.decoder, files)?;
        let network: Box<dyn Network<4>> = match settings.guidance_scale {
            1.0 => Box::new(decoder.bind(condition)),
            scale => {
                Box::new(ClassifierFree::new(decoder.bind_pair(condition, &self.null()?), scale))
            }
        };
        let side = config.unet.image_size;
        let job = Job {
            stage: Stage::Decoder,
            config: &config.diffusion,
            settings,
            shape: [self.seeds.len(), 3, side, side],
            preview: |x| Some(x),
        };
        self.begin(Stage::Decoder, loading, decoder.num_params());
        self.sample(&config.diffusion.denoiser(network), job)
    }

    /// Small pictures to large ones, through as many upsamplers as there are settings for.
    ///
    /// # Errors
    /// Weights that cannot be read, a stop, values that are not finite.
    ///
    /// # Panics
    /// If there are more settings than upsamplers.
    pub fn upsample(
        &mut self,
        mut pictures: Tensor<4>,
        settings: &[StageSettings],
    ) -> Result<Tensor<4>, Error> {
        for (place, settings) in settings.iter().enumerate() {
            let files = &self.unclip.bundle.upsamplers[place];
            let config = &files.manifest.config;
            let resident = self.unclip.upsamplers.as_ref().map(|all| all[place].clone());
            let (upsampler, loading) = self.unclip.network(&resident, files)?;
            let stage = Stage::Upsampler(place);
            let job = Job {
                stage,
                config: &config.diffusion,
                settings,
                shape: upsampler.output_shape(pictures.dims()),
                preview: |x| Some(x),
            };
            self.begin(stage, loading, upsampler.num_params());
            pictures = self.sample(&*upsampler.denoiser(config, pictures), job)?;
        }
        Ok(pictures)
    }

    fn begin(&mut self, stage: Stage, loading: Duration, parameters: usize) {
        self.costs.push(StageCost { stage, loading, calls: Vec::new(), parameters });
    }

    fn end(&mut self, calls: Vec<Duration>) {
        if let Some(cost) = self.costs.last_mut() {
            cost.calls = calls;
        }
    }

    /// The reverse loop of one stage.
    fn sample<const D: usize>(
        &mut self,
        denoiser: &dyn Denoiser<D>,
        job: Job<'_, D>,
    ) -> Result<Tensor<D>, Error> {
        let Job { stage, config, settings, shape, preview } = job;
        let schedule = config.schedule(settings.steps)?;
        let sampler = settings.sampler.sampler::<D>(config.variance);
        let mut noise = SeededNoise::new(self.seeds, stage.noise_stream());
        let start =
            (&mut noise as &mut dyn NoiseSource).tensor(Draw::Initial, shape, &self.unclip.device);
        let mut last = Instant::now();
        let mut calls = Vec::new();
        let mut listen = |event: StepEvent<'_, D>| {
            let elapsed = last.elapsed();
            calls.push(elapsed);
            let StepEvent { index, total, timestep, x_0 } = event;
            let preview = preview(x_0);
            let event = Event { stage, index, total, timestep, elapsed, preview };
            let flow = self.observer.on_step(&event);
            last = Instant::now();
            flow
        };
        let result = sample(denoiser, &*sampler, &schedule, start, &mut noise, &mut listen);
        self.end(calls);
        let stopped =
            |e: unclip_core::Interrupted| Error::Stopped { stage, done: e.done, total: e.total };
        let x_0 = result.map_err(stopped)?;
        match x_0.clone().abs().max().into_scalar::<f32>().is_finite() {
            true => Ok(x_0),
            false => Err(Error::NonFinite { stage }),
        }
    }
}
