//! Both latents of pictures, in memory and on disk.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use unclip_core::{ImageEmbedding, InvalidSetting, slerp};
use unclip_nn::checkpoint::{LoadError, Weights, save_tensors};

use crate::{Bundle, Error, StageSettings, Start};

/// Both latents of some pictures, row by row (paper, section 3): the embedding, which is what CLIP
/// sees in a picture, and the noise from which the decoder draws it under that embedding, which is
/// all the rest.
///
/// [`UnClip::invert`](crate::UnClip::invert) finds them and [`UnClip::draw`](crate::UnClip::draw)
/// draws them. What is changed in between is what the manipulations of the paper are: the embedding
/// alone (text diffs, probing), or both (interpolation).
#[derive(Debug, Clone)]
pub struct Latents {
    /// z_i: `[batch, d_embedding]`.
    pub image: ImageEmbedding,
    /// x_T: `[batch, channels, side, side]`, the decoder's.
    pub start: Start<4>,
    /// The decoder's steps to which the start belongs.
    pub settings: StageSettings,
    /// A caption that the decoder gets beside the embedding; an inversion leaves it empty.
    pub caption: String,
}

/// What a file of latents says of itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    settings: StageSettings,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    caption: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steps: Option<usize>,
    /// Fingerprints of the stages to which the latents mean something.
    weights: BTreeMap<String, String>,
}

/// Name of the label in the file's header.
const LABEL: &str = "unclip.latents";

impl Latents {
    /// Embeddings whose noise the seeds draw, by these steps.
    pub fn drawn(image: ImageEmbedding, settings: StageSettings) -> Self {
        Self { image, start: Start::default(), settings, caption: String::new() }
    }

    /// The same with a caption beside the embedding.
    #[must_use]
    pub fn with_caption(self, caption: impl Into<String>) -> Self {
        Self { caption: caption.into(), ..self }
    }

    /// Number of pictures.
    pub fn batch(&self) -> usize {
        self.image.batch()
    }

    /// The same with other embeddings: of each row, or one for all.
    ///
    /// # Panics
    /// If there is neither one embedding nor one for each row.
    #[must_use]
    pub fn with_image(self, image: ImageEmbedding) -> Self {
        let image = if image.batch() == 1 { image.repeat_rows(self.batch()) } else { image };
        assert_eq!(image.batch(), self.batch(), "an embedding for each row");
        Self { image, ..self }
    }

    /// Rows `start .. start + len`.
    #[must_use]
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        let rows = |x: &Tensor<4>| x.clone().narrow(0, start, len);
        Self { image: self.image.narrow(start, len), ..self.with_noise(rows) }
    }

    /// Each row `n` times in a row.
    #[must_use]
    pub fn repeat_rows(&self, n: usize) -> Self {
        let rows = |x: &Tensor<4>| {
            let row = |k: usize| vec![x.clone().narrow(0, k, 1); n];
            Tensor::cat((0..x.dims()[0]).flat_map(row).collect(), 0)
        };
        Self { image: self.image.repeat_rows(n), ..self.with_noise(rows) }
    }

    /// Several as one.
    ///
    /// # Errors
    /// None, or latents of different steps.
    pub fn cat(parts: &[Self]) -> Result<Self, Error> {
        let [first, others @ ..] = parts else {
            return Err(InvalidSetting::new("latents", 0, "at least one").into());
        };
        others.iter().try_for_each(|other| first.expect_same_steps(other))?;
        let noise = |of: fn(&Start<4>) -> &Option<Tensor<4>>| {
            let all: Option<Vec<_>> = parts.iter().map(|part| of(&part.start).clone()).collect();
            all.map(|all| Tensor::cat(all, 0))
        };
        let start = Start {
            x_t: noise(|start| &start.x_t),
            x_prev: noise(|start| &start.x_prev),
            steps: first.start.steps,
            ..Start::default()
        };
        let image = ImageEmbedding::cat(parts.iter().map(|part| part.image.clone()).collect());
        Ok(Self { image, start, ..first.clone() })
    }

    /// The latents on the way to `other`, row by row: both move on their spheres (paper, section
    /// 3.2). At 0 and 1 they are the ends.
    ///
    /// # Errors
    /// `t` outside [0, 1]; latents of different steps or numbers of rows; opposite embeddings.
    pub fn between(&self, other: &Self, t: f64) -> Result<Self, Error> {
        self.expect_same_steps(other)?;
        let noise =
            |of: fn(&Start<4>) -> &Option<Tensor<4>>| match (of(&self.start), of(&other.start)) {
                (Some(a), Some(b)) => slerp(a.clone(), b.clone(), t).map(Some),
                _ => Ok(None),
            };
        let start = Start {
            x_t: noise(|start| &start.x_t)?,
            x_prev: noise(|start| &start.x_prev)?,
            steps: self.start.steps,
            ..Start::default()
        };
        let image = self.image.between(&other.image, t)?;
        Ok(Self { image, start, ..self.clone() })
    }

    /// Writes them as safetensors, in f32: `image`, `x_t`, and `x_prev` of an exact inversion.
    /// Which model and which steps they belong to stands in the header.
    ///
    /// # Errors
    /// The file cannot be written; weights of `bundle` that cannot be read.
    pub fn save(&self, path: impl AsRef<Path>, bundle: &Bundle) -> Result<(), Error> {
        let path = path.as_ref();
        let mut tensors = vec![values("image", &self.image.0)];
        tensors.extend(self.start.x_t.as_ref().map(|x_t| values("x_t", x_t)));
        tensors.extend(self.start.x_prev.as_ref().map(|x_prev| values("x_prev", x_prev)));
        let label = Label {
            settings: self.settings.clone(),
            caption: self.caption.clone(),
            steps: self.start.steps,
            weights: bundle.latent_space()?,
        };
        let json = |source| LoadError::Json { path: path.into(), source };
        let label = serde_json::to_string(&label).map_err(json)?;
        Ok(save_tensors(path, &tensors, &[(LABEL, label)])?)
    }

    /// Reads what [`save`](Self::save) wrote, for the same model.
    ///
    /// # Errors
    /// A file that is missing, damaged or no file of latents; latents of another model.
    pub fn open(path: impl AsRef<Path>, bundle: &Bundle, device: &Device) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = Weights::open(path)?;
        let name = path.display();
        let Some(label) = file.note(LABEL) else {
            let expected = "a file of latents, as an inversion writes it";
            return Err(InvalidSetting::new(
                name.to_string(),
                "another safetensors file",
                expected,
            )
            .into());
        };
        let json = |source| LoadError::Json { path: path.into(), source };
        let label: Label = serde_json::from_str(label).map_err(json)?;
        let space = bundle.latent_space()?;
        let mut stages = space.keys().chain(label.weights.keys());
        if let Some(stage) = stages.find(|stage| space.get(*stage) != label.weights.get(*stage)) {
            let found = label.weights.get(stage).map_or("absent", String::as_str);
            let expected = format!("the model with which they were made, whose {stage} is {found}");
            let model = bundle.name();
            return Err(InvalidSetting::new(format!("model for {name}"), model, expected).into());
        }
        let unknown = |key: &String| !["image", "x_t", "x_prev"].contains(&key.as_str());
        if let Some(key) = file.keys().into_iter().find(unknown) {
            let expected = "image, x_t and x_prev alone";
            return Err(InvalidSetting::new(format!("tensor in {name}"), key, expected).into());
        }
        let read = |key: &str| -> Result<Option<TensorData>, Error> {
            let Some(shape) = file.shape(key).map(<[usize]>::to_vec) else { return Ok(None) };
            match file.read(key)? {
                Some(values) => Ok(Some(TensorData::new(values, shape))),
                None => {
                    let found = file.dtype(key).map_or(String::new(), |it| format!("{it:?}"));
                    let key = format!("{key} in {name}");
                    Err(InvalidSetting::new(key, found, "F32, F16 or BF16").into())
                }
            }
        };
        let ranked = |key: &str, rank: usize| match read(key)? {
            Some(data) if data.shape().len() != rank => {
                let (key, found) = (format!("{key} in {name}"), format!("{:?}", data.shape()));
                Err(InvalidSetting::new(key, found, format!("{rank} dimensions")).into())
            }
            data => Ok::<_, Error>(data),
        };
        let Some(image) = ranked("image", 2)? else {
            return Err(
                InvalidSetting::new(format!("image in {name}"), "absent", "a tensor").into()
            );
        };
        let noise = |key: &str| -> Result<Option<Tensor<4>>, Error> {
            Ok(ranked(key, 4)?.map(|data| Tensor::from_data(data, device)))
        };
        let start = Start {
            x_t: noise("x_t")?,
            x_prev: noise("x_prev")?,
            steps: label.steps,
            ..Start::default()
        };
        let image = ImageEmbedding(Tensor::from_data(image, device));
        let latents = Self { image, start, settings: label.settings, caption: label.caption };
        latents.check(bundle).map_err(|error| error.within(&name.to_string()))?;
        Ok(latents)
    }

    /// Checks that the parts fit each other and the model.
    pub(crate) fn check(&self, bundle: &Bundle) -> Result<(), InvalidSetting> {
        let Self { image, start, settings, .. } = self;
        let (d_embedding, side) = (bundle.d_embedding(), bundle.decoder.config().unet.image_size());
        let expect = |name: &str, found: &[usize], expected: &[usize]| {
            let differ =
                || InvalidSetting::new(name, format!("{found:?}"), format!("{expected:?}"));
            (found == expected).then_some(()).ok_or_else(differ)
        };
        let batch = self.batch().max(1);
        expect("shape of the embeddings", &image.0.dims(), &[batch, d_embedding])?;
        let noise = [batch, bundle.decoder.config().channels, side, side];
        for (name, tensor) in [("x_t", &start.x_t), ("x_prev", &start.x_prev)] {
            let name = format!("shape of {name}");
            tensor.iter().try_for_each(|tensor| expect(&name, &tensor.dims(), &noise))?;
        }
        let is_exact = settings.sampler.to_string() == "belm";
        if start.x_prev.is_some() && (start.x_t.is_none() || !is_exact) {
            let expected = "absent: it goes with x_t and the sampler belm";
            return Err(InvalidSetting::new("x_prev", "present", expected));
        }
        match start.steps {
            Some(steps) if !(1..=settings.steps).contains(&steps) => {
                let expected = format!("1 to {}", settings.steps);
                Err(InvalidSetting::new("steps to begin with", steps, expected))
            }
            _ => Ok(()),
        }
    }

    /// The same with noise that is made from this one's.
    fn with_noise(&self, make: impl Fn(&Tensor<4>) -> Tensor<4>) -> Self {
        let start = Start {
            x_t: self.start.x_t.as_ref().map(&make),
            x_prev: self.start.x_prev.as_ref().map(&make),
            steps: self.start.steps,
            ..Start::default()
        };
        Self { start, ..self.clone() }
    }

    /// Refuses latents that were found in another way.
    fn expect_same_steps(&self, other: &Self) -> Result<(), InvalidSetting> {
        let of = |latents: &Self| {
            let Self { settings, start, caption, .. } = latents;
            let StageSettings { steps, sampler, spacing, .. } = settings;
            let guidance = (
                settings.guidance_scale,
                settings.image_guidance,
                settings.guidance_range.map(|range| range.to_string()),
                settings.dynamic_threshold,
            );
            let noise = if start.x_t.is_some() { "noise of its own" } else { "the seed's noise" };
            let taken = start.steps.unwrap_or(*steps);
            format!(
                "{taken} of {steps} steps, {spacing}, {sampler}, guidance {guidance:?}, {noise}, {caption:?}"
            )
        };
        let (ours, others) = (of(self), of(other));
        if ours == others { Ok(()) } else { Err(InvalidSetting::new("latents", others, ours)) }
    }
}

fn values<const D: usize>(name: &str, tensor: &Tensor<D>) -> (String, Vec<usize>, Vec<f32>) {
    (name.into(), tensor.dims().to_vec(), tensor.to_data().iter::<f32>().collect())
}
