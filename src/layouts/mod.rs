//! One module for each layout in which models are published: how it is recognized, opened and
//! written, and the names of its tensors. Nothing outside its module knows a layout.
//!
//! A new layout is a module here and an entry in `layouts!`.

mod classes;
mod clip_names;
mod hub;
mod layout;
mod original;

use std::path::Path;

use burn::tensor::Device;
use unclip_autoencoder::AutoencoderConfig;
use unclip_core::InvalidSetting;
use unclip_nn::Precision;
use unclip_nn::checkpoint::{LoadError, StageFiles, write_folder};

use crate::bundle::missing;
use crate::{Bundle, Error, OpenOptions, Slot, StageId};
use layout::{Layout, Target};

/// Every layout. The last recognizes every folder.
macro_rules! layouts {
    ($($room:ident::$Layout:ident),*) => {
        $(mod $room;)*
        const LAYOUTS: &[&dyn Layout] = &[$(&$room::$Layout),*];
    };
}

layouts!(
    kandinsky::Kandinsky,
    stable::Stable,
    diffusers::Diffusers,
    laion::Laion,
    karlo::Karlo,
    glide::Glide,
    adm::Adm,
    native::Native
);

/// Opens an autoencoder on its own: its folder (`movq`, `vae`, or `autoencoder` in this crate's own
/// layout), that of a model which has one of these, or one with such a model's folder in it.
///
/// # Example
/// ```no_run
/// use unclip::unclip_core::image::{to_rgb, to_tensor};
/// use unclip::{device, open_autoencoder, read_picture};
///
/// let device = device("flex")?;
/// let autoencoder = open_autoencoder("kandinsky-2-2-decoder")?.load(&device)?;
/// let picture = to_tensor(&[read_picture("picture.png")?], &device);
/// let latents = autoencoder.encode(picture).mean;
/// to_rgb(autoencoder.decode(latents))[0].save("again.png")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// A folder without an autoencoder; files that are missing or damaged.
pub fn open_autoencoder(folder: impl AsRef<Path>) -> Result<Slot<AutoencoderConfig>, Error> {
    let folder = folder.as_ref();
    let snapshot = hub::snapshot(folder)?;
    let folder = snapshot.as_deref().unwrap_or(folder);
    if !folder.is_dir() {
        return Err(no_folder(folder));
    }
    let inside = |folder: &Path| {
        let names = ["movq", "vae", "autoencoder"].map(|name| folder.join(name));
        names.into_iter().find(|path| path.is_dir())
    };
    let is_model = folder.join(diffusers::files::INDEX).exists();
    let parts = kandinsky::subfolders(folder);
    let found = inside(folder).or_else(|| parts.iter().find_map(|part| inside(part)));
    let path = match found {
        Some(path) => path,
        None if is_model || folder.join("decoder").is_dir() => {
            return Err(missing(folder, StageId::Autoencoder));
        }
        None => folder.into(),
    };
    let path = path.as_path();
    let files = if diffusers::autoencoder::is_of_diffusers(path) {
        diffusers::autoencoder::autoencoder(path)?
    } else {
        StageFiles::open(path)?
    };
    Ok(Slot::new(StageId::Autoencoder, files))
}

impl Bundle {
    /// Opens a model's folder.
    ///
    /// It has this crate's own layout, which is shown below; diffusers' (Karlo as published), with
    /// a `model_index.json`; Kandinsky's two folders, as published (the prior's is
    /// [`OpenOptions::prior_model`]) or together in one; Stable unCLIP's; or that of Karlo's own code,
    /// of LAION's models (DALLE2-pytorch), of GLIDE's or of ADM's, whose pickles must first be converted
    /// to safetensors (`tools/convert_pickle.py`). A hub client's folder (`models--…`) stands for the
    /// revision in it.
    ///
    /// ```text
    /// tokenizer/      vocab.json, merges.txt; or tokenizer.json of XLM-RoBERTa's
    /// text_encoder/   config.json, model.safetensors
    /// prior_tokenizer/, prior_text_encoder/  …  (of a decoder that reads captions by its own tower)
    /// image_encoder/  …  (only for tasks that start from a picture)
    /// noised_image_encoder/  …  (guides the decoder, if there is one)
    /// prior/          …
    /// ar_prior/       …  (either prior, or both)
    /// decoder/        …
    /// autoencoder/    …  (of a decoder of latents)
    /// upsampler.0/    …  (and upsampler.1, …: as many as there are)
    /// upsampler_text_encoder.0/  …  (of an upsampler that reads captions)
    /// classifier/     …  (of a model of classes, in the place of the text encoder; guides the decoder)
    /// classes.txt     their names, a line each  (if they have such)
    /// ```
    ///
    /// # Example
    /// ```no_run
    /// use unclip::{Bundle, Residency, UnClip, device};
    ///
    /// let bundle = Bundle::open("karlo-v1-alpha")?;
    /// println!("pictures of {} pixels", bundle.image_size());
    /// let unclip = UnClip::new(bundle, &device("flex")?, Residency::OneByOne)?;
    /// # Ok::<(), unclip::Error>(())
    /// ```
    ///
    /// # Errors
    /// A stage that is missing or damaged, or that was trained for another CLIP.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(folder, &OpenOptions::default())
    }

    /// Like [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(folder: impl AsRef<Path>, options: &OpenOptions) -> Result<Self, Error> {
        let folder = folder.as_ref();
        if !folder.is_dir() {
            return Err(no_folder(folder));
        }
        let snapshot = hub::snapshot(folder)?;
        let folder = snapshot.as_deref().unwrap_or(folder);
        let layout = LAYOUTS.iter().find(|layout| layout.recognizes(folder));
        let layout = layout.unwrap_or_else(|| unreachable!("the last recognizes every folder"));
        if let (Some(prior), false) = (&options.prior_model, layout.takes_prior_model()) {
            let (model, index) = (folder.display(), diffusers::files::INDEX);
            let expected = if folder.join(index).exists() {
                format!(
                    "absent: {model} is no model that is published without a prior, by its {index}"
                )
            } else {
                format!("absent: {model} has no {index}, and needs no prior of another folder")
            };
            return Err(InvalidSetting::new("prior model", prior.display(), expected).into());
        }
        Self::of(folder, layout.open(folder, options)?)
    }

    /// The bundled shapes model.
    ///
    /// # Errors
    /// None in a released version; a damaged build would be reported here.
    #[cfg(feature = "bundled")]
    pub fn shapes() -> Result<Self, Error> {
        Self::of(Path::new("the bundled shapes model"), native::shapes()?)
    }

    /// Writes the model as a new folder. `layout` is `native`, this crate's own; `diffusers`, whose
    /// `UnCLIPPipeline` opens it (`UnCLIPImageVariationPipeline` if the model has no prior);
    /// `kandinsky`, two folders that its pipelines of Kandinsky 2.1 or 2.2 open; or `stable`, one that its
    /// `StableUnCLIPPipeline` opens (`StableUnCLIPImg2ImgPipeline` if the model has no prior).
    ///
    /// The folder is written whole or not at all. Stages are loaded to `device` one after the
    /// other; nothing is computed there. Weights that were read in `format` come out as the same
    /// bytes. The layouts of others have no place for default step counts and guidance scales:
    /// their pipelines have their own; nor for CLIP's temperature, for an autoregressive prior beside
    /// a diffusion prior, or for a tower for noised pictures: those are left out.
    ///
    /// # Errors
    /// A layout that cannot be written, or that cannot hold this model (which names the field),
    /// before anything is written; weights that cannot be read, or that are too large for `format`;
    /// a folder that already exists, or that cannot be written.
    pub fn save(
        &self,
        layout: &str,
        folder: impl AsRef<Path>,
        format: Precision,
        device: &Device,
    ) -> Result<(), Error> {
        let known = LAYOUTS.iter().find(|known| known.name() == layout);
        let known = known.filter(|known| known.is_written()).ok_or_else(|| {
            let written = LAYOUTS.iter().filter(|layout| layout.is_written());
            let written: Vec<_> = written.map(|layout| layout.name()).collect();
            InvalidSetting::new("layout to write", format!("{layout:?}"), written.join(", "))
        })?;
        if known.name() != native::Native.name() && !self.decoder.config().reads_images() {
            let expected = "native: others hold no decoder without image embeddings (GLIDE, ADM)";
            return Err(
                InvalidSetting::new("layout to write", format!("{layout:?}"), expected).into()
            );
        }
        let write = known.writer(self, format)?;
        write_folder(folder.as_ref(), |folder| write(&Target { folder, format, device }))
    }

    /// The name of the model's CLIP space: that of its files, or one by the weights of the image tower.
    ///
    /// # Errors
    /// A model without an image tower; weights that cannot be read.
    pub fn clip_name(&self) -> Result<String, Error> {
        native::clip_space(self)
    }

    /// Writes the model's CLIP alone as a new folder of this crate's own layout: both towers and the
    /// tokenizer, for training other stages on it.
    ///
    /// # Errors
    /// A model without one of the towers, or whose captions are not read by CLIP's; the bundled model; and
    /// as [`save`](Self::save).
    pub fn save_clip(
        &self,
        folder: impl AsRef<Path>,
        format: Precision,
        device: &Device,
    ) -> Result<(), Error> {
        native::check_origin(self)?;
        let write = native::clip_writer(self)?;
        write_folder(folder.as_ref(), |folder| write(&Target { folder, format, device }))
    }
}

/// The error for a path that should be a prior's folder and is not.
fn no_prior_folder(path: &Path) -> Error {
    match no_folder(path) {
        Error::Setting(error) => InvalidSetting { name: "prior model".into(), ..error }.into(),
        other => other,
    }
}

/// The error for a path that should be a model's folder and is not.
fn no_folder(path: &Path) -> Error {
    let name = path.to_string_lossy();
    let is_name = |part: &str| !part.is_empty() && !part.starts_with('.');
    let is_on_hub = name.split_once('/').is_some_and(|(owner, model)| {
        is_name(owner) && is_name(model) && !model.contains('/') && !Path::new(owner).exists()
    });
    let remedy = match () {
        () if path.is_file() => "this is a file: give the folder of the whole model",
        () if name.contains("://") => "this is an address: download the model, and give its folder",
        () if name.starts_with('~') => "the shell has not replaced ~: write the path out",
        () if is_on_hub => {
            "there is none of this name; if it is a model's name on a hub, download it (hf download \
             NAME --local-dir FOLDER), and give that folder"
        }
        () => {
            let found = std::io::Error::other("no such folder; expected a model's");
            let source = std::fs::read_dir(path).err().unwrap_or(found);
            return LoadError::Io { path: path.into(), source }.into();
        }
    };
    InvalidSetting::new("model", name, format!("a folder; {remedy}")).into()
}
