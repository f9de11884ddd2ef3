//! The stages one by one.

use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::Tensor;
use unclip_clip::Tokens;
use unclip_core::{
    ClassifierFree, Denoiser, DiffusionConfig, Draw, ImageEmbedding, Network, NoiseSource, Paired,
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
    /// Its cost, up to now.
    cost: StageCost,
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
        let text = tower.forward(tokens, &self.unclip.placement.device);
        self.costs.push(StageCost {
            stage: Stage::TextEncoder,
            loading,
            binding: Duration::ZERO,
            calls: vec![start.elapsed()],
            parameters: tower.num_params(),
        });
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

    /// What guidance leads away from, if there is any.
    fn null_if_guided(&mut self, settings: &StageSettings) -> Result<Option<TextEmbedding>, Error> {
        if settings.guidance_scale == 1.0 { Ok(None) } else { self.null().map(Some) }
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
        let null = self.null_if_guided(settings)?;
        let start = Instant::now();
        let network = match null {
            None => boxed(prior.bind(text)),
            Some(null) => guided(prior.bind_pair(text, &null), settings),
        };
        let job = Job {
            cost: StageCost::new(Stage::Prior, loading, start, &prior),
            config: &config.diffusion,
            settings,
            shape: [self.seeds.len(), config.d_embedding],
            preview: |_| None,
        };
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
        let null = self.null_if_guided(settings)?;
        let start = Instant::now();
        let network = match null {
            None => boxed(decoder.bind(condition)),
            Some(null) => guided(decoder.bind_pair(condition, &null), settings),
        };
        let side = config.unet.image_size;
        let job = Job {
            cost: StageCost::new(Stage::Decoder, loading, start, &decoder),
            config: &config.diffusion,
            settings,
            shape: [self.seeds.len(), 3, side, side],
            preview: |x| Some(x),
        };
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
            let shape = upsampler.output_shape(pictures.dims());
            let start = Instant::now();
            let denoiser = upsampler.denoiser(config, pictures);
            let job = Job {
                cost: StageCost::new(Stage::Upsampler(place), loading, start, &upsampler),
                config: &config.diffusion,
                settings,
                shape,
                preview: |x| Some(x),
            };
            pictures = self.sample(&*denoiser, job)?;
            self.trace.upsample.push(pictures.clone());
        }
        Ok(pictures)
    }

    /// The reverse loop of one stage.
    fn sample<const D: usize>(
        &mut self,
        denoiser: &dyn Denoiser<D>,
        job: Job<'_, D>,
    ) -> Result<Tensor<D>, Error> {
        let Job { mut cost, config, settings, shape, preview } = job;
        let stage = cost.stage;
        let schedule = config.schedule(settings.steps)?;
        let sampler = settings.sampler.sampler::<D>(config.variance);
        let mut noise: Box<dyn NoiseSource> = match self.noise {
            None => Box::new(SeededNoise::new(self.seeds, stage.noise_stream())),
            Some(recorded) => Box::new(recorded.stage(stage, settings.steps, &shape)?),
        };
        let start = noise.tensor(Draw::Initial, shape, &self.unclip.placement.device);
        let mut last = Instant::now();
        let mut listen = |event: StepEvent<'_, D>| {
            let elapsed = last.elapsed();
            cost.calls.push(elapsed);
            let StepEvent { index, total, timestep, x_0 } = event;
            let preview = preview(x_0);
            let event = Event { stage, index, total, timestep, elapsed, preview };
            let flow = self.observer.on_step(&event);
            last = Instant::now();
            flow
        };
        let result = sample(denoiser, &*sampler, &schedule, start, &mut *noise, &mut listen);
        self.costs.push(cost);
        let stopped =
            |e: unclip_core::Interrupted| Error::Stopped { stage, done: e.done, total: e.total };
        let x_0 = result.map_err(stopped)?;
        match x_0.clone().abs().max().into_scalar::<f32>().is_finite() {
            true => Ok(x_0),
            false => Err(Error::NonFinite { stage }),
        }
    }
}

/// Either network of a stage, with guidance and without.
fn boxed<const D: usize>(network: impl Network<D> + 'static) -> Box<dyn Network<D>> {
    Box::new(network)
}

fn guided<const D: usize>(
    pair: Paired<impl Network<D> + 'static>,
    settings: &StageSettings,
) -> Box<dyn Network<D>> {
    boxed(ClassifierFree::new(pair, settings.guidance_scale))
}
