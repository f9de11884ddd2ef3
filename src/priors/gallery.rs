//! Stored embeddings of pictures, and the search for the nearest.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use unclip_core::{ImageEmbedding, InvalidSetting};
use unclip_nn::checkpoint::{Fnv, LoadError, Weights, save_tensors};

use crate::{Bundle, Error};

/// Embeddings of pictures with their names: to find pictures by captions or by other pictures, to
/// draw from instead of from a prior ([`PriorKind::Retrieval`](crate::PriorKind::Retrieval)), and
/// to look at.
///
/// Search is exact: every embedding is compared. That takes a millisecond for some thousands.
///
/// # Example
/// ```no_run
/// use unclip::{Gallery, GenerateOptions, PriorKind, UnClip, device, read_picture};
/// use std::sync::Arc;
///
/// let unclip = UnClip::shapes(&device("flex")?)?;
/// let names = ["a.png", "b.png"];
/// let pictures = [read_picture(names[0])?, read_picture(names[1])?];
/// let gallery = Gallery::new(unclip.embed_images(&pictures)?, names.map(String::from).to_vec())?;
/// gallery.save("embeddings.safetensors", unclip.bundle())?;
/// let options = GenerateOptions::default()
///     .with_prior_kind(PriorKind::Retrieval)
///     .with_gallery(Arc::new(gallery));
/// let made = unclip.text_to_image("a pink ring", &options)?;
/// # Ok::<(), unclip::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Gallery {
    image: Vec<Vec<f32>>,
    names: Vec<String>,
    /// Name of the file that it came from.
    file: String,
}

/// What a file of embeddings says of itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    names: Vec<String>,
    /// Fingerprints of CLIP's towers.
    weights: BTreeMap<String, String>,
}

/// Name of the label in the file's header.
const LABEL: &str = "unclip.embeddings";

impl Gallery {
    /// Embeddings with a name for each.
    ///
    /// # Errors
    /// No embedding; another number of names; an embedding of length 0 or that is not finite.
    pub fn new(image: ImageEmbedding, names: Vec<String>) -> Result<Self, InvalidSetting> {
        let [_, width] = image.0.dims();
        let values: Vec<f32> = image.0.into_data().iter::<f32>().collect();
        Self::of_rows(&values, width, names)
    }

    fn of_rows(values: &[f32], width: usize, names: Vec<String>) -> Result<Self, InvalidSetting> {
        let image: Vec<Vec<f32>> = values.chunks(width.max(1)).map(<[f32]>::to_vec).collect();
        let rows = image.len();
        if rows == 0 || names.len() != rows {
            let expected = format!("{}, one for each embedding, and at least one", rows.max(1));
            return Err(InvalidSetting::new("names of embeddings", names.len(), expected));
        }
        for (row, name) in image.iter().zip(&names) {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            if !(length > 0.0 && length.is_finite()) {
                let name = format!("length of the embedding of {name}");
                return Err(InvalidSetting::new(name, length, "a finite one above 0"));
            }
        }
        Ok(Self { image, names, file: String::new() })
    }

    /// Number of embeddings.
    #[expect(clippy::len_without_is_empty, reason = "a gallery has at least one")]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Name of the file that it came from; empty if it came from none.
    pub fn name(&self) -> &str {
        &self.file
    }

    /// A name for its contents, which changes when they do.
    pub fn fingerprint(&self) -> String {
        let mut hash = Fnv::default();
        for (name, row) in self.names.iter().zip(&self.image) {
            hash.add(name.as_bytes());
            row.iter().for_each(|value| hash.add(&value.to_bits().to_le_bytes()));
        }
        hash.name()
    }

    /// Names of the pictures.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The embeddings, `[len, d_embedding]`.
    pub fn image(&self, device: &Device) -> ImageEmbedding {
        self.rows(&(0..self.len()).collect::<Vec<_>>(), device)
    }

    /// Some of the embeddings, `[rows, d_embedding]`.
    ///
    /// # Panics
    /// If there is none of these numbers.
    pub fn rows(&self, rows: &[usize], device: &Device) -> ImageEmbedding {
        let values = rows.iter().flat_map(|&row| self.image[row].iter().copied());
        let shape = [rows.len(), self.image[0].len()];
        let data = TensorData::new(values.collect::<Vec<f32>>(), shape);
        ImageEmbedding(Tensor::from_data(data, device))
    }

    /// For each query, the numbers of the `k` embeddings most similar to it and their cosines, the
    /// most similar first.
    ///
    /// # Shapes
    /// - `queries`: `[n, d_embedding]`, embeddings of captions or of pictures
    ///
    /// # Errors
    /// Queries of another width, of length 0 or that are not finite.
    pub fn nearest(
        &self,
        queries: &Tensor<2>,
        k: usize,
    ) -> Result<Vec<Vec<(usize, f32)>>, InvalidSetting> {
        let width = self.image[0].len();
        if queries.dims()[1] != width {
            let found = queries.dims()[1];
            return Err(InvalidSetting::new("width of the query", found, width.to_string()));
        }
        let values: Vec<f32> = queries.to_data().iter::<f32>().collect();
        values.chunks(width).map(|query| self.nearest_to(query, k)).collect()
    }

    fn nearest_to(&self, query: &[f32], k: usize) -> Result<Vec<(usize, f32)>, InvalidSetting> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let length = dot(query, query).sqrt();
        if !(length > 0.0 && length.is_finite()) {
            return Err(InvalidSetting::new("length of the query", length, "a finite one above 0"));
        }
        let cosine = |row: &[f32]| dot(query, row) / (length * dot(row, row).sqrt());
        let mut all: Vec<(usize, f32)> =
            self.image.iter().map(|row| cosine(row)).enumerate().collect();
        // of equals, the first
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(k);
        Ok(all)
    }

    /// Writes it as safetensors, in f32: `image`; names and the CLIP that they belong to stand in
    /// the header.
    ///
    /// # Errors
    /// The file cannot be written; weights of `bundle` that cannot be read.
    pub fn save(&self, path: impl AsRef<Path>, bundle: &Bundle) -> Result<(), Error> {
        let path = path.as_ref();
        let json = |source| LoadError::Json { path: path.into(), source };
        let label = Label { names: self.names.clone(), weights: bundle.clip_space()? };
        let label = serde_json::to_string(&label).map_err(json)?;
        let shape = vec![self.len(), self.image[0].len()];
        let tensor = ("image".to_string(), shape, self.image.concat());
        Ok(save_tensors(path, &[tensor], &[(LABEL, label)])?)
    }

    /// Reads what [`save`](Self::save) wrote, for a model with the same CLIP.
    ///
    /// # Errors
    /// A file that is missing, damaged or no file of embeddings; embeddings of another CLIP.
    pub fn open(path: impl AsRef<Path>, bundle: &Bundle) -> Result<Self, Error> {
        let path = path.as_ref();
        let (file, name) = (Weights::open(path)?, path.display());
        let Some(label) = file.note(LABEL) else {
            let expected = "a file of embeddings, as the example `embed` writes it";
            let found = "another safetensors file";
            return Err(InvalidSetting::new(name.to_string(), found, expected).into());
        };
        let label: Label = serde_json::from_str(label).map_err(|error| {
            let (what, found) = (format!("note {LABEL} in {name}"), format!("damaged ({error})"));
            InvalidSetting::new(what, found, "what `embed` writes; embed the pictures again")
        })?;
        // a model may lack an image encoder
        let ours = bundle.clip_space()?;
        let other =
            |(stage, weights): &(&String, &String)| label.weights.get(*stage) != Some(weights);
        if let Some((stage, _)) = ours.iter().find(other) {
            let found = label.weights.get(stage).map_or("absent", String::as_str);
            let expected = format!(
                "the CLIP that made them, whose {stage} is {found}; or embed the pictures again"
            );
            let model = bundle.name();
            return Err(InvalidSetting::new(format!("model for {name}"), model, expected).into());
        }
        let width = bundle.d_embedding();
        let shape = [label.names.len(), width];
        let found = file.shape("image").map(<[usize]>::to_vec).unwrap_or_default();
        if found != shape {
            let (key, found) = (format!("shape of image in {name}"), format!("{found:?}"));
            return Err(InvalidSetting::new(key, found, format!("{shape:?}")).into());
        }
        let Some(values) = file.read("image")? else {
            let found = file.dtype("image").map_or(String::new(), |it| format!("{it:?}"));
            let key = format!("image in {name}");
            return Err(InvalidSetting::new(key, found, "F32, F16 or BF16").into());
        };
        let within = |error: InvalidSetting| InvalidSetting {
            name: format!("{} in {name}", error.name),
            ..error
        };
        let gallery = Self::of_rows(&values, width, label.names).map_err(within)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { file, ..gallery })
    }
}
