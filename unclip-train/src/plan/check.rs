//! Whether the stages of a plan go together.

use std::collections::HashSet;

use unclip_core::{DiffusionConfig, InvalidSetting, VarianceType, Weighting};
use unclip_decoder::CaptionKind;

use unclip_nn::Precision;

use super::fields::{Plan, PriorPlan, RunPlan, StagePlan, UpsamplerPlan};
use crate::TrainStage;
use crate::dataset::Crop;
use crate::objective::UpsamplerObjective;

impl Plan {
    /// Checks every field, and those of several stages against each other.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        all(self)
    }
}

fn all(plan: &Plan) -> Result<(), InvalidSetting> {
    InvalidSetting::check_range("data.max_bad", plan.data.max_bad, 0.0, 1.0)?;
    if !(1..=100_000).contains(&plan.vocabulary.merges) {
        let expected = "1 to 100000";
        return Err(InvalidSetting::new("vocabulary.merges", plan.vocabulary.merges, expected));
    }
    let evaluation = &plan.evaluation;
    InvalidSetting::check_range("evaluation.held_out", evaluation.held_out, 0.0, 0.5)?;
    if evaluation.items == 0 {
        return Err(InvalidSetting::new("evaluation.items", 0, "at least 1"));
    }
    if evaluation.shown > 256 {
        return Err(InvalidSetting::new("evaluation.shown", evaluation.shown, "at most 256"));
    }
    if plan.run.precision == Precision::F16 {
        let expected =
            "f32 or bf16: gradients in f16 vanish without a scale that is found step by step";
        return Err(InvalidSetting::new("run.precision", Precision::F16, expected));
    }
    all_reduce(&plan.run)?;
    if plan.run.seed > i64::MAX as u64 {
        let expected = format!("at most {}, which TOML can hold", i64::MAX);
        return Err(InvalidSetting::new("run.seed", plan.run.seed, expected));
    }
    let paths = plan.data.paths.iter().chain(&plan.evaluation.paths).chain([&plan.run.out]);
    if let Some(path) = paths.into_iter().find(|path| path.to_str().is_none()) {
        let expected = "a path of Unicode, which the configuration of the run can hold";
        return Err(InvalidSetting::new("path", path.display(), expected));
    }
    if plan.run.keep_checkpoints == 0 {
        return Err(InvalidSetting::new("run.keep_checkpoints", 0, "at least 1"));
    }
    clip(plan)?;
    let Plan { prior, ar_prior, noised_image_encoder, decoder, .. } = plan;
    embeddings(plan)?;
    if let Some(PriorPlan { config, drop_caption, weighting, .. }) = prior {
        InvalidSetting::check_range("prior.drop_caption", *drop_caption, 0.0, 1.0)?;
        weighting.validate().map_err(|error| error.within("prior"))?;
        config.validate().map_err(|error| error.within("prior.config"))?;
        is_trained("prior", &config.diffusion)?;
        if config.laion.is_some() {
            let expected = "absent: a prior of DALLE2-pytorch is not trained here";
            return Err(InvalidSetting::new("prior.config.laion", "given", expected));
        }
        reads(plan, "prior", config.d_embedding, (config.d_text, config.context_length))?;
    }
    if let Some(PriorPlan { config, drop_caption, weighting, .. }) = ar_prior {
        InvalidSetting::check_range("ar_prior.drop_caption", *drop_caption, 0.0, 1.0)?;
        if *weighting != Weighting::Even {
            let found = format!("{weighting:?}");
            let expected = "even: nothing is noised in an autoregressive prior";
            return Err(InvalidSetting::new("ar_prior.weighting", found, expected));
        }
        config.validate().map_err(|error| error.within("ar_prior.config"))?;
        reads(plan, "ar_prior", config.d_embedding, (config.d_text, config.context_length))?;
    }
    if let Some(StagePlan { config, .. }) = noised_image_encoder {
        let name = "noised_image_encoder.config";
        config.validate().map_err(|error| error.within(name))?;
        same_width(plan, &format!("{name}.d_embedding"), config.d_embedding)?;
        let (field, side) = (format!("{name}.image_size"), decoder.config.unet.image_size());
        same(&field, config.image_size, side, "decoder.config.unet.image_size")?;
    }
    decoder.config.validate().map_err(|error| error.within("decoder.config"))?;
    decoder_can_be_trained(plan)?;
    InvalidSetting::check_range("decoder.worn", decoder.worn, 0.0, 1.0)?;
    decoder.dropped.validate().map_err(|error| error.within("decoder.dropped"))?;
    decoder.weighting.validate().map_err(|error| error.within("decoder"))?;
    same_width(plan, "decoder.config.d_embedding", decoder.config.d_embedding)?;
    if let Some(d_text) = decoder.config.d_text {
        let width = plan.clip.text.transformer.d_model;
        same("decoder.config.d_text", d_text, width, "clip.text.transformer.d_model")?;
    }
    plan.upsampler.iter().enumerate().try_for_each(|(place, it)| upsampler(plan, place, it))?;
    let trained = plan.stages().into_iter().filter(|stage| *stage != TrainStage::Embeddings);
    trained.into_iter().try_for_each(|stage| {
        let settings = plan.settings(stage)?;
        settings.validate().map_err(|error| error.within(&format!("{}.train", stage.name())))?;
        let devices = plan.run.device.split(',').count();
        let parts = devices * settings.accumulate;
        if !settings.batch.is_multiple_of(parts) {
            let field = format!("{}.train.batch", stage.name());
            let expected = format!("a multiple of {parts}: {devices} devices times accumulate");
            return Err(InvalidSetting::new(field, settings.batch, expected));
        }
        Ok(())
    })
}

/// Devices that sum among themselves are CUDA's, and each of them is another.
fn all_reduce(run: &RunPlan) -> Result<(), InvalidSetting> {
    let names: Vec<&str> = run.device.split(',').map(str::trim).collect();
    let are_cuda = names.iter().all(|name| name.starts_with("cuda"));
    let fits =
        names.len() > 1 && are_cuda && names.iter().collect::<HashSet<_>>().len() == names.len();
    if fits || !run.all_reduce {
        return Ok(());
    }
    let found = format!("true with {}", run.device);
    let expected = "false, or a run.device of several CUDA devices, as in cuda:0,cuda:1";
    Err(InvalidSetting::new("run.all_reduce", found, expected))
}

fn clip(plan: &Plan) -> Result<(), InvalidSetting> {
    let clip = &plan.clip;
    InvalidSetting::check_range("clip.worn", clip.worn, 0.0, 1.0)?;
    if clip.from.is_none() && clip.text.vocab_size != 0 {
        let expected = "0: it is the number of tokens that are learned (vocabulary.merges)";
        return Err(InvalidSetting::new("clip.text.vocab_size", clip.text.vocab_size, expected));
    }
    let vocab_size = clip.text.vocab_size.max(1);
    let text = unclip_clip::TextEncoderConfig { vocab_size, ..clip.text.clone() };
    text.validate().map_err(|error| error.within("clip.text"))?;
    clip.image.validate().map_err(|error| error.within("clip.image"))?;
    same_width(plan, "clip.image.d_embedding", clip.image.d_embedding)
}

/// What the objective of a decoder asks for, before earlier stages have taken days.
fn decoder_can_be_trained(plan: &Plan) -> Result<(), InvalidSetting> {
    let config = &plan.decoder.config;
    let refused = |field: &str, found: String, expected: &str| {
        Err(InvalidSetting::new(format!("decoder.config.{field}"), found, expected))
    };
    if config.captions != CaptionKind::Masked {
        let found = format!("{:?}", config.captions);
        return refused("captions", found, "masked: no other kind is trained here");
    }
    if config.channels != 3 {
        return refused("channels", config.channels.to_string(), "3: pictures, not latents");
    }
    is_trained("decoder", &config.diffusion)
}

/// Refuses a variance that no loss is for.
fn is_trained(stage: &str, diffusion: &DiffusionConfig) -> Result<(), InvalidSetting> {
    if diffusion.variance != VarianceType::Learned {
        return Ok(());
    }
    let expected = "learned_range, or a fixed one: no other learned variance is trained";
    Err(InvalidSetting::new(format!("{stage}.config.diffusion.variance"), "learned", expected))
}

/// Embeddings that are computed once are of what every pass shows.
fn embeddings(plan: &Plan) -> Result<(), InvalidSetting> {
    if !plan.embeddings.enabled {
        return Ok(());
    }
    if !(1..=1 << 20).contains(&plan.embeddings.per_shard) {
        let expected = format!("1 to {}", 1 << 20);
        let found = plan.embeddings.per_shard;
        return Err(InvalidSetting::new("embeddings.per_shard", found, expected));
    }
    let without = "or compute them anew for every step (embeddings.enabled=false)";
    let fitting = plan.data.fitting;
    if plan.data.shapes {
        let expected = format!("false beside embeddings of the data, which never end; {without}");
        return Err(InvalidSetting::new("data.shapes", true, expected));
    }
    if fitting.crop == Crop::Random || fitting.flip {
        let found = format!("crop {:?}, flip {}", fitting.crop, fitting.flip);
        let expected = format!("no chance beside embeddings that are computed once; {without}");
        return Err(InvalidSetting::new("data.fitting", found, expected));
    }
    if plan.decoder.worn > 0.0 {
        let expected = format!("0 beside embeddings that are computed once; {without}");
        return Err(InvalidSetting::new("decoder.worn", plan.decoder.worn, expected));
    }
    Ok(())
}

/// A stage that reads captions.
fn reads(
    plan: &Plan,
    stage: &str,
    d_embedding: usize,
    (d_text, context_length): (usize, usize),
) -> Result<(), InvalidSetting> {
    let field = |name: &str| format!("{stage}.config.{name}");
    let text = &plan.clip.text;
    same_width(plan, &field("d_embedding"), d_embedding)?;
    let width = text.transformer.d_model;
    same(&field("d_text"), d_text, width, "clip.text.transformer.d_model")?;
    let of = "clip.text.context_length";
    same(&field("context_length"), context_length, text.context_length, of)
}

fn same_width(plan: &Plan, field: &str, found: usize) -> Result<(), InvalidSetting> {
    same(field, found, plan.clip.text.d_embedding, "clip.text.d_embedding")
}

fn same(field: &str, found: usize, expected: usize, of: &str) -> Result<(), InvalidSetting> {
    if found == expected {
        return Ok(());
    }
    Err(InvalidSetting::new(field, found, format!("{expected}, which is {of}")))
}

fn upsampler(plan: &Plan, place: usize, own: &UpsamplerPlan) -> Result<(), InvalidSetting> {
    let within = format!("upsampler.{place}");
    own.config.validate().map_err(|error| error.within(&format!("{within}.config")))?;
    own.weighting.validate().map_err(|error| error.within(&within))?;
    is_trained(&within, &own.config.diffusion)?;
    UpsamplerObjective::check(&own.config)
        .map_err(|error| error.within(&format!("{within}.config")))?;
    let side = plan.low_side(place);
    if own.crop < 2 || own.crop > side {
        let expected = format!("2 to {side}, the side of what it enlarges");
        return Err(InvalidSetting::new(format!("{within}.crop"), own.crop, expected));
    }
    let (crop, multiple) = (own.crop as usize * own.config.factor, own.config.unet.size_multiple());
    if !crop.is_multiple_of(multiple) {
        let found = format!("{} (times {})", own.crop, own.config.factor);
        let expected = format!("a multiple of {multiple} when enlarged");
        return Err(InvalidSetting::new(format!("{within}.crop"), found, expected));
    }
    Ok(())
}
