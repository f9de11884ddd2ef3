//! What the examples share that change a picture by its two latents: options, progress, frames.

#![allow(dead_code, reason = "each program uses a part of it")]

pub(crate) mod edits;

use std::path::{Path, PathBuf};

use clap::Args;
use unclip::unclip_nn::checkpoint::check_place;
use unclip::{
    Bundle, GenerateOptions, Generated, ImageEmbedding, Latents, Observed, OpenOptions, Picture,
    PictureFormat, Precision, ReadOptions, Residency, RgbImage, SHARE, SamplerKind, Sheet, Spacing,
    StageOptions, UnClip, is_animation, write_animation,
};

use crate::apart::check_apart;
use crate::console::{AnyError, note, say};
use crate::hint::read_hint;
use crate::progress::Bars;
use crate::seed::Seed;

/// Options that every such example has.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// File of the result: .gif or .apng for an animation, .png, .jpg or .webp for a strip of all
    /// pictures, or a name that ends in / for a folder of them
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Folder of a model with an image encoder [default: the built-in shapes model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Folder of the prior, of a model that is published without (Kandinsky, Stable unCLIP)
    #[arg(long, value_name = "DIR", requires = "model")]
    prior_model: Option<PathBuf>,
    /// A picture that the result follows, such as a depth map, of a model that was trained with such
    #[arg(long, value_name = "FILE")]
    hint: Option<PathBuf>,
    /// Seed of what is drawn beside the picture's own noise, or `random` [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<Seed>,
    /// Reverse steps of the decoder, and the steps by which the noise is found
    #[arg(long, value_name = "N", visible_alias = "steps")]
    decoder_steps: Option<usize>,
    /// Timesteps of the decoder's steps: even, leading, leading:OFFSET, trailing, between, between:-1,
    /// log_snr, steps of each part as in 10,10,3,2,2, or at:0,250,999
    #[arg(long, value_name = "RULE")]
    decoder_spacing: Option<Spacing>,
    /// How far the decoder follows its condition; 1 is no guidance [default: 1 where noise is
    /// found, else the model's]
    #[arg(long, value_name = "SCALE")]
    decoder_guidance: Option<f64>,
    /// How far the model's classifier leads the decoder to the class, if it has one (ADM); 0 is not at
    /// all [default: the model's]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    classifier_scale: Option<f64>,
    /// Reverse steps of each upsampler
    #[arg(long, value_name = "N")]
    upsampler_steps: Option<usize>,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "cpu")]
    device: String,
    /// f32, f16 or bf16: number format in which networks work
    #[arg(long, value_name = "FORMAT", default_value_t)]
    precision: Precision,
}

/// A model, and where its pictures go.
pub(crate) struct Studio {
    pub(crate) unclip: UnClip,
    out: PathBuf,
    decoder: StageOptions,
    pub(crate) options: GenerateOptions,
    _made: MadeFolder,
}

/// A folder that was made for results, and goes if there are none.
struct MadeFolder(Option<PathBuf>);

impl MadeFolder {
    fn of(out: &Path) -> Result<Self, AnyError> {
        if out.is_dir() {
            return Ok(Self(None));
        }
        std::fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
        Ok(Self(Some(out.into())))
    }
}

impl Drop for MadeFolder {
    fn drop(&mut self) {
        // one with something in it stays
        self.0.as_ref().map(std::fs::remove_dir);
    }
}

/// More pictures than anybody looks at.
const MAX_FRAMES: usize = 10_000;

impl Common {
    /// Checks where `frames` pictures and `others` go, and opens the model. `name` is the result's
    /// where none is given.
    pub(crate) fn open(
        &self,
        name: &str,
        frames: usize,
        inputs: &[&Path],
        others: &[&Path],
    ) -> Result<Studio, AnyError> {
        if frames > MAX_FRAMES {
            return Err(format!("{frames} pictures, expected at most {MAX_FRAMES}").into());
        }
        let out = self.out.clone().unwrap_or_else(|| name.into());
        if !is_folder(&out) && !is_animation(&out) {
            let formats =
                |_| format!("{}: expected .png, .jpg, .webp, .gif or .apng", out.display());
            PictureFormat::of(&out).map_err(formats)?;
        }
        let files = if is_folder(&out) { self::files(&out, frames) } else { vec![out.clone()] };
        let all = || files.iter().map(PathBuf::as_path).chain(others.iter().copied());
        let inputs: Vec<&Path> = inputs.iter().copied().chain(self.hint.as_deref()).collect();
        check_apart(all(), &inputs, &[self.model.as_deref(), self.prior_model.as_deref()])?;
        let bundle = match &self.model {
            Some(folder) => {
                let prior_model = self.prior_model.clone();
                Bundle::open_with(folder, &OpenOptions { prior_model, ..OpenOptions::default() })?
            }
            None => Bundle::shapes()?,
        };
        let mut decoder = StageOptions::default();
        decoder.steps = self.decoder_steps;
        decoder.spacing = self.decoder_spacing.clone();
        decoder.guidance_scale = self.decoder_guidance;
        let mut upsampler = StageOptions::default();
        upsampler.steps = self.upsampler_steps;
        let mut options = GenerateOptions::default().with_upsampler(upsampler);
        options.classifier_scale = self.classifier_scale;
        if let Some(path) = &self.hint {
            options = options.with_hint(read_hint(path)?);
        }
        if let Some(Seed(seed)) = self.seed {
            options.seed = seed;
            note(format_args!("seed {seed}"));
        }
        let placement = (&unclip::device(&self.device)?, self.precision);
        options.clone().with_decoder(decoder.clone()).resolve(&bundle)?;
        // nothing is made until all that can be checked is
        let made = if is_folder(&out) { MadeFolder::of(&out)? } else { MadeFolder(None) };
        all().try_for_each(check_place)?;
        // stages work a few times at most, which is not worth the memory of them all
        let unclip = UnClip::new(bundle, placement, Residency::OneByOne)?;
        Ok(Studio { unclip, out, decoder, options, _made: made })
    }
}

impl Studio {
    /// A picture of which the model sees the square in the middle: what does not show is said.
    pub(crate) fn read(&self, path: &Path) -> Result<RgbImage, AnyError> {
        let (name, picture) = (path.display(), self.read_whole(path)?);
        let fitted = self.unclip.bundle().fit(&picture, &self.unclip.device());
        let (_, cropped) = fitted.map_err(|error| format!("{name}: {error}"))?;
        cropped.iter().for_each(|it| note(format_args!("{name}: {it}")));
        Ok(picture)
    }

    /// Says what of captions does not fit into the model's context.
    pub(crate) fn look_at<S: AsRef<str>>(&self, captions: &[S]) {
        let bundle = self.unclip.bundle();
        // what the prior reads by, or the decoder where there is no other
        let Ok(reader) = bundle.clip_text().or_else(|_| bundle.text()) else { return };
        let tokens = reader.tokenizer.encode(captions);
        for dropped in (0..captions.len()).filter_map(|row| tokens.dropped(row)) {
            note(format_args!("a caption is too long; left out: {dropped:?}"));
        }
    }

    /// A picture as a viewer shows it.
    pub(crate) fn read_whole(&self, path: &Path) -> Result<RgbImage, AnyError> {
        let picture = ReadOptions::default().read(path)?;
        picture.left_out.iter().for_each(|it| note(format_args!("{}: {it}", path.display())));
        Ok(picture.image)
    }

    /// Runs a call with progress.
    pub(crate) fn show<T>(
        &self,
        call: impl FnOnce(Observed<'_>) -> Result<T, unclip::Error>,
    ) -> Result<T, AnyError> {
        let mut bars = Bars::default();
        let made = call(self.unclip.observed(&mut |event| bars.show(event)))?;
        bars.finish();
        Ok(made)
    }

    /// Both latents of pictures; `sampler` finds the noise.
    pub(crate) fn invert(
        &self,
        pictures: &[RgbImage],
        sampler: impl Into<SamplerKind>,
    ) -> Result<Latents, AnyError> {
        let decoder = self.decoder.clone().with_sampler(sampler);
        let options = self.options.clone().with_decoder(decoder);
        self.show(|unclip| unclip.invert(pictures, &options))
    }

    /// The part of embeddings that pictures' embeddings have, where the model can tell it: what words
    /// lead to has more, which only confuses the decoder.
    pub(crate) fn settled(&self, image: ImageEmbedding) -> Result<ImageEmbedding, unclip::Error> {
        match &self.unclip.bundle().prior {
            Some(prior) if prior.config().principal_components => {
                self.unclip.keep_variance(&image, SHARE)
            }
            _ => Ok(image),
        }
    }

    /// Embeddings whose noise the seed draws; by a sampler, or else by the model's.
    pub(crate) fn drawn(
        &self,
        image: ImageEmbedding,
        sampler: Option<SamplerKind>,
    ) -> Result<Latents, AnyError> {
        let mut decoder = self.decoder.clone();
        decoder.sampler = sampler;
        let options = GenerateOptions::default().with_decoder(decoder);
        Ok(Latents::drawn(image, options.resolve(self.unclip.bundle())?.decoder))
    }

    /// Latents to pictures, by the sampler to which they belong.
    pub(crate) fn draw(&self, latents: &Latents) -> Result<Generated, AnyError> {
        self.show(|unclip| unclip.draw(latents, &self.options))
    }

    /// Writes pictures as what the name of the result asks for.
    pub(crate) fn write(&self, pictures: &[Picture]) -> Result<(), AnyError> {
        let out = &self.out;
        if is_folder(out) {
            for (path, picture) in files(out, pictures.len()).iter().zip(pictures) {
                picture.save(path)?;
                say(path.display());
            }
            return Ok(());
        }
        if is_animation(out) {
            let images: Vec<RgbImage> = pictures.iter().map(|it| it.image.clone()).collect();
            write_animation(out, &images, FRAME)?;
        } else {
            Sheet::strip(pictures).save(out)?;
        }
        say(out.display());
        Ok(())
    }
}

/// How long a frame of an animation is shown.
const FRAME: std::time::Duration = std::time::Duration::from_millis(150);

/// The files of a folder's pictures.
fn files(folder: &Path, n: usize) -> Vec<PathBuf> {
    (0..n).map(|number| folder.join(format!("{number:05}.png"))).collect()
}

fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.to_string_lossy().ends_with(std::path::is_separator)
}
