//! What the two versions of Kandinsky differ in.

use crate::layouts::diffusers::unets::DECODER_BLOCKS;
use crate::layouts::diffusers::{mclip, schedulers};

/// A version: pipelines, and parts of each folder with the classes that are read.
pub(super) struct Family {
    pub(super) name: &'static str,
    /// The pipelines of the decoder's folder: of pictures, of parts of a picture, of
    /// pictures that follow a hint (2.2), and others.
    pub(super) decoders: &'static [&'static str],
    /// Those of the prior's folder.
    pub(super) priors: &'static [&'static str],
    pub(super) decoder_parts: &'static [(&'static str, &'static [&'static str])],
    /// Where its prior is published.
    pub(super) prior_folder: &'static str,
    /// Whether its decoder reads captions, by a text tower in its folder.
    pub(super) reads_captions: bool,
    /// Context tokens that the U-Net makes of an embedding: no field says so.
    pub(super) image_tokens: usize,
}

/// The schedulers that users of either have.
pub(super) const SCHEDULERS: [&str; 2] = [schedulers::DDPM, schedulers::DDIM];

/// The class of 2.1's tokenizer: the one of its names that reads `tokenizer.json` in every version.
pub(super) const XLM_ROBERTA: &str = "XLMRobertaTokenizerFast";

pub(super) const KANDINSKY_2_2: Family = Family {
    name: "Kandinsky 2.2",
    decoders: &[
        "KandinskyV22Pipeline",
        "KandinskyV22InpaintPipeline",
        "KandinskyV22ControlnetPipeline",
        "KandinskyV22Img2ImgPipeline",
        "KandinskyV22ControlnetImg2ImgPipeline",
    ],
    priors: &["KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline"],
    decoder_parts: &[
        ("unet", &[DECODER_BLOCKS.class]),
        ("scheduler", &SCHEDULERS),
        ("movq", &["VQModel"]),
    ],
    prior_folder: "kandinsky-2-2-prior",
    reads_captions: false,
    image_tokens: 32,
};

pub(super) const KANDINSKY_2_1: Family = Family {
    name: "Kandinsky 2.1",
    decoders: &["KandinskyPipeline", "KandinskyInpaintPipeline", "KandinskyImg2ImgPipeline"],
    priors: &["KandinskyPriorPipeline"],
    decoder_parts: &[
        ("unet", &[DECODER_BLOCKS.class]),
        ("scheduler", &SCHEDULERS),
        ("movq", &["VQModel"]),
        ("text_encoder", &[mclip::CLASS]),
        ("tokenizer", &[XLM_ROBERTA, "XLMRobertaTokenizer"]),
    ],
    prior_folder: "kandinsky-2-1-prior",
    reads_captions: true,
    image_tokens: 10,
};

impl Family {
    /// Both versions.
    pub(super) const ALL: [&'static Self; 2] = [&KANDINSKY_2_2, &KANDINSKY_2_1];

    /// The version that one of these pipelines is of.
    pub(super) fn of(pipelines: &[String]) -> &'static Self {
        Self::ALL.into_iter().find(|it| it.has_one_of(pipelines)).unwrap_or(&KANDINSKY_2_2)
    }

    /// Whether one of these pipelines is of this version.
    pub(super) fn has_one_of(&self, pipelines: &[String]) -> bool {
        let own = [self.decoders, self.priors].concat();
        pipelines.iter().any(|name| own.contains(&name.as_str()))
    }
}
