//! What is held out, and what was measured on it.

use std::collections::BTreeMap;

use image::RgbImage;
use unclip_prior::{DiffusionPrior, DiffusionPriorConfig};

use crate::TrainError;
use crate::objective::Source;
use crate::shown::{Items, Lesson};

/// Items of a batch of an evaluation, at most.
const BATCH: usize = 64;

/// What was measured, by name, and something to look at.
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    /// Numbers; `loss` is among them.
    pub measures: BTreeMap<String, f64>,
    /// Pictures drawn from what was held out, with what they ought to be, in rows.
    pub pictures: Option<RgbImage>,
}

impl Evaluation {
    /// A measure of this name, if it was taken.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.measures.get(name).copied()
    }

    pub(crate) fn with(mut self, name: &str, value: f64) -> Self {
        self.measures.insert(name.into(), value);
        self
    }
}

/// Data that are held out of training.
#[derive(Debug, Clone)]
pub struct HeldOut {
    /// The data and draws; every evaluation has the same.
    pub source: Source,
    /// Items that are measured.
    pub items: usize,
    /// Pictures that are drawn.
    pub shown: usize,
    /// What is drawn beside them by the prior and the decoder; the captions of the pictures, if there is
    /// nothing.
    pub captions: Vec<String>,
    /// The prior that goes with the decoder, if there is one.
    pub prior: Option<(DiffusionPriorConfig, DiffusionPrior)>,
}

impl HeldOut {
    /// Of so many items, of which some are shown.
    pub fn new(source: Source, items: usize, shown: usize) -> Self {
        let items = source.data.items().map_or(items, |all| all.min(items)).max(1);
        // whole batches: the largest that divides them, if it is not too small
        let divides = (BATCH / 4..=BATCH).rev().find(|batch| items.is_multiple_of(*batch));
        let batch = if items <= BATCH { items } else { divides.unwrap_or(BATCH) };
        let source = Source { batch, ..source };
        Self { source, items, shown, captions: Vec::new(), prior: None }
    }

    /// Steps whose batches are all of the items.
    pub(crate) fn steps(&self) -> std::ops::Range<u64> {
        0..(self.items / self.source.batch).max(1) as u64
    }

    /// Items that are shown, for pictures at sides up to `side`.
    pub(crate) fn shown(&self, side: u32) -> Result<Items, TrainError> {
        Ok(self.source.data.batch(0, self.shown, side, Lesson::Mixed)?)
    }

    /// The captions of what is shown.
    pub(crate) fn captions_of(&self, items: &Items) -> Vec<String> {
        let own = items.iter().map(|item| item.caption().to_string());
        if self.captions.is_empty() { own.collect() } else { self.captions.clone() }
    }
}
