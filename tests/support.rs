//! A tiny model of random weights in a folder of its own, and what is needed to damage it.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use tempfile::TempDir;
use unclip::clip::{Fit, ImageEncoderConfig, TextEncoderConfig, TextTower};
use unclip::decoder::{CaptionKind, DecoderConfig, LayoutConfig};
use unclip::prior::{ArPriorConfig, DiffusionPriorConfig};
use unclip::unclip_core::{Ddpm, DiffusionConfig, Limit, Parameterization, VarianceType};
use unclip::unclip_nn::checkpoint::{StageConfig, save_stage};
use unclip::unclip_nn::{
    Activation, AttentionKind, Precision, ResampleKind, TransformerConfig, UNetConfig,
};
use unclip::upsample::UpsamplerConfig;
use unclip::{Bundle, Error, Residency, UnClip};

/// Fingerprint of the tiny model's CLIP.
pub(crate) const SPACE: &str = "tiny";
/// Positions of a caption: six tokens and two marks.
const CONTEXT_LENGTH: usize = 8;
/// Reverse steps of the tiny model by default: prior, decoder, two upsamplers.
pub(crate) const STEPS: [usize; 4] = [2, 3, 2, 1];
/// Every stage of the tiny model.
pub(crate) const STAGES: [&str; 6] =
    ["text_encoder", "image_encoder", "prior", "decoder", "upsampler.0", "upsampler.1"];

const VOCAB: &str = include_str!("../unclip-clip/tests/fixtures/tokenizer/vocab.json");
const MERGES: &str = include_str!("../unclip-clip/tests/fixtures/tokenizer/merges.txt");

/// Limits are those of the process, which all tests share: who reads them waits for who changes them.
static LIMITS: RwLock<()> = RwLock::new(());

/// Lets no test change a limit until this is dropped.
pub(crate) fn limits() -> RwLockReadGuard<'static, ()> {
    LIMITS.read().unwrap_or_else(PoisonError::into_inner)
}

/// A limit with another value until this is dropped, also by a panic.
pub(crate) struct Changed(Limit, #[allow(dead_code)] RwLockWriteGuard<'static, ()>);

impl Changed {
    pub(crate) fn new(limit: Limit, value: u64) -> Self {
        let guard = LIMITS.write().unwrap_or_else(PoisonError::into_inner);
        limit.set(value);
        Self(limit, guard)
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        self.0.set(self.0.default_value());
    }
}

/// The tiny model on disk, until it is dropped.
pub(crate) struct Model(TempDir);

impl Model {
    /// A copy to damage.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        for (name, bytes) in files() {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        Self(folder)
    }

    /// A copy with an autoregressive prior.
    pub(crate) fn with_ar_prior() -> Self {
        let model = Self::new();
        let save = Save { folder: model.0.path(), device: Device::flex() };
        save.stage("ar_prior", &ar_prior());
        model
    }

    /// Its folder, or something in it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join(inside)
    }

    /// A file as it is before any damage.
    pub(crate) fn file(name: &str) -> &'static [u8] {
        &files().iter().find(|(found, _)| found == name).unwrap().1
    }

    /// Opens it: configurations, headers and tokenizer are read.
    pub(crate) fn open(&self) -> Result<Bundle, Error> {
        Bundle::open(self.0.path())
    }

    /// Opens it and reads all weights.
    pub(crate) fn load(&self) -> Result<UnClip, Error> {
        UnClip::new(self.open()?, &Device::flex(), Residency::Resident)
    }

    /// Changes a stage's configuration file.
    pub(crate) fn edit_config(&self, stage: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.path(stage).join("config.json");
        let mut json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(&mut json);
        std::fs::write(&path, serde_json::to_vec_pretty(&json).unwrap()).unwrap();
    }

    /// Changes the tensors of a stage.
    pub(crate) fn edit_tensors(&self, stage: &str, edit: impl FnOnce(&mut Vec<RawTensor>)) {
        let path = self.path(stage).join("model.safetensors");
        let mut tensors = read_tensors(&path);
        edit(&mut tensors);
        std::fs::write(&path, tensors_file(&tensors)).unwrap();
    }
}

/// The files of the tiny model; made once, because fresh weights take time.
pub(crate) fn files() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let save = Save { folder: folder.path(), device: Device::flex() };
        save.stage("text_encoder", &text_encoder());
        save.stage("image_encoder", &image_encoder());
        save.stage("prior", &prior());
        save.stage("decoder", &decoder());
        save.stage("upsampler.0", &upsampler(false, STEPS[2]));
        save.stage("upsampler.1", &upsampler(true, STEPS[3]));
        let mut files = vec![
            ("tokenizer/vocab.json".to_string(), VOCAB.into()),
            ("tokenizer/merges.txt".to_string(), MERGES.into()),
        ];
        for stage in STAGES {
            for name in ["config.json", "model.safetensors"] {
                let name = format!("{stage}/{name}");
                let bytes = std::fs::read(folder.path().join(&name)).unwrap();
                files.push((name, bytes));
            }
        }
        files
    })
}

struct Save<'a> {
    folder: &'a Path,
    device: Device,
}

impl Save<'_> {
    fn stage<T: StageConfig>(&self, name: &str, config: &T) {
        let mut stir = Stir { numbers: Numbers(name.len() as u64), path: Vec::new() };
        let network = config.init(&self.device).map(&mut stir);
        save_stage(&self.folder.join(name), SPACE, config, &network, Precision::F32).unwrap();
    }
}

/// Gives every parameter a value of its own: fresh networks answer zero, under which mistakes would
/// not show, and are others in every run.
struct Stir {
    numbers: Numbers,
    path: Vec<String>,
}

impl ModuleMapper for Stir {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // scales of norms and deviations stay near 1
        let is_scale = |name: &String| ["gamma", "std"].contains(&name.as_str());
        // what ranges from one number to another does so
        let middle = match self.path.last().map(String::as_str) {
            Some("low") => -1.0,
            Some("high") => 1.0,
            _ if self.path.last().is_some_and(is_scale) => 1.0,
            _ => 0.0,
        };
        param.map(|x| {
            let shape = x.dims();
            let mut value = || middle + (self.numbers.below(1001) as f32 - 500.0) / 2000.0;
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| value()).collect();
            Tensor::from_data(TensorData::new(values, shape), &x.device())
        })
    }
}

fn transformer() -> TransformerConfig {
    TransformerConfig {
        d_model: 8,
        n_layers: 1,
        n_heads: 2,
        d_hidden: 12,
        activation: Activation::QuickGelu,
        norm_eps: 1e-5,
    }
}

fn diffusion(steps: usize, guidance_scale: f64) -> DiffusionConfig {
    DiffusionConfig {
        num_train_timesteps: 100,
        clamp: Some(2.0),
        sampler: Ddpm.into(),
        steps,
        guidance_scale,
        ..DiffusionConfig::cosine(Parameterization::Sample)
    }
}

/// The text tower; its vocabulary is the tokenizer's.
pub(crate) fn text_encoder() -> TextEncoderConfig {
    let vocab: Value = serde_json::from_str(VOCAB).unwrap();
    TextEncoderConfig {
        unit_length: false,
        padding: None,
        logit_scale: TextEncoderConfig::MOST,
        vocab_size: vocab.as_object().unwrap().len(),
        context_length: CONTEXT_LENGTH,
        d_embedding: 6,
        tower: TextTower::Clip,
        projected: true,
        transformer: transformer(),
    }
}

fn image_encoder() -> ImageEncoderConfig {
    ImageEncoderConfig {
        unit_length: false,
        image_size: 8,
        patch_size: 4,
        d_embedding: 6,
        transformer: transformer(),
        mean: [0.5; 3],
        std: [0.25; 3],
        fit: Fit::Crop,
    }
}

/// The prior, guided.
pub(crate) fn prior() -> DiffusionPriorConfig {
    DiffusionPriorConfig {
        laion: None,
        d_embedding: 6,
        d_text: 8,
        context_length: CONTEXT_LENGTH,
        principal_components: true,
        transformer: transformer(),
        diffusion: diffusion(STEPS[0], 3.0),
    }
}

/// The autoregressive prior.
pub(crate) fn ar_prior() -> ArPriorConfig {
    ArPriorConfig {
        d_embedding: 6,
        d_text: 8,
        context_length: CONTEXT_LENGTH,
        n_codes: 4,
        n_buckets: 5,
        n_similarities: 4,
        transformer: transformer(),
        guidance_scale: 1.5,
    }
}

fn unet(image_size: usize, channels: [usize; 2], block_out_channels: Vec<usize>) -> UNetConfig {
    UNetConfig {
        image_size,
        in_channels: channels[0],
        out_channels: channels[1],
        block_out_channels,
        num_res_blocks: 1,
        attention_resolutions: vec![],
        d_head: 8,
        d_context: None,
        norm_groups: 4,
        scale_shift: true,
        coordinates: false,
        patch_size: 1,
        d_time: None,
        n_heads: None,
        d_sinusoid: None,
        attention: AttentionKind::Added,
        resampling: ResampleKind::Residual,
        norm_eps: 1e-5,
    }
}

fn decoder() -> DecoderConfig {
    DecoderConfig {
        d_embedding: 6,
        channels: 3,
        d_text: Some(8),
        image_tokens: 2,
        whitened: true,
        layout: Some(LayoutConfig { side: 4, channels: 2, d_hidden: 6 }),
        captions: CaptionKind::default(),
        augmentation: None,
        control: None,
        unet: UNetConfig {
            attention_resolutions: vec![4],
            d_context: Some(8),
            ..unet(8, [5, 6], vec![8, 16])
        }
        .into(),
        diffusion: DiffusionConfig {
            parameterization: Parameterization::Epsilon,
            variance: VarianceType::LearnedRange,
            ..diffusion(STEPS[1], 2.0)
        },
    }
}

fn upsampler(last_step_network: bool, steps: usize) -> UpsamplerConfig {
    let config = UpsamplerConfig::new(2, unet(16, [6, 3], vec![8, 8]), diffusion(steps, 1.0));
    UpsamplerConfig { last_step_network, residual: !last_step_network, ..config }
}

/// A tensor as a safetensors file holds it.
#[derive(PartialEq)]
pub(crate) struct RawTensor {
    pub(crate) key: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// The tensors of a file, in the order of their data.
pub(crate) fn read_tensors(path: &Path) -> Vec<RawTensor> {
    let bytes = std::fs::read(path).unwrap();
    let (len, rest) = bytes.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
    let mut header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
    header.remove("__metadata__");
    let mut tensors: Vec<(usize, RawTensor)> = header
        .into_iter()
        .map(|(key, info)| {
            let (dtype, shape, [start, end]): (String, Vec<usize>, [usize; 2]) =
                serde_json::from_value(json!([info["dtype"], info["shape"], info["data_offsets"]]))
                    .unwrap();
            (start, RawTensor { key, dtype, shape, bytes: data[start..end].into() })
        })
        .collect();
    tensors.sort_by_key(|(start, _)| *start);
    tensors.into_iter().map(|(_, tensor)| tensor).collect()
}

/// A safetensors file of these tensors.
pub(crate) fn tensors_file(tensors: &[RawTensor]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for RawTensor { key, dtype, shape, bytes } in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(
            key.clone(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }),
        );
        data.extend_from_slice(bytes);
    }
    safetensors(&Value::Object(header).to_string(), &data)
}

/// A safetensors file of this header and data, whether they go together or not.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// Checks that something was refused, in these words among others.
#[track_caller]
pub(crate) fn refused<T, E: Display>(result: Result<T, E>, words: &[&str]) {
    let Err(error) = result else { panic!("accepted; expected a refusal with {words:?}") };
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
}

/// Does something that may hang, on another thread, for ten seconds at most.
#[track_caller]
pub(crate) fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(Duration::from_secs(10)).expect("done in time, and without a panic")
}

/// Numbers that look random and are the same in every run (SplitMix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

/// A pipe, which blocks whoever opens it.
#[cfg(unix)]
pub(crate) fn make_pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Names of what lies in a folder, in order.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
