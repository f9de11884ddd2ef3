//! What a stage starts from: fresh weights, or those of a bundle.

use unclip_core::InvalidSetting;
use unclip_decoder::DecoderConfig;
use unclip_nn::checkpoint::{StageConfig, StageFiles, Weights};

use super::Training;
use crate::objective::FrozenClip;
use crate::shown::Data;
use crate::vocabulary::copy_vocabulary;
use crate::{TrainError, train_vocabulary, trainable};

impl Training {
    /// The weights that a network starts from: those of the bundle to start from, if there is one,
    /// else the fresh ones. `space` is that of the CLIP which it is to work with.
    pub(super) fn first<T: StageConfig + Clone>(
        &self,
        name: &str,
        space: Option<&str>,
        config: &T,
        fresh: T::Network,
    ) -> Result<T::Network, TrainError> {
        let Some(folder) = &self.from else { return Ok(fresh) };
        let folder = folder.join(name);
        let found = StageFiles::<T>::open(&folder)?.manifest.embedding_space;
        if let Some(space) = space.filter(|space| *space != found) {
            let name = format!("CLIP of the {name} to start from");
            let expected = format!("{space}, which the bundle has; or start from fresh weights");
            return Err(InvalidSetting::new(name, found, expected).into());
        }
        let weights = Weights::open(&folder.join("model.safetensors"))?;
        let files = StageFiles::of(&folder.join("config.json"), config.clone(), weights)?;
        Ok(trainable(files.load(self.device())?))
    }

    /// The CLIP that the decoder to start from was trained with, if that is another one than the
    /// bundle's: it has to be beside that decoder.
    pub(super) fn other_clip(&self, space: &str) -> Result<Option<FrozenClip>, TrainError> {
        let Some(folder) = &self.from else { return Ok(None) };
        let decoder = StageFiles::<DecoderConfig>::open(&folder.join("decoder"))?;
        let known = decoder.manifest.embedding_space;
        if known == space {
            return Ok(None);
        }
        match self.clip_of(folder)? {
            (clip, found) if found == known => Ok(Some(clip)),
            (_, found) => {
                let name = "CLIP beside the decoder to start from";
                Err(InvalidSetting::new(name, found, format!("{known}, the decoder's")).into())
            }
        }
    }

    /// Learns the vocabulary, or takes that of the bundle to start from, whose token numbers its
    /// text tower was trained on.
    pub(super) fn prepare_vocabulary(&self, data: &dyn Data) -> Result<(), TrainError> {
        let folder = self.bundle().join("tokenizer");
        if let Some(from) = &self.from {
            return copy_vocabulary(&from.join("tokenizer"), &folder);
        }
        if folder.join("merges.txt").exists() {
            return Ok(());
        }
        train_vocabulary(&folder, self.plan.vocabulary.merges, data.captions())
    }
}
