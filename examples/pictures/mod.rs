//! What the examples that make pictures share: options, progress, files.

mod memory;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use unclip::clip::{Fit, Padding};
use unclip::unclip_core::SamplerKind;
use unclip::{
    Bundle, Event, GenerateOptions, Generated, OpenOptions, Precision, RecordedNoise, Residency,
    Stage, StageCost, StageOptions, UnClip,
};

pub(crate) type AnyError = Box<dyn std::error::Error>;

/// Options that every example has which makes pictures.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// File of the picture, or folder of many
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Folder of a model: this project's layout, diffusers' or the original Karlo's [default: the
    /// shapes model inside the program]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Seed of the first picture; the next has the next seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pictures of each caption, or variations of each picture
    #[arg(long, default_value_t = 1)]
    n: usize,
    /// Also write all pictures as one sheet; alone it replaces the single files
    #[arg(long)]
    pub(crate) grid: bool,
    /// What the picture should not be: guidance leads away from it
    #[arg(long, default_value = "")]
    negative_prompt: String,
    /// Reverse steps of the decoder
    #[arg(long)]
    decoder_steps: Option<usize>,
    /// Reverse steps of each upsampler
    #[arg(long)]
    upsample_steps: Option<usize>,
    /// How far the decoder follows embedding and caption; 1 disables guidance
    #[arg(long)]
    decoder_guidance: Option<f64>,
    /// ddpm, ddim or dpm_solver, for the decoder
    #[arg(long, value_name = "NAME")]
    decoder_sampler: Option<SamplerKind>,
    /// ddpm, ddim or dpm_solver, for each upsampler
    #[arg(long, value_name = "NAME")]
    upsample_sampler: Option<SamplerKind>,
    /// flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "flex")]
    device: String,
    /// f32, f16 or bf16: number format in which networks work; on flex it saves memory alone
    /// [default: f32]
    #[arg(long, value_name = "FORMAT")]
    precision: Option<Precision>,
    /// Keep all networks in memory, instead of loading and dropping one after the other
    #[arg(long)]
    stages_resident: bool,
    /// How a `!` in a caption is read: as padding (diffusers) or as it is (original Karlo)
    #[arg(long, value_enum)]
    exclamation: Option<Exclamation>,
    /// How pictures are brought to the image encoder's square
    #[arg(long, value_enum)]
    fit: Option<FitArgument>,
    /// Write what each stage cost, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) timings: Option<PathBuf>,
    /// Take the noise from a safetensors file; all captions or pictures form one batch
    #[arg(long, value_name = "FILE")]
    pub(crate) noise: Option<PathBuf>,
    /// Write what went between the stages, as safetensors; all captions or pictures form one batch
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Exclamation {
    Padding,
    Mark,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FitArgument {
    Crop,
    Squash,
}

impl Common {
    /// The model that was asked for.
    pub(crate) fn bundle(&self) -> Result<Bundle, AnyError> {
        let options = OpenOptions {
            padding: self.exclamation.map(|exclamation| match exclamation {
                Exclamation::Padding => Padding::Exclamation,
                Exclamation::Mark => Padding::Zero,
            }),
            fit: self.fit.map(|fit| match fit {
                FitArgument::Crop => Fit::Crop,
                FitArgument::Squash => Fit::Squash,
            }),
        };
        Ok(match &self.model {
            Some(folder) => Bundle::open_with(folder, &options)?,
            None => Bundle::shapes()?,
        })
    }

    /// The model, ready, in the number format asked for or in `precision`. `reused` is whether its
    /// networks are needed more than once.
    pub(crate) fn load(
        &self,
        bundle: Bundle,
        precision: Precision,
        reused: bool,
    ) -> Result<UnClip, AnyError> {
        let residency = match reused || self.stages_resident {
            true => Residency::Resident,
            false => Residency::OneByOne,
        };
        let device = unclip::device(&self.device)?;
        Ok(UnClip::new(bundle, (&device, self.precision.unwrap_or(precision)), residency)?)
    }

    /// The options for a call; those of the prior are still open.
    pub(crate) fn options(&self) -> Result<GenerateOptions, AnyError> {
        let (steps, sampler) = (self.decoder_steps, self.decoder_sampler);
        let decoder = StageOptions { steps, guidance_scale: self.decoder_guidance, sampler };
        let (steps, sampler) = (self.upsample_steps, self.upsample_sampler);
        let upsample = StageOptions { steps, guidance_scale: None, sampler };
        Ok(GenerateOptions {
            seed: self.seed,
            n: self.n,
            negative_prompt: self.negative_prompt.clone(),
            noise: self.recorded_noise()?,
            prior: StageOptions::default(),
            decoder,
            upsample,
        })
    }

    /// The noise that was asked for.
    fn recorded_noise(&self) -> Result<Option<Arc<RecordedNoise>>, AnyError> {
        let open = |path: &PathBuf| RecordedNoise::open(path).map(Arc::new);
        Ok(self.noise.as_ref().map(open).transpose()?)
    }

    /// Whether everything has to go in one batch: recorded noise and traces are of one.
    pub(crate) fn is_one_batch(&self) -> bool {
        self.noise.is_some() || self.trace.is_some()
    }

    /// Refuses a place that cannot be written before a picture is made for it.
    pub(crate) fn check_out(&self, many: bool) -> Result<(), AnyError> {
        let parent = self.out.as_deref().filter(|_| !many).and_then(Path::parent);
        match parent.filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) if !parent.is_dir() => {
                Err(format!("{}: no such folder to write into", parent.display()).into())
            }
            _ => Ok(()),
        }
    }

    /// Writes pictures; `first` is the number of the first, and `many` whether a folder takes them.
    pub(crate) fn write(
        &self,
        generated: &Generated,
        first: usize,
        many: bool,
    ) -> Result<(), AnyError> {
        let default = if many { "pictures" } else { "picture.png" };
        let out = self.out.clone().unwrap_or_else(|| default.into());
        if many {
            std::fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        }
        if self.grid {
            let path = if many { out.join(format!("grid-{first:05}.png")) } else { out.clone() };
            unclip::write_png(&path, &unclip::grid(&generated.images), None)?;
            println!("{}", path.display());
        }
        if self.grid && !many {
            return Ok(());
        }
        for (k, (image, settings)) in generated.images.iter().zip(&generated.settings).enumerate() {
            let path = match (many, generated.images.len()) {
                (true, _) => out.join(format!("{:05}.png", first + k)),
                (false, 1) => out.clone(),
                (false, _) => numbered(&out, k),
            };
            unclip::write_png(&path, image, Some(settings))?;
            println!("{}", path.display());
        }
        Ok(())
    }

    /// Writes what was asked for beside the pictures.
    pub(crate) fn write_reports(&self, costs: &[StageCost]) -> Result<(), AnyError> {
        match &self.timings {
            Some(path) => write_timings(path, costs),
            None => Ok(()),
        }
    }
}

/// `picture.png` to `picture.3.png`.
fn numbered(path: &Path, k: usize) -> PathBuf {
    let extension = path.extension().map_or("png".into(), |e| e.to_string_lossy());
    path.with_extension(format!("{k}.{extension}"))
}

/// One progress bar for each stage.
#[derive(Default)]
pub(crate) struct Bars {
    current: Option<(Stage, ProgressBar)>,
}

impl Bars {
    /// Shows a step, and lets the work go on.
    pub(crate) fn show(&mut self, event: &Event<'_>) -> ControlFlow<()> {
        if self.current.as_ref().is_none_or(|(stage, _)| *stage != event.stage) {
            self.finish();
            let style =
                ProgressStyle::with_template("{prefix:12} {wide_bar} {pos}/{len} {elapsed}");
            let bar = ProgressBar::new(event.total as u64).with_prefix(event.stage.to_string());
            let bar = style.into_iter().fold(bar, ProgressBar::with_style);
            self.current = Some((event.stage, bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_position(event.index as u64 + 1);
        }
        ControlFlow::Continue(())
    }

    /// Ends the last bar.
    pub(crate) fn finish(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish();
        }
    }
}

fn write_timings(path: &Path, costs: &[StageCost]) -> Result<(), AnyError> {
    let mut stages = BTreeMap::<Stage, Vec<&StageCost>>::new();
    for cost in costs {
        stages.entry(cost.stage).or_default().push(cost);
    }
    let stages = stages.into_iter().map(|(stage, costs)| {
        let mut calls: Vec<f64> =
            costs.iter().flat_map(|cost| &cost.calls).map(|call| call.as_secs_f64()).collect();
        calls.sort_by(f64::total_cmp);
        let sum = |part: fn(&StageCost) -> Duration| -> f64 {
            costs.iter().map(|cost| part(cost).as_secs_f64()).sum()
        };
        let (loading, binding) = (sum(|cost| cost.loading), sum(|cost| cost.binding));
        let report = json!({
            "seconds": loading + binding + calls.iter().sum::<f64>(),
            "seconds_loading": loading,
            "seconds_binding": binding,
            "median_call_seconds": calls.get(calls.len() / 2),
            "calls": calls.len(),
            "parameters": costs[0].parameters,
        });
        (stage.to_string(), report)
    });
    let report = json!({
        "stages": stages.collect::<serde_json::Map<_, _>>(),
        "peak_resident_bytes": memory::peak_resident_bytes(),
    });
    let text = format!("{report:#}\n");
    unclip::unclip_nn::checkpoint::write_whole(path, text.as_bytes())?;
    Ok(())
}
