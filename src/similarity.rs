//! How well pictures and captions go together, according to CLIP.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use image::RgbImage;
use unclip_core::{ImageEmbedding, InvalidSetting, TextEmbedding, normalize};

use crate::finite::finite;
use crate::{Error, StageId, UnClip};

/// How well each of some pictures goes with each of some captions, according to CLIP.
#[derive(Debug, Clone)]
pub struct Similarity {
    /// `[pictures, captions]`.
    cosines: Vec<Vec<f32>>,
    probabilities: Vec<Vec<f32>>,
}

impl Similarity {
    /// From embeddings, a row for each picture and each caption.
    ///
    /// # Shapes
    /// - `image`: `[pictures, d_embedding]`
    /// - `text`: its pooled states, `[captions, d_embedding]`
    ///
    /// # Errors
    /// Embeddings of two widths.
    pub fn of(
        image: &ImageEmbedding,
        text: &TextEmbedding,
        logit_scale: f64,
    ) -> Result<Self, InvalidSetting> {
        let (found, expected) = (image.0.dims()[1], text.pooled.dims()[1]);
        if found != expected {
            let name = "width of the image embeddings";
            return Err(InvalidSetting::new(name, found, expected.to_string()));
        }
        let image = normalize(image.0.clone());
        let cosines = image.matmul(normalize(text.pooled.clone()).transpose());
        let probabilities = softmax(cosines.clone() * logit_scale, 1);
        let rows = |of: Tensor<2>| -> Vec<Vec<f32>> {
            let [_, width] = of.dims();
            let values: Vec<f32> = of.into_data().iter::<f32>().collect();
            values.chunks(width.max(1)).map(<[f32]>::to_vec).collect()
        };
        Ok(Self { cosines: rows(cosines), probabilities: rows(probabilities) })
    }

    /// Cosine of a picture and a caption, by their numbers.
    ///
    /// # Panics
    /// If there is none of this number.
    pub fn cosine(&self, picture: usize, caption: usize) -> f32 {
        self.cosines[picture][caption]
    }

    /// Probability that CLIP gives a caption among all of them, of a picture: they sum to 1.
    ///
    /// # Panics
    /// If there is none of this number.
    pub fn probability(&self, picture: usize, caption: usize) -> f32 {
        self.probabilities[picture][caption]
    }

    /// Numbers of the captions by how well they go with a picture, the best first.
    ///
    /// # Panics
    /// If there is no picture of this number.
    pub fn best_captions(&self, picture: usize) -> Vec<usize> {
        let row = &self.cosines[picture];
        let mut numbers: Vec<usize> = (0..row.len()).collect();
        numbers.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        numbers
    }
}

impl UnClip {
    /// Which captions go with which pictures, according to the model's CLIP: zero-shot
    /// classification, as in CLIP's paper.
    ///
    /// # Example
    /// ```no_run
    /// use unclip::{UnClip, device, read_picture};
    ///
    /// let unclip = UnClip::shapes(&device("flex")?)?;
    /// let captions = ["a red circle", "a blue star"];
    /// let found = unclip.similarity(&[read_picture("picture.png")?], &captions)?;
    /// let best = found.best_captions(0)[0];
    /// println!("{}: {:.0} %", captions[best], 100.0 * found.probability(0, best));
    /// # Ok::<(), unclip::Error>(())
    /// ```
    ///
    /// # Errors
    /// No picture or no caption; a model without an image encoder; weights that cannot be read; a
    /// picture that cannot be fitted into a square.
    pub fn similarity<S: AsRef<str>>(
        &self,
        pictures: &[RgbImage],
        captions: &[S],
    ) -> Result<Similarity, Error> {
        if captions.is_empty() {
            return Err(InvalidSetting::new("captions", 0, "at least 1").into());
        }
        let image = self.embed_images(pictures)?;
        let text = self.embed_texts(captions)?;
        let pooled = finite(StageId::TextEncoder, text.pooled)?;
        let logit_scale = self.bundle.clip_text()?.encoder.config().logit_scale;
        Ok(Similarity::of(&image, &TextEmbedding { pooled, ..text }, logit_scale)?)
    }
}
