//! Times one network of a model, call by call: each line on standard input makes one call, whose
//! cost is printed as one line of JSON. This lets a script time calls of two programs in turn
//! (`tools/compare`).
//!
//! ```text
//! yes | head -5 | cargo run --release --example time_calls -- --stage decoder --batch 2
//! ```
//! The first line of output says what it took to load the network, and to compute what is the same
//! in every step of a picture (what the network makes of captions and embeddings):
//! `{"loading": seconds, "binding": seconds, "parameters": n, "peak_memory": n}`. Each further line
//! is for one call: `{"seconds": s, "peak_memory": n}`. A call is the network's part of a reverse
//! step, with the result read back to the host. With `--train` it is a training step.
//!
//! Peak memory is in bytes, up to the first call and since then; null if the system does not report
//! it.

#[path = "shared/console.rs"]
mod console;
#[path = "shared/memory.rs"]
mod memory;
#[cfg(feature = "train")]
#[path = "time_calls/training.rs"]
mod training;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use clap::Parser;
use serde_json::json;
use unclip::clip::TextEncoderConfig;
use unclip::decoder::{Condition, Control};
use unclip::unclip_core::{
    DiffusionConfig, Draw, ImageEmbedding, Network, NoiseSource, SeededNoise, TextEmbedding,
};
use unclip::unclip_nn::checkpoint::StageConfig;
use unclip::upsample::LowRes;
use unclip::{Bundle, GenerateOptions, OpenOptions, Precision, Residency, Slot, StageId, UnClip};

use console::AnyError;

/// Times calls of one network, one for each line on standard input.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Folder of a model: this project's layout, diffusers' or the original Karlo's [default: the
    /// built-in shapes model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Folder of the prior, of a model that is published without (Kandinsky, Stable unCLIP)
    #[arg(long, value_name = "DIR", requires = "model")]
    prior_model: Option<PathBuf>,
    /// prior, decoder, autoencoder, upsampler.0, upsampler.1, …; or picture: one call makes whole
    /// pictures
    #[arg(long)]
    stage: String,
    /// Rows of a call; guidance takes two for each picture
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Side of the pictures that the network sees, if not the model's own
    #[arg(long)]
    side: Option<usize>,
    /// Seed of the inputs
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Number format in which networks compute: f32, f16 or bf16; on flex, 16 bits only save memory
    #[arg(long, value_name = "FORMAT", default_value_t)]
    precision: Precision,
    /// Call from a thread of the pool, so that each stack in a profiler shows who asked for the
    /// work
    #[arg(long)]
    pool: bool,
    /// A call is a training step: forward, backward, clipping, AdamW, averaging
    #[cfg(feature = "train")]
    #[arg(long)]
    train: bool,
}

fn main() -> ExitCode {
    console::run(|arguments: &Arguments| {
        let run = || run(arguments).map_err(|error| error.to_string());
        if arguments.pool { rayon::join(run, || ()).0 } else { run() }
    })
}

fn run(arguments: &Arguments) -> Result<(), AnyError> {
    if !(1..=4096).contains(&arguments.batch) {
        return Err(format!("--batch is {}, expected 1 to 4096", arguments.batch).into());
    }
    let bundle = match &arguments.model {
        Some(folder) => {
            let prior_model = arguments.prior_model.clone();
            Bundle::open_with(folder, &OpenOptions { prior_model, ..OpenOptions::default() })?
        }
        None => Bundle::shapes()?,
    };
    check_side(arguments, &bundle)?;
    #[cfg(feature = "train")]
    if arguments.train {
        return training::run(arguments, &bundle);
    }
    match arguments.stage.as_str() {
        "prior" => prior(arguments, &bundle),
        "decoder" => decoder(arguments, &bundle),
        "autoencoder" => autoencoder(arguments, &bundle),
        "picture" => picture(arguments, bundle),
        stage => upsampler(arguments, &bundle, stage),
    }
}

/// Refuses a side that the network cannot take.
fn check_side(arguments: &Arguments, bundle: &Bundle) -> Result<(), AnyError> {
    let Some(side) = arguments.side else { return Ok(()) };
    let decoder = bundle.decoder.config();
    let expected = match arguments.stage.as_str() {
        "prior" | "picture" => "none: this stage has no side".into(),
        "decoder" if decoder.layout.is_some() => {
            let own = decoder.unet.image_size();
            if side == own {
                return Ok(());
            }
            format!("{own}: this decoder has a layout of that size")
        }
        stage => {
            let multiple = match stage {
                "decoder" => decoder.unet.size_multiple(),
                "autoencoder" => 1,
                _ => {
                    let config = bundle.upsamplers[place(bundle, stage)?].config();
                    let (factor, multiple) = (config.factor, config.unet.size_multiple());
                    if factor.is_multiple_of(multiple) { factor } else { factor * multiple }
                }
            };
            let factor = match (stage, &bundle.autoencoder) {
                ("decoder" | "autoencoder", Some(slot)) => slot.config().factor(),
                _ => 1,
            };
            if (1..=8192 / factor).contains(&side) && side.is_multiple_of(multiple) {
                return Ok(());
            }
            format!("a multiple of {multiple}, at most 8192")
        }
    };
    Err(format!("--side is {side}, expected {expected}").into())
}

fn prior(arguments: &Arguments, bundle: &Bundle) -> Result<(), AnyError> {
    let slot = bundle.prior()?;
    let (prior, loading) = load(slot, arguments)?;
    let config = slot.config();
    let mut inputs = Inputs::new(arguments)?;
    let text = inputs.text([config.d_embedding, config.context_length, config.d_text]);
    let bound = bind(&prior, loading, |prior| prior.bind(&text))?;
    answer_network_calls(&bound, inputs, &config.diffusion, |batch| [batch, config.d_embedding])
}

fn decoder(arguments: &Arguments, bundle: &Bundle) -> Result<(), AnyError> {
    let (decoder, loading) = load(&bundle.decoder, arguments)?;
    let config = bundle.decoder.config();
    let mut inputs = Inputs::new(arguments)?;
    let side = arguments.side.unwrap_or(bundle.decoder.config().unet.image_size());
    let condition = inputs.condition(bundle, side)?;
    let bound = bind(&decoder, loading, |decoder| decoder.bind(&condition))?;
    let side = arguments.side.unwrap_or(config.unet.image_size());
    let shape = |batch| [batch, config.channels, side, side];
    answer_network_calls(&bound, inputs, &config.diffusion, shape)
}

/// Latents to pictures.
fn autoencoder(arguments: &Arguments, bundle: &Bundle) -> Result<(), AnyError> {
    let Some(slot) = &bundle.autoencoder else {
        return Err("no stage autoencoder: the model's decoder makes pictures".into());
    };
    let (autoencoder, loading) = load(slot, arguments)?;
    answer_loading(loading, Duration::ZERO, Some(autoencoder.num_params()))?;
    let side = arguments.side.unwrap_or(bundle.decoder.config().unet.image_size());
    let channels = slot.config().stored_channels();
    let latents = Inputs::new(arguments)?.normal([arguments.batch, channels, side, side]);
    answer_calls(|| {
        autoencoder.decode(latents.clone()).into_data();
        Ok(())
    })
}

fn upsampler(arguments: &Arguments, bundle: &Bundle, stage: &str) -> Result<(), AnyError> {
    let place = place(bundle, stage)?;
    let slot = &bundle.upsamplers[place];
    let (upsampler, loading) = load(slot, arguments)?;
    let mut inputs = Inputs::new(arguments)?;
    let low_side = low_side(arguments, bundle, place);
    let low_res = inputs.low_res(bundle, place, low_side);
    let bound = bind(&upsampler, loading, |upsampler| upsampler.bind(&low_res))?;
    let side = low_side * slot.config().factor;
    let diffusion = &slot.config().diffusion;
    answer_network_calls(&bound, inputs, diffusion, |batch| [batch, 3, side, side])
}

/// Whole pictures, every network in memory, with the model's own settings.
fn picture(arguments: &Arguments, bundle: Bundle) -> Result<(), AnyError> {
    let start = Instant::now();
    let device = unclip::device(&arguments.device)?;
    let unclip = UnClip::new(bundle, (&device, arguments.precision), Residency::Resident)?;
    answer_loading(start.elapsed(), Duration::ZERO, None)?;
    let options = GenerateOptions::default().with_seed(arguments.seed).with_n(arguments.batch);
    answer_calls(|| {
        unclip.text_to_image("a small green star in the top left", &options)?;
        Ok(())
    })
}

/// Which upsampler a name stands for.
fn place(bundle: &Bundle, stage: &str) -> Result<usize, AnyError> {
    match stage.parse() {
        Ok(StageId::Upsampler(place)) if place < bundle.upsamplers.len() => Ok(place),
        _ => {
            let names: Vec<_> = bundle.upsamplers.iter().map(|it| it.id().to_string()).collect();
            let names = names.join(", ");
            Err(format!(
                "no stage {stage}; expected prior, decoder, autoencoder, {names} or picture"
            )
            .into())
        }
    }
}

/// Side of the pictures that an upsampler starts from.
fn low_side(arguments: &Arguments, bundle: &Bundle, place: usize) -> usize {
    let factor = |place: usize| bundle.upsamplers[place].config().factor;
    match arguments.side {
        Some(side) => (side / factor(place)).max(1),
        None => bundle.small_size() * (0..place).map(factor).product::<usize>(),
    }
}

/// Loads a network, and returns the time that it took.
fn load<T: StageConfig>(
    slot: &Slot<T>,
    arguments: &Arguments,
) -> Result<(T::Network, Duration), AnyError> {
    let start = Instant::now();
    let device = unclip::device(&arguments.device)?;
    let network = slot.load((&device, arguments.precision))?;
    Ok((network, start.elapsed()))
}

/// Gives a loaded network its conditions, and says what both took.
fn bind<M: Module, N>(
    network: &M,
    loading: Duration,
    bind: impl FnOnce(&M) -> N,
) -> Result<N, AnyError> {
    let start = Instant::now();
    let bound = bind(network);
    // what a GPU still computes belongs to it
    network.devices().iter().try_for_each(Device::sync)?;
    answer_loading(loading, start.elapsed(), Some(network.num_params()))?;
    Ok(bound)
}

/// The inputs of a call: seeded noise, which has the right shapes and no meaning.
struct Inputs {
    noise: Box<dyn NoiseSource>,
    batch: usize,
    device: Device,
}

impl Inputs {
    fn new(arguments: &Arguments) -> Result<Self, AnyError> {
        let batch = arguments.batch;
        let seeds: Vec<u64> =
            (0..batch as u64).map(|row| arguments.seed.wrapping_add(row)).collect();
        let noise = Box::new(SeededNoise::new(&seeds, 0));
        Ok(Self { noise, batch, device: unclip::device(&arguments.device)? })
    }

    fn normal<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        self.noise.tensor(Draw::Initial, shape, &self.device)
    }

    /// The middle of the training schedule.
    fn timesteps(&self, diffusion: &DiffusionConfig) -> Tensor<1> {
        let middle = diffusion.num_train_timesteps / 2;
        Tensor::full([self.batch], middle as f64, &self.device)
    }

    fn pictures(&mut self, side: usize) -> Tensor<4> {
        self.normal([self.batch, 3, side, side]).clamp(-1.0, 1.0)
    }

    /// Captions that fill all tokens.
    fn text(&mut self, [d_embedding, tokens, d_text]: [usize; 3]) -> TextEmbedding {
        TextEmbedding {
            pooled: self.normal([self.batch, d_embedding]),
            tokens: self.normal([self.batch, tokens, d_text]),
            mask: self.normal([self.batch, tokens]).abs().greater_equal_elem(0.0),
        }
    }

    /// Small pictures of this side, and what else the upsampler at this place reads.
    fn low_res(&mut self, bundle: &Bundle, place: usize, side: usize) -> LowRes {
        let picture = self.pictures(side);
        let text = bundle.upsampler_texts[place].as_ref();
        let text = text.map(|it| self.text(sizes(it.config())));
        LowRes { text, classes: Some(vec![0; self.batch]), ..picture.into() }
    }

    /// For samples of this side.
    fn condition(&mut self, bundle: &Bundle, side: usize) -> Result<Condition, AnyError> {
        match bundle.decoder.config().classes() {
            Some(0) => return Ok(Condition::nothing(self.batch)),
            Some(_) => return Ok(Condition::of_classes(vec![0; self.batch])),
            None => {}
        }
        let image = ImageEmbedding(self.normal([self.batch, bundle.d_embedding()]));
        let text = self.text(sizes(bundle.text()?.encoder.config()));
        let control = bundle.control().map(|control| match control {
            Control::Kept => {
                let channels = bundle.decoder.config().channels + 1;
                self.normal([self.batch, channels, side, side])
            }
            Control::Hint => self.pictures(8 * side),
        });
        Ok(Condition { control, ..Condition::new(image, text) })
    }
}

/// Widths of a tower's embeddings and states, and the number of its tokens between them.
fn sizes(tower: &TextEncoderConfig) -> [usize; 3] {
    [tower.d_embedding, tower.context_length, tower.transformer.d_model]
}

/// Answers every line by one call of a network on the same input.
fn answer_network_calls<const D: usize>(
    network: &impl Network<D>,
    mut inputs: Inputs,
    diffusion: &DiffusionConfig,
    shape: impl Fn(usize) -> [usize; D],
) -> Result<(), AnyError> {
    let x_t = inputs.normal(shape(inputs.batch));
    let timesteps = inputs.timesteps(diffusion);
    answer_calls(|| {
        // reading the result waits for it
        network.forward(x_t.clone(), timesteps.clone()).into_data();
        Ok(())
    })
}

/// Makes one call for each line on standard input, and answers by what it took.
fn answer_calls(mut call: impl FnMut() -> Result<(), AnyError>) -> Result<(), AnyError> {
    while wait_for_line()? {
        let start = Instant::now();
        call()?;
        answer_call(start.elapsed().as_secs_f64())?;
    }
    Ok(())
}

fn answer_loading(
    loading: Duration,
    binding: Duration,
    parameters: Option<usize>,
) -> Result<(), AnyError> {
    answer(&json!({
        "loading": loading.as_secs_f64(),
        "binding": binding.as_secs_f64(),
        "parameters": parameters,
        "peak_memory": memory::peak_resident_bytes(),
    }))?;
    // the calls' own peak counts from here; a system that cannot do so reports that of both
    std::fs::write("/proc/self/clear_refs", "5").ok();
    Ok(())
}

fn answer_call(seconds: f64) -> Result<(), AnyError> {
    answer(&json!({ "seconds": seconds, "peak_memory": memory::peak_resident_bytes() }))
}

fn answer(line: &serde_json::Value) -> Result<(), AnyError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Whether another line came, rather than the end.
fn wait_for_line() -> Result<bool, AnyError> {
    Ok(std::io::stdin().lock().read_line(&mut String::new())? > 0)
}
