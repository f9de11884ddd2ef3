//! The options that choose a prior.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use unclip::{Bundle, Gallery, GenerateOptions, PriorKind};

/// Which prior, and how it is used.
#[derive(Debug, Args)]
pub(crate) struct PriorChoice {
    /// diffusion, ar or retrieval: the way from the caption to an image embedding [default: the
    /// model's]
    #[arg(long, value_name = "NAME")]
    prior: Option<PriorKind>,
    /// File of embeddings, as `embed` writes it, of which retrieval takes those nearest to the
    /// caption
    #[arg(long, value_name = "FILE")]
    pub(crate) gallery: Option<PathBuf>,
    /// How many of the nearest embeddings retrieval draws from [default: 1]
    #[arg(long, value_name = "N")]
    neighbors: Option<usize>,
    /// Embeddings that the prior draws for each picture, of which the one closest to the caption is
    /// kept [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) candidates: Option<usize>,
}

impl PriorChoice {
    /// The options with what was asked for.
    pub(crate) fn of(
        &self,
        mut options: GenerateOptions,
        bundle: &Bundle,
    ) -> Result<GenerateOptions, unclip::Error> {
        options.candidates = self.candidates.unwrap_or(options.candidates);
        options.neighbors = self.neighbors;
        options.prior_kind = self.prior;
        let open = |path: &PathBuf| Gallery::open(path, bundle).map(Arc::new);
        options.gallery = self.gallery.as_ref().map(open).transpose()?;
        Ok(options)
    }
}
