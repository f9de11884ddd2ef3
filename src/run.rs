//! The stages one by one.

use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::Tensor;
use unclip_clip::Tokens;
use unclip_core::{
    ClassifierFree, Denoiser, DiffusionConfig, Draw, ImageEmbedding, Network, NoiseSource,
    SeededNoise, StepEvent, TextEmbedding, sample,
};
use unclip_decoder::Condition;

use crate::{
    Error, Event, Observer, RecordedNoise, Stage, StageCost, StageSettings, Trace, UnClip,
};

/// One batch of pictures on its way through the stages; [`UnClip::run`] makes it.
///
/// Each method is one stage. What goes between them can be looked at, kept, and replaced: that is
/// what variations, interpolations and the like are made of.
pub struct Run<'a> {
    unclip: &'a UnClip,
    seeds: &'a [u64],
    observer: &'a mut dyn Observer,
    noise: Option<&'a RecordedNoise>,
    negative_prompt: &'a str,
    /// What guidance leads away from, once it is known: one row.
    null: Option<TextEmbedding>,
    /// What each stage has cost so far.
    pub costs: Vec<StageCost>,
    /// What each stage has given so far.
    pub trace: Trace,
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

impl<'a> Run<'a> {
    pub(crate) fn new(
        unclip: &'a UnClip,
        seeds: &'a [u64],
        observer: &'a mut dyn Observer,
    ) -> Self {
        let (costs, trace) = (Vec::new(), Trace::default());
        Self { unclip, seeds, observer, noise: None, negative_prompt: "", null: None, costs, trace }
    }

    /// Takes the noise from a file, whatever the seeds.
    pub fn with_noise(self, noise: &'a RecordedNoise) -> Self {
        Self { noise: Some(noise), ..self }
    }

    /// What guidance leads away from; the empty caption if nothing is said.
    pub fn with_negative_prompt(self, negative_prompt: &'a str) -> Self {
        Self { negative_prompt, null: None, ..self }
    }

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

    /// Embeddings of the negative prompt: the null condition, one row for each seed.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn null(&mut self) -> Result<TextEmbedding, Error> {
        let null = match self.null.take() {
            Some(null) => null,
            None => {
                let tokens = self.unclip.bundle.tokenizer.encode(&[self.negative_prompt]);
                let costs = self.costs.len();
                let null = self.encode(&tokens)?;
                self.costs.truncate(costs);
                null
            }
        };
        Ok(self.null.insert(null).clone().repeat_rows(self.seeds.len()))
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
        let files = self.unclip.bundle.prior()?;
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
        let image = prior.restore(whitened);
        self.trace.text = Some(text.clone());
        self.trace.prior = Some(image.clone());
        Ok(image)
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
        let pictures = self.sample(&config.diffusion.denoiser(network), job)?;
        self.trace.text = Some(condition.text.clone());
        self.trace.decoder = Some(pictures.clone());
        Ok(pictures)
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
            self.trace.upsample.push(pictures.clone());
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
        let mut noise: Box<dyn NoiseSource> = match self.noise {
            None => Box::new(SeededNoise::new(self.seeds, stage.noise_stream())),
            Some(recorded) => Box::new(recorded.stage(stage, settings.steps, &shape)?),
        };
        let start = noise.tensor(Draw::Initial, shape, &self.unclip.device);
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
        let result = sample(denoiser, &*sampler, &schedule, start, &mut *noise, &mut listen);
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
