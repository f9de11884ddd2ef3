//! One file of embeddings.

use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use unclip_core::{ImageEmbedding, InvalidSetting, TextEmbedding};
use unclip_nn::checkpoint::{LoadError, Weights, save_tensors};

/// Whom embeddings come from, and which of them are in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// CLIP's space.
    pub(super) space: String,
    /// The name of the data.
    pub(super) data: String,
    /// Which shard of how many.
    pub(super) place: (usize, usize),
}

impl Origin {
    /// Where the shard lies.
    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        let (index, of) = self.place;
        folder.join(format!("embeddings-{index:05}-of-{of:05}.safetensors"))
    }

    fn notes(&self) -> [(&'static str, String); 3] {
        let (index, of) = self.place;
        [
            ("space", self.space.clone()),
            ("data", self.data.clone()),
            ("shard", format!("{index} of {of}")),
        ]
    }

    /// Refuses a file that comes from elsewhere.
    pub(super) fn check(&self, file: &Weights) -> Result<(), LoadError> {
        for (name, expected) in self.notes() {
            let found = file.note(name).unwrap_or("absent");
            if found != expected {
                let expected = format!(
                    "{expected}: these embeddings are of another {name}; remove the folder and make \
                     them anew (--stage embeddings), or choose another (embeddings.path)"
                );
                let source = InvalidSetting::new(name, found, expected);
                return Err(LoadError::Config { path: file.path().into(), source });
            }
        }
        Ok(())
    }
}

/// The embeddings of a caption: its place in CLIP's space, and its tokens without padding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CaptionRow {
    pub(crate) pooled: Vec<f32>,
    pub(crate) tokens: Vec<f32>,
}

/// Captions as rows of their own.
pub(super) fn caption_rows(text: &TextEmbedding) -> Vec<CaptionRow> {
    let [batch, length, width] = text.tokens.dims();
    let floats = |data: TensorData| data.iter::<f32>().collect::<Vec<f32>>();
    let pooled = floats(text.pooled.clone().into_data());
    let tokens = floats(text.tokens.clone().into_data());
    let mask: Vec<bool> = text.mask.clone().into_data().iter::<bool>().collect();
    let d = pooled.len() / batch;
    let row = |row: usize| {
        let real = mask[row * length..(row + 1) * length].iter().filter(|it| **it).count();
        let start = row * length * width;
        CaptionRow {
            pooled: pooled[row * d..(row + 1) * d].to_vec(),
            tokens: tokens[start..start + real * width].to_vec(),
        }
    };
    (0..batch).map(row).collect()
}

/// Whole numbers up to which f32 has all.
const EXACT: usize = 1 << 24;

/// The embeddings of a shard's items, as they are collected.
#[derive(Debug, Default)]
pub(super) struct Collected {
    image: Vec<f32>,
    pooled: Vec<f32>,
    tokens: Vec<f32>,
    /// The first caption of each item, and the end.
    captions: Vec<f32>,
    /// The first value of the tokens of each caption.
    starts: Vec<usize>,
}

impl Collected {
    /// An item with the embeddings of its captions.
    pub(super) fn add(&mut self, image: &[f32], captions: &[CaptionRow]) {
        self.captions.push(self.starts.len() as f32);
        self.image.extend(image);
        for caption in captions {
            self.starts.push(self.tokens.len());
            self.pooled.extend(&caption.pooled);
            self.tokens.extend(&caption.tokens);
        }
    }

    /// An item that cannot be used.
    pub(super) fn skip(&mut self, d_embedding: usize) {
        self.captions.push(self.starts.len() as f32);
        self.image.extend(std::iter::repeat_n(0.0, d_embedding));
    }

    pub(super) fn write(
        mut self,
        folder: &Path,
        origin: &Origin,
        [d, width]: [usize; 2],
    ) -> Result<(), LoadError> {
        let (items, captions) = (self.captions.len(), self.starts.len());
        self.captions.push(captions as f32);
        let tokens = self.tokens.len() / width;
        if tokens > EXACT {
            let found = format!("{tokens} tokens in {}", origin.path(folder).display());
            let expected = format!("at most {EXACT}: put fewer items into a file");
            let source = InvalidSetting::new("embeddings.per_shard", found, expected);
            return Err(LoadError::Config { path: origin.path(folder), source });
        }
        let starts = self.starts.into_iter().map(|start| (start / width) as f32);
        let starts: Vec<f32> = starts.chain([tokens as f32]).collect();
        let tensors = [
            ("image".into(), vec![items, d], self.image),
            ("pooled".into(), vec![captions, d], self.pooled),
            ("tokens".into(), vec![tokens, width], self.tokens),
            ("captions".into(), vec![items + 1], self.captions),
            ("starts".into(), vec![captions + 1], starts),
        ];
        save_tensors(&origin.path(folder), &tensors, &origin.notes())
    }
}

/// Shards whose files stay open.
const OPEN: usize = 256;

/// A shard whose indices are in memory.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    /// The open file, of the first shards alone: a process may not have any number of open files.
    file: Option<Weights>,
    widths: [usize; 2],
    captions: Vec<usize>,
    starts: Vec<usize>,
}

impl Shard {
    pub(super) fn open(folder: &Path, origin: &Origin) -> Result<Self, LoadError> {
        let path = origin.path(folder);
        let file = Weights::open(&path)?;
        origin.check(&file)?;
        let index = |name: &str| -> Result<Vec<usize>, LoadError> {
            let values = file.read(name)?.unwrap_or_default();
            let ordered = values.windows(2).all(|pair| pair[0] <= pair[1]);
            if values.is_empty() || !ordered || values[0] != 0.0 {
                return Err(damaged(&file, name));
            }
            Ok(values.into_iter().map(|value| value as usize).collect())
        };
        let (captions, starts) = (index("captions")?, index("starts")?);
        let fits = |name: &str, end: Option<&usize>| {
            file.shape(name).and_then(|shape| shape.first()).zip(end).is_some_and(|(a, b)| a == b)
        };
        if !fits("pooled", captions.last()) || captions.last() != Some(&(starts.len() - 1)) {
            return Err(damaged(&file, "captions"));
        }
        if !fits("tokens", starts.last()) {
            return Err(damaged(&file, "starts"));
        }
        let width = |name: &str| file.shape(name).and_then(|shape| shape.last().copied());
        let widths = ["image", "tokens"].map(|name| width(name).unwrap_or(0));
        let file = (origin.place.0 < OPEN).then_some(file);
        Ok(Self { path, file, widths, captions, starts })
    }

    /// Number of items.
    pub(super) fn len(&self) -> usize {
        self.captions.len() - 1
    }

    /// How many captions an item has; none if it cannot be used.
    pub(super) fn n_captions(&self, item: usize) -> usize {
        self.captions[item + 1] - self.captions[item]
    }

    pub(super) fn image(&self, item: usize) -> Result<Vec<f32>, LoadError> {
        self.rows("image", item..item + 1)
    }

    pub(super) fn caption(&self, item: usize, caption: usize) -> Result<CaptionRow, LoadError> {
        let row = self.captions[item] + caption;
        Ok(CaptionRow {
            pooled: self.rows("pooled", row..row + 1)?,
            tokens: self.rows("tokens", self.starts[row]..self.starts[row + 1])?,
        })
    }

    fn rows(&self, name: &str, rows: std::ops::Range<usize>) -> Result<Vec<f32>, LoadError> {
        let read =
            |file: &Weights| file.read_rows(name, rows.clone())?.ok_or_else(|| damaged(file, name));
        match &self.file {
            Some(file) => read(file),
            None => read(&Weights::open(&self.path)?),
        }
    }

    /// Widths of embeddings and of tokens.
    pub(super) fn widths(&self) -> [usize; 2] {
        self.widths
    }
}

fn damaged(file: &Weights, name: &str) -> LoadError {
    let message = format!("{name} is not as this library writes it; make the embeddings anew");
    LoadError::Header { path: file.path().into(), message }
}

/// Pictures' embeddings as a tensor's data.
pub(super) fn image_data(rows: Vec<Vec<f32>>, d: usize) -> TensorData {
    let n = rows.len();
    TensorData::new(rows.concat(), [n, d])
}

/// The pictures' part of an embedding as rows.
pub(super) fn image_rows(image: &ImageEmbedding) -> Vec<Vec<f32>> {
    let [_, d] = image.0.dims();
    let values: Vec<f32> = image.0.clone().into_data().iter::<f32>().collect();
    values.chunks(d).map(<[f32]>::to_vec).collect()
}
