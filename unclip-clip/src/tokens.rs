//! Captions as numbers.

use burn::tensor::TensorData;

/// A batch of tokenized captions, all padded to the same length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    rows: Vec<Row>,
    context_length: usize,
}

/// One caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Start mark, tokens, end mark, padding.
    pub(crate) ids: Vec<u32>,
    /// How many of them are not padding.
    pub(crate) len: usize,
    /// Position of the first end mark.
    pub(crate) end: usize,
    /// The end of the caption that did not fit, if any.
    pub(crate) dropped: Option<String>,
}

impl Tokens {
    pub(crate) fn new(rows: Vec<Row>, context_length: usize) -> Self {
        Self { rows, context_length }
    }

    /// Number of captions.
    pub fn batch(&self) -> usize {
        self.rows.len()
    }

    /// Number of positions of each caption.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// `len` captions from `start` on.
    ///
    /// # Panics
    /// If there are not so many.
    #[must_use]
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        Self::new(self.rows[start..start + len].to_vec(), self.context_length)
    }

    /// Ids of caption `row`, padding included.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn ids(&self, row: usize) -> &[u32] {
        &self.rows[row].ids
    }

    /// Number of tokens of caption `row`, its two marks included.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn len(&self, row: usize) -> usize {
        self.rows[row].len
    }

    /// Whether there is no caption.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The end of caption `row` that did not fit into the context, if anything was cut off.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn dropped(&self, row: usize) -> Option<&str> {
        self.rows[row].dropped.as_deref()
    }

    /// Position of each caption's end mark.
    pub(crate) fn end_positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.rows.iter().map(|row| row.end)
    }

    /// `[batch, context_length]` ids.
    pub(crate) fn ids_data(&self) -> TensorData {
        let ids: Vec<i64> =
            self.rows.iter().flat_map(|r| r.ids.iter().map(|&id| id.into())).collect();
        TensorData::new(ids, [self.batch(), self.context_length])
    }

    /// `[batch, context_length]`, true for what is not padding.
    pub(crate) fn mask_data(&self) -> TensorData {
        let mask: Vec<bool> = self
            .rows
            .iter()
            .flat_map(|row| (0..self.context_length).map(|i| i < row.len))
            .collect();
        TensorData::new(mask, [self.batch(), self.context_length])
    }
}
