//! What is held out, and what was measured on it.

use std::collections::BTreeMap;
use std::ops::Range;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use unclip_prior::{DiffusionPrior, DiffusionPriorConfig};

use crate::TrainError;
use crate::objective::Source;
use crate::shown::{Items, Lesson};

/// Items of a batch of an evaluation, at most.
const BATCH: usize = 64;

/// A mean over some items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// The number of items.
    pub n: u64,
}

impl Mean {
    /// Over the items of both.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        let n = self.n.saturating_add(other.n);
        let sum = self.value * self.n as f64 + other.value * other.n as f64;
        Self { value: sum / n.max(1) as f64, n }
    }
}

/// What was measured, by name, and something to look at.
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    /// Means; `loss` is among them.
    pub measures: BTreeMap<String, Mean>,
    /// Pictures drawn from what was held out, with what they ought to be, in rows.
    pub pictures: Option<RgbImage>,
}

impl Evaluation {
    /// A measure of this name, if it was taken.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.measures.get(name).map(|mean| mean.value)
    }

    pub(crate) fn with(mut self, name: &str, value: f64, n: usize) -> Self {
        self.measures.insert(name.into(), Mean { value, n: n as u64 });
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
    /// Which of the data's parts of so many items is measured, counted from 0.
    pub part: u64,
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
        Self { source, items, part: 0, shown, captions: Vec::new(), prior: None }
    }

    /// Steps whose batches are all of the items.
    pub(crate) fn steps(&self) -> Range<u64> {
        let n = (self.items / self.source.batch).max(1) as u64;
        self.part * n..(self.part + 1) * n
    }

    /// Whole parts that the data have.
    pub(crate) fn parts(&self) -> usize {
        let measured = (self.items / self.source.batch).max(1) * self.source.batch;
        self.source.data.items().map_or(1, |all| (all / measured).max(1))
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
