//! What the examples share that need a model's CLIP alone.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::path::{Path, PathBuf};

use clap::Args;
use unclip::{Bundle, OpenOptions, Precision, Residency, UnClip};

use crate::console::AnyError;

/// Which model, and where it works.
#[derive(Debug, Args)]
pub(crate) struct Clip {
    /// Folder of a model with an image encoder [default: the built-in shapes model]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Folder of the prior, of a model that is published without (Kandinsky, Stable unCLIP)
    #[arg(long, value_name = "DIR", requires = "model")]
    pub(crate) prior_model: Option<PathBuf>,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "cpu")]
    device: String,
    /// f32, f16 or bf16: number format in which networks work
    #[arg(long, value_name = "FORMAT", default_value_t)]
    precision: Precision,
}

impl Clip {
    /// The folders that are read.
    pub(crate) fn models(&self) -> [Option<&Path>; 2] {
        [self.model.as_deref(), self.prior_model.as_deref()]
    }

    /// The model; stages are loaded when they are needed.
    pub(crate) fn open(&self) -> Result<UnClip, AnyError> {
        let bundle = match &self.model {
            Some(folder) => {
                let prior_model = self.prior_model.clone();
                Bundle::open_with(folder, &OpenOptions { prior_model, ..OpenOptions::default() })?
            }
            None => Bundle::shapes()?,
        };
        let placement = (&unclip::device(&self.device)?, self.precision);
        Ok(UnClip::new(bundle, placement, Residency::OneByOne)?)
    }
}
