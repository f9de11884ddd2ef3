//! A model written in the folder layout of diffusers, for the Python world.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use unclip_nn::Precision;
use unclip_nn::checkpoint::{
    LoadError, StageConfig, StageFiles, read_file, save_config, save_part, write_folder,
    write_whole,
};

use super::{MODEL, NETWORK, describe};
use crate::{Bundle, Error};

/// Bytes of a vocabulary or merge file that are copied.
const MAX_BYTES: u64 = 64 << 20;

impl Bundle {
    /// Writes the model as a new folder in the layout of diffusers, whose `UnCLIPPipeline` opens
    /// it; a model without a prior is for its `UnCLIPImageVariationPipeline`.
    ///
    /// The folder is there whole or not at all. One stage after the other is loaded to `device`,
    /// which does not compute anything. Weights that were read in `format` come out as the same
    /// bytes. Default numbers of steps and guidance scales have no place in the layout: diffusers'
    /// pipelines have their own.
    ///
    /// # Errors
    /// A model that diffusers' classes cannot hold, named by its field, before anything is
    /// written; weights that cannot be read, or that are too large for `format`; a place where
    /// something stands already, or that cannot be written.
    pub fn save_diffusers(
        &self,
        folder: &Path,
        format: Precision,
        device: &Device,
    ) -> Result<(), Error> {
        let configs = describe::files(self, format)?;
        write_folder(folder, |folder| {
            let target = Target { folder, format, device };
            for (name, config) in &configs {
                save_config(&target.place(name)?, config)?;
            }
            self.copy_tokenizer(&target)?;
            target.write(&self.text_encoder, &[("", "text_encoder", MODEL)])?;
            if let Some(files) = &self.image_encoder {
                target.write(files, &[("", "image_encoder", MODEL)])?;
            }
            if let Some(files) = &self.prior {
                target.write(files, &[("", "prior", NETWORK)])?;
            }
            let parts = [("text_proj.", "text_proj", NETWORK), ("unet.", "decoder", NETWORK)];
            target.write(&self.decoder, &parts)?;
            let parts =
                [("unet.", "super_res_first", NETWORK), ("last_step.", "super_res_last", NETWORK)];
            self.upsamplers.iter().try_for_each(|files| target.write(files, &parts))
        })
    }

    fn copy_tokenizer(&self, target: &Target<'_>) -> Result<(), Error> {
        for name in ["tokenizer/vocab.json", "tokenizer/merges.txt"] {
            let bytes = read_file(&self.origin.join(name), MAX_BYTES)?;
            write_whole(&target.place(name)?, &bytes)?;
        }
        Ok(())
    }
}

/// Where stages go, and how.
struct Target<'a> {
    folder: &'a Path,
    format: Precision,
    device: &'a Device,
}

impl Target<'_> {
    /// The path of a file, its folder made if need be.
    fn place(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        if let Some(folder) = path.parent() {
            let io = |source| LoadError::Io { path: folder.into(), source };
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        Ok(path)
    }

    /// Writes a stage's weights in parts: how the keys of each begin, its folder, its file.
    fn write<T: StageConfig>(
        &self,
        files: &StageFiles<T>,
        parts: &[(&str, &str, &str)],
    ) -> Result<(), Error> {
        let network = files.load(self.device)?;
        for (prefix, folder, name) in parts {
            let path = self.place(&format!("{folder}/{name}.safetensors"))?;
            save_part(&network, prefix, &path, &T::KEYS, self.format)?;
        }
        Ok(())
    }
}
