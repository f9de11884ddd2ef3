//! What the examples that make pictures share: options, progress, files.

pub(crate) mod places;
pub(crate) mod progress;
#[macro_use]
pub(crate) mod stages;
mod timings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use unclip::clip::{Fit, Padding};
use unclip::{
    Bundle, Device, GenerateOptions, Generated, ImageEmbedding, OpenOptions, Precision,
    PriorSettings, ReadOptions, Recipe, RecordedNoise, Residency, StageCost, StageOptions, UnClip,
};

use crate::console::{AnyError, note};
use crate::hint::read_hint;
use crate::seed::Seed;
use places::{Output, Places, Plan};
use progress::Bars;
use stages::{DecoderArguments, GuidanceArguments, UpsamplerArguments};

/// Options that all examples that make pictures share.
#[derive(Debug, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    output: Output,
    /// Folder of a model: Karlo's, Kandinsky's, Stable unCLIP's, LAION's, GLIDE's, ADM's or one in
    /// this project's layout
    /// [default: the built-in shapes model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Folder of the prior, of a model that is published without (Kandinsky, Stable unCLIP)
    #[arg(long, value_name = "DIR", requires = "model")]
    prior_model: Option<PathBuf>,
    /// Seed of the first picture, or `random` (or -1); each further picture has the next seed [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<Seed>,
    /// Number of pictures per caption, or of variations per picture [default: 1]
    #[arg(long)]
    n: Option<usize>,
    /// Make the pictures in this file again, from the settings that it holds; other options
    /// override them, but for captions, the seed and the number
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "n"])]
    pub(crate) from: Option<PathBuf>,
    /// What the picture should not show; guidance leads away from it [default: ""]
    #[arg(long, value_name = "TEXT")]
    negative_prompt: Option<String>,
    /// What the picture should not look like: another picture, from which the decoder's guidance
    /// leads away
    #[arg(long, value_name = "FILE")]
    negative_picture: Option<PathBuf>,
    /// A picture that the result follows, such as a depth map, of a model that was trained with such
    #[arg(long, value_name = "FILE")]
    hint: Option<PathBuf>,
    /// Noise in the image embedding, 0 to 999, of a model that was trained with such (Stable
    /// unCLIP): more makes pictures less like it [default: 0]
    #[arg(long, value_name = "LEVEL", allow_negative_numbers = true)]
    noise_level: Option<usize>,
    /// Width of the pictures in pixels, of a model that is not bound to one size: a multiple of 64,
    /// with --height [default: the model's own]
    #[arg(long, value_name = "PIXELS", requires = "height", allow_negative_numbers = true)]
    width: Option<u32>,
    /// Height of the pictures in pixels, with --width
    #[arg(long, value_name = "PIXELS", requires = "width", allow_negative_numbers = true)]
    height: Option<u32>,
    #[command(flatten)]
    decoder: DecoderArguments,
    #[command(flatten)]
    guidance: GuidanceArguments,
    #[command(flatten)]
    upsampler: UpsamplerArguments,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Number format in which networks compute: f32, f16 or bf16; on the CPU, 16 bits only save
    /// memory [default: f32]
    #[arg(long, value_name = "FORMAT")]
    precision: Option<Precision>,
    /// Keep all networks in memory, instead of loading and dropping one after the other
    #[arg(long)]
    stages_resident: bool,
    /// How a `!` in a caption is read: as padding (diffusers) or as an exclamation mark (original
    /// Karlo)
    #[arg(long, value_enum, requires = "model")]
    exclamation: Option<Exclamation>,
    /// Write what each stage cost, as JSON
    #[arg(long, value_name = "FILE")]
    timings: Option<PathBuf>,
    /// Take the noise from a safetensors file; all captions or pictures form one batch
    #[arg(long, value_name = "FILE")]
    noise: Option<PathBuf>,
    /// Write what the stages passed to each other, as safetensors; all captions or pictures form
    /// one batch
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Exclamation {
    Padding,
    Mark,
}

/// What a program makes of one caption or picture after the other.
pub(crate) struct Work {
    pub(crate) unclip: UnClip,
    places: Places,
    costs: Vec<StageCost>,
    negative: Option<ImageEmbedding>,
}

impl Common {
    /// Why a picture cannot be made again.
    pub(crate) fn not_again(&self) -> AnyError {
        let file = self.from.as_deref().unwrap_or(Path::new("")).display();
        let message = "was drawn from another picture's latents or edited, of which its recipe holds \
                       the settings alone";
        format!("{file}: {message}: run the program that made it again").into()
    }

    /// The recipes in the file `--from`; none if there is no such option.
    pub(crate) fn recipes(&self) -> Result<Vec<Recipe>, AnyError> {
        Ok(self.from.as_ref().map(Recipe::read_all).transpose()?.unwrap_or_default())
    }

    pub(crate) fn device(&self) -> Result<Device, unclip::Error> {
        unclip::device(&self.device)
    }

    /// The model that was asked for, opened as for this recipe unless the options say otherwise.
    pub(crate) fn bundle(
        &self,
        fit: Option<Fit>,
        recipe: Option<&Recipe>,
    ) -> Result<Bundle, AnyError> {
        let before = recipe.map(Recipe::open_options).unwrap_or_default();
        let padding = self.exclamation.map(|exclamation| match exclamation {
            Exclamation::Padding => Padding::Exclamation,
            Exclamation::Mark => Padding::Zero,
        });
        let options = OpenOptions {
            padding: padding.or(before.padding),
            prior_padding: padding.or(before.prior_padding),
            fit: fit.or(before.fit),
            prior_model: self.prior_model.clone(),
        };
        Ok(match &self.model {
            Some(folder) => Bundle::open_with(folder, &options)?,
            None => Bundle::shapes()?,
        })
    }

    /// The options for a call; those of the prior are still open.
    pub(crate) fn options(&self) -> Result<GenerateOptions, AnyError> {
        let mut options = GenerateOptions::default()
            .with_n(self.n.unwrap_or(1))
            .with_negative_prompt(self.negative_prompt.as_deref().unwrap_or_default())
            .with_decoder(self.guidance.of(self.decoder.options(), &StageOptions::default()))
            .with_upsampler(self.upsampler.options());
        options = self.guidance.with_scores(options);
        if self.from.is_none() {
            self.guidance.check(&options)?;
        }
        if let Some(Seed(seed)) = self.seed {
            options.seed = seed;
        }
        options.noise_level = self.noise_level;
        options.size = self.width.zip(self.height).map(|(width, height)| [width, height]);
        if let Some(path) = &self.hint {
            options = options.with_hint(read_hint(path)?);
        }
        let open = |path: &PathBuf| RecordedNoise::open(path).map(Arc::new);
        options.noise = self.noise.as_ref().map(open).transpose()?;
        Ok(options)
    }

    /// The options that make a recipe's picture again, except for what was asked for.
    pub(crate) fn again(
        &self,
        recipe: &Recipe,
        asked: &GenerateOptions,
        candidates: Option<usize>,
        bundle: &Bundle,
    ) -> Result<GenerateOptions, AnyError> {
        if recipe.incomplete {
            return Err(self.not_again());
        }
        let file = self.from.as_deref().unwrap_or(Path::new("")).display();
        recipe.check_model(bundle).map_err(|error| format!("{file}: {error}"))?;
        let mut options = recipe.options();
        if let Some(negative) = &self.negative_prompt {
            options.negative_prompt = negative.clone();
        }
        options.noise = match (&recipe.noise, &self.noise) {
            (Some(name), None) => {
                return Err(format!("its noise came from {name:?}; give that by --noise").into());
            }
            (Some(name), Some(path)) => {
                if path.file_name().is_none_or(|it| it.to_string_lossy() != *name) {
                    note(format_args!("its noise came from {name:?}, not {}", path.display()));
                }
                let row = recipe.noise_row.unwrap_or(0);
                Some(Arc::new(RecordedNoise::open(path)?.row(row)))
            }
            (None, _) => asked.noise.clone(),
        };
        let is_same = asked.prior_kind.is_none_or(|kind| Some(kind) == options.prior_kind);
        if let (Some(PriorSettings::Retrieval(settings)), true) = (&recipe.settings.prior, is_same)
        {
            let found = asked.gallery.as_ref().map(|gallery| gallery.fingerprint());
            if found.as_ref() != Some(&settings.fingerprint) {
                let (name, found) = (&settings.gallery, found.unwrap_or("absent".into()));
                let message = format!(
                    "its embeddings came from {name:?}, whose contents are {}, found {found}: give \
                     that by --gallery",
                    settings.fingerprint
                );
                return Err(message.into());
            }
        }
        if recipe.negative_picture && self.negative_picture.is_none() {
            let message = "it was led away from another picture, which its recipe does not hold: \
                           give that by --negative-picture";
            return Err(message.into());
        }
        if recipe.hint && self.hint.is_none() {
            let message = "it followed another picture, which its recipe does not hold: give that by \
                           --hint";
            return Err(message.into());
        }
        options.hint = asked.hint.clone();
        options.size = asked.size.or(options.size);
        options.noise_level = asked.noise_level.or(options.noise_level);
        options.gallery = asked.gallery.clone();
        options = self.guidance.with_scores(options);
        self.guidance.check(&options)?;
        // what belongs to another prior does not go with the one that is asked for
        let before = if is_same { options.prior } else { StageOptions::default() };
        options.prior = asked.prior.clone().or(before);
        options.neighbors = asked.neighbors.or(options.neighbors.filter(|_| is_same));
        options.prior_kind = asked.prior_kind.or(options.prior_kind);
        let before = if is_same { options.candidates } else { 1 };
        options.candidates = candidates.unwrap_or(before);
        let decoder = self.guidance.of(asked.decoder.clone(), &options.decoder);
        options.decoder = decoder.or(options.decoder);
        options.upsampler = asked.upsampler.clone().or(options.upsampler);
        Ok(options)
    }

    /// Whether everything has to go in one batch: recorded noise and traces are of one.
    pub(crate) fn is_one_batch(&self) -> bool {
        self.noise.is_some() || self.trace.is_some()
    }

    /// Whether networks stay in memory; `reused` whether they are needed more than once.
    pub(crate) fn residency(&self, reused: bool) -> Residency {
        let resident = reused || self.stages_resident;
        if resident { Residency::Resident } else { Residency::OneByOne }
    }

    /// The number format, or this one where none was asked for.
    pub(crate) fn precision(&self, or: Precision) -> Precision {
        self.precision.unwrap_or(or)
    }

    /// The model, ready, and the places of the results, checked. `precision` is the number format
    /// where none was asked for; `reused` whether networks are needed more than once.
    pub(crate) fn begin<'a>(
        &'a self,
        bundle: Bundle,
        precision: Precision,
        reused: bool,
        mut plan: Plan<'a>,
    ) -> Result<Work, AnyError> {
        let residency = self.residency(reused);
        let device = self.device()?;
        let (timings, trace) = (self.timings.as_deref(), self.trace.as_deref());
        plan.others.extend(timings.into_iter().chain(trace));
        plan.inputs.extend(self.from.as_deref().into_iter().chain(self.noise.as_deref()));
        plan.models = [self.model.as_deref(), self.prior_model.as_deref()];
        if plan.was_sheet && self.trace.is_some() {
            let message = "--trace is of one call, and a sheet takes one for each of its pictures";
            return Err(message.into());
        }
        plan.inputs
            .extend(self.negative_picture.as_deref().into_iter().chain(self.hint.as_deref()));
        let places = self.output.places(&plan)?;
        let placement = (&device, self.precision(precision));
        let unclip = UnClip::new(bundle, placement, residency)?;
        if let Some(Seed(seed)) = self.seed {
            note(format_args!("seed {seed}"));
        }
        Ok(Work { unclip, places, costs: Vec::new(), negative: None })
    }

    /// Writes what was asked for beside the pictures.
    pub(crate) fn end(&self, work: &Work) -> Result<(), AnyError> {
        self.timings.as_ref().map_or(Ok(()), |path| timings::write(path, &work.costs))
    }
}

impl Work {
    /// The options with the negative picture, if there is one; it is read once.
    pub(crate) fn with_negative(
        &mut self,
        common: &Common,
        mut options: GenerateOptions,
    ) -> Result<GenerateOptions, AnyError> {
        options.negative_image = self.negative.clone();
        if let (Some(path), None) = (&common.negative_picture, &self.negative) {
            let name = path.display();
            let read = ReadOptions::default().read(path)?;
            read.left_out.iter().for_each(|it| note(format_args!("{name}: {it}")));
            let fitted = self.unclip.bundle().fit(&read.image, &self.unclip.device());
            let (image, cropped) = fitted.map_err(|error| format!("{name}: {error}"))?;
            cropped.iter().for_each(|it| note(format_args!("{name}: {it}")));
            self.negative = Some(self.unclip.embed_images(&[image])?);
            options.negative_image = self.negative.clone();
        }
        Ok(options)
    }

    /// Runs a call with progress.
    pub(crate) fn show<T>(
        &self,
        call: impl FnOnce(unclip::Observed<'_>) -> Result<T, unclip::Error>,
    ) -> Result<T, AnyError> {
        let mut bars = Bars::default();
        let made = call(self.unclip.observed(&mut |event| bars.show(event)))?;
        bars.finish();
        Ok(made)
    }

    /// Makes pictures by a call, with progress, and says what of the captions was left out.
    pub(crate) fn make(
        &mut self,
        common: &Common,
        call: impl FnOnce(unclip::Observed<'_>) -> Result<Generated, unclip::Error>,
    ) -> Result<Generated, AnyError> {
        let mut generated = self.show(call)?;
        let has_two = self.unclip.bundle().prior_text.is_some();
        let whose = if has_two { " for one of the model's two text towers" } else { "" };
        for dropped in generated.dropped.iter().flatten() {
            note(format_args!("a caption is too long{whose}; left out: {:?}", shorten(dropped)));
        }
        if let Some(dropped) = &generated.dropped_negative {
            let dropped = shorten(dropped);
            note(format_args!("the negative prompt is too long{whose}; left out: {dropped:?}"));
        }
        if let Some(path) = &common.trace {
            generated.trace.save(path)?;
        }
        self.costs.append(&mut generated.costs);
        Ok(generated)
    }

    /// Writes pictures that belong together.
    pub(crate) fn write(&mut self, pictures: &[unclip::Picture]) -> Result<(), AnyError> {
        self.places.write(pictures)
    }
}

/// The beginning of a text.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN {
        return text.into();
    }
    format!("{}…", text.chars().take(SHOWN).collect::<String>())
}
