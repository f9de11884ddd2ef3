//! What a plan opens: its data, and sizes of a CLIP that it takes over.

use std::path::PathBuf;
use std::sync::Arc;

use unclip_clip::{ImageEncoderConfig, TextEncoderConfig};
use unclip_core::InvalidSetting;
use unclip_shapes::ShapesWorld;

use super::fields::{ClipPlan, DataPlan, Plan};
use crate::Data;
use crate::dataset::{Complain, DataError, Dataset, DatasetOptions, Decode};

impl DataPlan {
    fn dataset(
        &self,
        (paths, except): (&[PathBuf], Vec<PathBuf>),
        seed: u64,
        (decode, complain): (Arc<Decode>, Arc<Complain>),
    ) -> Result<Dataset, DataError> {
        let Self { max_bad, fitting, .. } = *self;
        let options = DatasetOptions { paths: paths.to_vec(), max_bad, fitting, except, seed };
        Dataset::open(&options, decode, complain)
    }
}

/// What a model is trained on, and what it is measured on.
pub type Opened = (Arc<dyn Data>, Option<Arc<dyn Data>>);

impl Plan {
    /// Opens the data that are trained on, and those that are held out, if there are any. `decode` turns a
    /// picture's file into pixels; `complain` hears of everything that is left out.
    ///
    /// # Errors
    /// No data, or both kinds; data that cannot be read; more unusable items than there may be.
    pub fn open(&self, decode: Arc<Decode>, complain: Arc<Complain>) -> Result<Opened, DataError> {
        let (data, seed, evaluation) = (&self.data, self.run.seed, &self.evaluation);
        let hears = || (decode.clone(), complain.clone());
        let own_places = || vec![self.run.out.clone(), self.model()];
        let other = match evaluation.paths.as_slice() {
            [] => None,
            paths => Some(data.dataset((paths, own_places()), seed, hears())?),
        };
        if data.shapes {
            if let Some(path) = data.paths.first() {
                let expected = "absent beside data.shapes";
                return Err(InvalidSetting::new("data.paths", path.display(), expected).into());
            }
            let other: Option<Arc<dyn Data>> = other.map(|it| Arc::new(it) as _);
            return Ok((Arc::new(ShapesWorld::new(seed)), other));
        }
        let own = data.dataset((&data.paths, own_places()), seed, hears())?;
        let (own, held_out) = match other {
            Some(other) => (own, Some(other)),
            None => own.split(evaluation.held_out),
        };
        Ok((Arc::new(own), held_out.map(|it| Arc::new(it) as _)))
    }

    /// The plan with a CLIP of these sizes, as it is found in the folder that it is taken from. Sizes of
    /// other stages that were those of the plan's own CLIP become those of this one.
    #[must_use]
    pub fn with_clip(mut self, text: TextEncoderConfig, image: ImageEncoderConfig) -> Self {
        let sizes = |text: &TextEncoderConfig| {
            (text.d_embedding, text.transformer.d_model, text.context_length)
        };
        let (old, new) = (sizes(&self.clip.text), sizes(&text));
        let follow = |field: &mut usize, old: usize, new: usize| {
            if *field == old {
                *field = new;
            }
        };
        let priors = [
            self.prior
                .as_mut()
                .map(|it| &mut it.config)
                .map(|it| [&mut it.d_embedding, &mut it.d_text, &mut it.context_length]),
            self.ar_prior
                .as_mut()
                .map(|it| &mut it.config)
                .map(|it| [&mut it.d_embedding, &mut it.d_text, &mut it.context_length]),
        ];
        for [d_embedding, d_text, context_length] in priors.into_iter().flatten() {
            follow(d_embedding, old.0, new.0);
            follow(d_text, old.1, new.1);
            follow(context_length, old.2, new.2);
        }
        let decoder = &mut self.decoder.config;
        follow(&mut decoder.d_embedding, old.0, new.0);
        if let Some(d_text) = &mut decoder.d_text {
            follow(d_text, old.1, new.1);
        }
        Self { clip: ClipPlan { text, image, ..self.clip }, ..self }
    }
}
