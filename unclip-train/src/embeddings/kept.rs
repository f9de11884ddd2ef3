//! Embeddings that are there, all shards of a data set.

use std::path::Path;

use burn::tensor::{Bool, Device, Tensor, TensorData};
use rayon::prelude::*;
use unclip_core::{InvalidSetting, TextEmbedding};
use unclip_nn::checkpoint::LoadError;

use super::options::{EmbeddingsOptions, missing};
use super::shard::{CaptionRow, Origin, Shard, caption_rows, image_data};
use crate::TrainError;
use crate::objective::Batch;
use crate::shown::{Data, Numbered};

/// Embeddings of a whole data set.
#[derive(Debug)]
pub struct Embeddings {
    shards: Vec<Shard>,
    per_shard: usize,
    /// What is said where a caption is dropped.
    empty: CaptionRow,
    context_length: usize,
    widths: [usize; 2],
}

impl Embeddings {
    /// Opens the embeddings of these data by the CLIP of this space. `empty` is what that CLIP says of the
    /// empty caption.
    ///
    /// # Errors
    /// Shards that are missing, damaged, of another CLIP or of other data.
    pub fn open(
        options: &EmbeddingsOptions,
        (data, space): (&dyn Data, &str),
        empty: &TextEmbedding,
    ) -> Result<Self, TrainError> {
        let places = options.places(data)?;
        let origin = |place| Origin { space: space.into(), data: data.name(), place };
        let absent = missing(&options.folder, places.iter().map(|place| origin(*place)));
        if !absent.is_empty() {
            let found = format!(
                "{}: {} of {} shards missing",
                show(&options.folder),
                absent.len(),
                places.len()
            );
            let expected = "embeddings of all the data: train the stage embeddings first";
            return Err(InvalidSetting::new("embeddings", found, expected).into());
        }
        let opened = places.iter().map(|place| Shard::open(&options.folder, &origin(*place)));
        let shards = opened.collect::<Result<Vec<_>, LoadError>>()?;
        let [_, context_length, width] = empty.tokens.dims();
        let widths = [empty.pooled.dims()[1], width];
        for (shard, place) in shards.iter().zip(&places) {
            let items = options.items_of(place.0, data);
            if shard.widths() != widths || shard.len() != items.len() {
                let found = format!("{} items of widths {:?}", shard.len(), shard.widths());
                let expected =
                    format!("{} items of widths {widths:?}; make them anew", items.len());
                let source = InvalidSetting::new("embeddings", found, expected);
                let path = origin(*place).path(&options.folder);
                return Err(LoadError::Config { path, source }.into());
            }
        }
        let empty = caption_rows(empty).swap_remove(0);
        Ok(Self { shards, per_shard: options.per_shard, empty, context_length, widths })
    }

    /// Whether an item could be embedded.
    pub fn is_usable(&self, item: usize) -> bool {
        let (shard, at) = (item / self.per_shard, item % self.per_shard);
        self.shards.get(shard).is_some_and(|it| at < it.len() && it.n_captions(at) > 0)
    }

    /// Embeddings of pictures, `[items, d_embedding]`.
    pub(crate) fn images(&self, items: &[Numbered]) -> Result<TensorData, TrainError> {
        let rows = items.par_iter().map(|it| {
            let (shard, at) = self.place(it.item)?;
            Ok(shard.image(at)?)
        });
        Ok(image_data(rows.collect::<Result<_, TrainError>>()?, self.widths[0]))
    }

    /// Embeddings of captions, that of the empty one where a caption is dropped.
    pub(crate) fn captions(
        &self,
        items: &[Numbered],
        dropped: &[bool],
    ) -> Result<KeptCaptions, TrainError> {
        let rows = items.par_iter().zip(dropped).map(|(it, dropped)| {
            if *dropped {
                return Ok(self.empty.clone());
            }
            let (shard, at) = self.place(it.item)?;
            Ok(shard.caption(at, it.caption)?)
        });
        let rows: Vec<CaptionRow> = rows.collect::<Result<_, TrainError>>()?;
        Ok(KeptCaptions::new(&rows, self.context_length, self.widths))
    }

    fn place(&self, item: usize) -> Result<(&Shard, usize), TrainError> {
        if !self.is_usable(item) {
            let expected = "an item that could be embedded; make the embeddings anew";
            return Err(InvalidSetting::new(
                "embeddings",
                format!("none of item {item}"),
                expected,
            )
            .into());
        }
        Ok((&self.shards[item / self.per_shard], item % self.per_shard))
    }
}

fn show(path: &Path) -> impl std::fmt::Display + '_ {
    path.display()
}

/// Embeddings of captions in the host's memory.
#[derive(Debug, Clone)]
pub(crate) struct KeptCaptions {
    pooled: TensorData,
    tokens: TensorData,
    /// 1 where there is a token.
    mask: TensorData,
}

impl KeptCaptions {
    fn new(rows: &[CaptionRow], length: usize, [d, width]: [usize; 2]) -> Self {
        let mut pooled: Vec<f32> = Vec::with_capacity(rows.len() * d);
        let mut tokens = vec![0.0; rows.len() * length * width];
        let mut mask = vec![0i32; rows.len() * length];
        for (at, row) in rows.iter().enumerate() {
            pooled.extend(&row.pooled);
            let start = at * length * width;
            tokens[start..start + row.tokens.len()].copy_from_slice(&row.tokens);
            let real = row.tokens.len() / width;
            mask[at * length..at * length + real].fill(1);
        }
        let n = rows.len();
        Self {
            pooled: TensorData::new(pooled, [n, d]),
            tokens: TensorData::new(tokens, [n, length, width]),
            mask: TensorData::new(mask, [n, length]),
        }
    }

    /// The same on a device.
    pub(crate) fn on(self, device: &Device) -> TextEmbedding {
        let mask = Tensor::<2, burn::tensor::Int>::from_data(self.mask, device);
        let mask: Tensor<2, Bool> = mask.equal_elem(1);
        TextEmbedding {
            pooled: Tensor::from_data(self.pooled, device),
            tokens: Tensor::from_data(self.tokens, device),
            mask,
        }
    }
}

impl Batch for KeptCaptions {
    fn narrow(&self, start: usize, len: usize) -> Self {
        Self {
            pooled: Batch::narrow(&self.pooled, start, len),
            tokens: Batch::narrow(&self.tokens, start, len),
            mask: Batch::narrow(&self.mask, start, len),
        }
    }
}
