//! What a layout is, where one is written to, and how its tables of names are read.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::Value;
use unclip_clip::{Padding, is_of_pieces, vocabulary_files};
use unclip_core::{InvalidSetting, Limit};
use unclip_nn::Precision;
use unclip_nn::checkpoint::{LoadError, read_file, save_config, write_whole};

use crate::bundle::Parts;
use crate::{Bundle, Error, OpenOptions};

/// A way in which a model's stages lie in a folder.
pub(super) trait Layout: Sync {
    /// Its name, as the command line spells it.
    fn name(&self) -> &'static str;

    /// Whether a folder is of this layout, as far as the names of its files tell.
    fn recognizes(&self, folder: &Path) -> bool;

    /// Whether its models may have the prior in another folder.
    fn takes_prior_model(&self) -> bool {
        false
    }

    /// Opens a folder: reads and checks configurations and headers.
    fn open(&self, folder: &Path, options: &OpenOptions) -> Result<Parts, Error>;

    /// Whether models can be written in it.
    fn is_written(&self) -> bool {
        false
    }

    /// How a model is written: a call that does it, into a new folder. What the layout cannot hold
    /// is refused here, before anything is written.
    ///
    /// # Panics
    /// If the layout is not written.
    fn writer<'a>(&self, _: &'a Bundle, _: Precision) -> Result<Writer<'a>, Error> {
        unreachable!("the layout {} is not written", self.name())
    }
}

/// The padding of GPT-2's tokenizer, of which there is no choice.
pub(super) fn learned_padding(asked: Option<Padding>) -> Result<Option<Padding>, InvalidSetting> {
    match asked.filter(|it| *it != Padding::Learned) {
        Some(other) => {
            let expected = "absent: the text tower of this model has learned what stands there";
            Err(InvalidSetting::new("padding", other, expected))
        }
        None => Ok(Some(Padding::Learned)),
    }
}

/// The second of the pair whose first is `name`, in a table of names.
pub(super) fn find(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(from, _)| *from == name).map(|&(_, to)| to)
}

/// Writes a model.
pub(super) type Writer<'a> = Box<dyn Fn(&Target<'_>) -> Result<(), Error> + 'a>;

/// Where stages go, and how.
pub(super) struct Target<'a> {
    pub(super) folder: &'a Path,
    pub(super) format: Precision,
    pub(super) device: &'a Device,
}

impl Target<'_> {
    /// The path of a file, its folder made if need be.
    pub(super) fn place(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        if let Some(folder) = path.parent() {
            let io = |source| LoadError::Io { path: folder.into(), source };
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        Ok(path)
    }

    /// Writes configuration files.
    pub(super) fn configs<S: AsRef<str>>(&self, files: &[(S, Value)]) -> Result<(), Error> {
        for (name, config) in files {
            save_config(&self.place(name.as_ref())?, config)?;
        }
        Ok(())
    }

    /// Copies vocabulary and merges to a folder in it; of a tokenizer that has neither, the files
    /// that it has.
    pub(super) fn copy_words(&self, words: &Path, folder: &str) -> Result<(), Error> {
        if !is_of_pieces(words) {
            let (vocab, merges) = vocabulary_files(words)?;
            write_whole(&self.place(&format!("{folder}/vocab.json"))?, &vocab)?;
            return Ok(write_whole(&self.place(&format!("{folder}/merges.txt"))?, &merges)?);
        }
        let names = [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "sentencepiece.bpe.model",
        ];
        for name in names {
            let path = words.join(name);
            if path.exists() {
                let bytes = read_file(&path, Limit::VocabularyBytes)?;
                write_whole(&self.place(&format!("{folder}/{name}"))?, &bytes)?;
            }
        }
        Ok(())
    }
}
