//! The one error type of the facade.

use std::path::{Path, PathBuf};

use unclip_clip::TokenizerError;
use unclip_core::{InvalidSetting, Printable};
use unclip_nn::checkpoint::{LoadError, NamesFiles};

use crate::StageId;

/// Why a picture could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of range.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// A model file cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tokenizer's files cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A stage that the task needs is not part of the model.
    #[error(
        "the model in {} has no {stage}; expected a folder `{stage}` in it{}",
        Printable(model.display()),
        who_has(stage)
    )]
    MissingStage {
        /// The model's folder.
        model: PathBuf,
        /// The stage.
        stage: String,
    },
    /// Two stages were not trained for each other.
    #[error(
        "{first} and {second} do not belong together: {field} is {} in one and {} in the other; take all \
         stages from one model",
        Printable(found_first),
        Printable(found_second)
    )]
    Incompatible {
        /// One stage.
        first: String,
        /// The other.
        second: String,
        /// The field in which they differ.
        field: &'static str,
        /// Its value in the first stage.
        found_first: String,
        /// Its value in the second stage.
        found_second: String,
    },
    /// The model that should make a picture again is not the one that made it.
    #[error(
        "the picture is of \"{}\", and {} is another model: its {} has the weights {found}, expected {}; \
         take the model that made it, in f32 or f16",
        Printable(made_by), Printable(model.display()), Printable(stage), Printable(weights)
    )]
    OtherModel {
        /// Name of the model that made the picture.
        made_by: String,
        /// Folder of the model that should make it again.
        model: PathBuf,
        /// The first stage in which they differ.
        stage: String,
        /// Fingerprint of that stage's weights in the model that made the picture.
        weights: String,
        /// The same in the model that should make it again.
        found: String,
    },
    /// The observer stopped the work. The pipeline can be used again.
    #[error("stopped in the {stage} after step {done} of {total}")]
    Stopped {
        /// The stage that was stopped.
        stage: StageId,
        /// Steps of that stage that were done.
        done: usize,
        /// Steps of that stage that were planned.
        total: usize,
    },
    /// A stage produced values that are not finite.
    #[error(
        "the {stage} gave values that are not finite{}; try f32, another seed, or less guidance",
        step.map(|step| format!(" in step {step}")).unwrap_or_default()
    )]
    NonFinite {
        /// The stage.
        stage: StageId,
        /// The step of it in which they were first seen, counted from 1; `None` of an encoder. On a
        /// GPU, which is asked only now and then, they may be some steps older.
        step: Option<usize>,
    },
    /// A device cannot be used.
    #[error("device \"{}\": {}", Printable(name), Printable(reason))]
    Device {
        /// The name that was given.
        name: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// A picture cannot be read or written.
    #[error("{}: {}", Printable(path.display()), Printable(message))]
    Picture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

impl NamesFiles for Error {
    fn moved(self, from: &Path, to: &Path) -> Self {
        match self {
            Self::Load(error) => Self::Load(error.moved(from, to)),
            Self::Tokenizer(TokenizerError::Load(error)) => {
                Self::Tokenizer(TokenizerError::Load(error.moved(from, to)))
            }
            other => other,
        }
    }
}

/// Which published models have a stage that not all of them have.
fn who_has(stage: &str) -> &'static str {
    match stage {
        "prior" => {
            "; Karlo, Kandinsky and LAION's models are published with one, and Stable unCLIP with CLIP \
             ViT-L takes Karlo's (the prior model)"
        }
        "image_encoder" => {
            "; Karlo's folder of image variations, Kandinsky's prior and Stable unCLIP have one"
        }
        "autoencoder" => "; Kandinsky's decoder and Stable unCLIP have one",
        "upsampler_text_encoder.0" => "; the upsampler of GLIDE has one",
        "prior_text_encoder" => "; Stable unCLIP takes one with Karlo's prior (the prior model)",
        _ => "",
    }
}
