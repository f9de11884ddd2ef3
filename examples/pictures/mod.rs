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
use unclip::{
    Bundle, Event, GenerateOptions, Generated, OpenOptions, Precision, RecordedNoise, Residency,
    SamplerKind, Spacing, StageCost, StageId, StageOptions, UnClip,
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
    #[command(flatten)]
    decoder: DecoderArguments,
    #[command(flatten)]
    upsampler: UpsamplerArguments,
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
    #[arg(long, value_enum, requires = "model")]
    exclamation: Option<Exclamation>,
    /// How pictures are brought to the image encoder's square
    #[arg(long, value_enum, requires = "model")]
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

/// The options of a guided stage, whose names begin with the stage's.
macro_rules! guided_stage {
    ($Arguments:ident, $stage:literal) => {
        /// Options of the stage.
        #[derive(Debug, clap::Args)]
        pub(crate) struct $Arguments {
            #[doc = concat!("Reverse steps of the ", $stage)]
            #[arg(long = concat!($stage, "-steps"), id = concat!($stage, "-steps"))]
            steps: Option<usize>,
            #[doc = concat!("How far the ", $stage, " follows its condition; 1 disables guidance")]
            #[arg(long = concat!($stage, "-guidance"), id = concat!($stage, "-guidance"))]
            guidance: Option<f64>,
            /// Training timesteps at which guidance acts, as in 200..800 [default: all]
            #[arg(long = concat!($stage, "-guidance-range"), id = concat!($stage, "-range"))]
            #[arg(value_name = "FROM..TO")]
            range: Option<unclip::TimestepRange>,
            /// ddpm, ddim, ddim:ETA, dpm_solver, dpm_solver:published or heun
            #[arg(long = concat!($stage, "-sampler"), id = concat!($stage, "-sampler"))]
            #[arg(value_name = "NAME")]
            sampler: Option<unclip::SamplerKind>,
            /// Timesteps of the steps: even, leading, leading:OFFSET, trailing, log_snr, steps of
            /// each part as in 10,10,3,2,2, or at:0,250,999
            #[arg(long = concat!($stage, "-spacing"), id = concat!($stage, "-spacing"))]
            #[arg(value_name = "RULE")]
            spacing: Option<unclip::Spacing>,
        }

        impl $Arguments {
            /// The choices for the stage.
            pub(crate) fn options(&self) -> unclip::StageOptions {
                let mut options = unclip::StageOptions::default();
                options.steps = self.steps;
                options.guidance_scale = self.guidance;
                options.guidance_range = self.range;
                options.sampler = self.sampler.clone();
                options.spacing = self.spacing.clone();
                options
            }
        }
    };
}

guided_stage!(DecoderArguments, "decoder");

/// Options of every upsampler.
#[derive(Debug, Args)]
struct UpsamplerArguments {
    /// Reverse steps of each upsampler
    #[arg(long)]
    upsampler_steps: Option<usize>,
    /// ddpm, ddim, ddim:ETA, dpm_solver, dpm_solver:published or heun
    #[arg(long, value_name = "NAME")]
    upsampler_sampler: Option<SamplerKind>,
    /// Timesteps of the steps, as the decoder's
    #[arg(long, value_name = "RULE")]
    upsampler_spacing: Option<Spacing>,
}

impl UpsamplerArguments {
    fn options(&self) -> StageOptions {
        let mut options = StageOptions::default();
        options.steps = self.upsampler_steps;
        options.sampler = self.upsampler_sampler.clone();
        options.spacing = self.upsampler_spacing.clone();
        options
    }
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
        let resident = reused || self.stages_resident;
        let residency = if resident { Residency::Resident } else { Residency::OneByOne };
        let device = unclip::device(&self.device)?;
        Ok(UnClip::new(bundle, (&device, self.precision.unwrap_or(precision)), residency)?)
    }

    /// The options for a call; those of the prior are still open.
    pub(crate) fn options(&self) -> Result<GenerateOptions, AnyError> {
        let mut options = GenerateOptions::default()
            .with_seed(self.seed)
            .with_n(self.n)
            .with_negative_prompt(&self.negative_prompt)
            .with_decoder(self.decoder.options())
            .with_upsampler(self.upsampler.options());
        options.noise = self.recorded_noise()?;
        Ok(options)
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
            unclip::write_png(&path, &unclip::grid(&generated.images()))?;
            println!("{}", path.display());
        }
        if self.grid && !many {
            return Ok(());
        }
        for (k, picture) in generated.pictures.iter().enumerate() {
            let path = match (many, generated.pictures.len()) {
                (true, _) => out.join(format!("{:05}.png", first + k)),
                (false, 1) => out.clone(),
                (false, _) => numbered(&out, k),
            };
            picture.save(&path)?;
            println!("{}", path.display());
        }
        Ok(())
    }

    /// Says what of the negative prompt did not fit, if anything.
    pub(crate) fn note_dropped(&self, generated: &Generated) {
        if let Some(dropped) = &generated.dropped_negative {
            eprintln!("note: the negative prompt is too long; left out: {:?}", shorten(dropped));
        }
    }

    /// Writes what was asked for beside the pictures.
    pub(crate) fn write_reports(&self, costs: &[StageCost]) -> Result<(), AnyError> {
        match &self.timings {
            Some(path) => write_timings(path, costs),
            None => Ok(()),
        }
    }
}

/// The beginning of a text.
pub(crate) fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN {
        return text.into();
    }
    format!("{}…", text.chars().take(SHOWN).collect::<String>())
}

/// `picture.png` to `picture.3.png`.
fn numbered(path: &Path, k: usize) -> PathBuf {
    let extension = path.extension().map_or("png".into(), |e| e.to_string_lossy());
    path.with_extension(format!("{k}.{extension}"))
}

/// One progress bar for each stage.
#[derive(Default)]
pub(crate) struct Bars {
    current: Option<(StageId, ProgressBar)>,
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
    let mut stages = BTreeMap::<StageId, Vec<&StageCost>>::new();
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
