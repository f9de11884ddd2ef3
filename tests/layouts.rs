//! Karlo in the files of its own code, and CLIP in its three layouts: every parameter arrives where
//! it belongs, and what is damaged is refused.

/// A small Karlo, and its tensors under the original's names.
mod original;

use std::fs;
use std::path::PathBuf;

use burn::tensor::Device;
use tempfile::TempDir;
use unclip::clip::{Fit, Padding};
use unclip::unclip_nn::checkpoint::{LoadError, StageConfig};
use unclip::{Bundle, Error, OpenOptions, Slot};

use crate::support::{Model, RawTensor, read_tensors, refused, tensors_file};
use original::{
    Tensors, decoder_config, hugging_face, image_config, karlo, open_ai, original_decoder,
    original_prior, original_statistics, original_upsampler, parameters, prior_config, text_config,
    upsampler_config,
};

const CLIP: &str = "ViT-L-14.safetensors";
const STATISTICS: &str = "ViT-L-14_stats.safetensors";
const PRIOR: &str = "prior-ckpt-step=01000000-of-01000000.safetensors";
const DECODER: &str = "decoder-ckpt-step=01000000-of-01000000.safetensors";
const UPSAMPLER: &str = "improved-sr-ckpt-step=1.2M.safetensors";
const FILES: [&str; 5] = [CLIP, STATISTICS, PRIOR, DECODER, UPSAMPLER];

/// A folder of the original layout, until it is dropped.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(TempDir::new().unwrap());
        fs::create_dir(folder.path("tokenizer")).unwrap();
        for name in ["tokenizer/vocab.json", "tokenizer/merges.txt"] {
            fs::write(folder.path(name), Model::file(name)).unwrap();
        }
        folder.write(CLIP, &open_ai(""));
        folder.write(STATISTICS, &original_statistics());
        folder.write(PRIOR, &original_prior());
        folder.write(DECODER, &original_decoder());
        folder.write(UPSAMPLER, &original_upsampler());
        folder
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join(inside)
    }

    fn write(&self, name: &str, tensors: &[RawTensor]) {
        fs::write(self.path(name), tensors_file(tensors)).unwrap();
    }

    /// Changes the tensors of a file.
    fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<RawTensor>)) {
        let mut tensors = read_tensors(&self.path(name));
        edit(&mut tensors);
        self.write(name, &tensors);
    }

    fn open(&self) -> Result<Bundle, Error> {
        Bundle::open(self.0.path())
    }
}

/// What a stage's network holds after loading.
fn loaded<T: StageConfig>(stage: &Slot<T>) -> Tensors {
    parameters::<T>(&stage.load(&Device::flex()).unwrap())
}

/// Checks every value. A message with all of them would not help.
#[track_caller]
fn same(found: &Tensors, expected: &Tensors) {
    assert!(found.keys().eq(expected.keys()));
    for (key, tensor) in expected {
        assert!(found[key] == *tensor, "{key} is another tensor");
    }
}

#[test]
fn the_original_layout_gives_every_parameter_and_every_size() {
    let bundle = Folder::new().open().unwrap();
    let image = bundle.image_encoder.as_ref().unwrap();
    let prior = bundle.prior().unwrap();
    assert_eq!(*bundle.text().unwrap().encoder.config(), text_config());
    assert_eq!(*image.config(), image_config());
    assert_eq!(*prior.config(), prior_config());
    assert_eq!(*bundle.decoder.config(), decoder_config());
    assert_eq!(bundle.upsamplers.len(), 1);
    assert_eq!(*bundle.upsamplers[0].config(), upsampler_config());
    same(&loaded(&bundle.text().unwrap().encoder), &karlo().text);
    same(&loaded(image), &karlo().image);
    same(&loaded(prior), &karlo().prior);
    same(&loaded(&bundle.decoder), &karlo().decoder);
    same(&loaded(&bundle.upsamplers[0]), &karlo().upsampler);
}

#[test]
fn the_original_reads_captions_and_pictures_in_its_own_way() {
    let folder = Folder::new();
    let options = |padding, fit| OpenOptions { padding, fit, ..OpenOptions::default() };
    let open = |options| Bundle::open_with(folder.0.path(), &options).unwrap();
    let exclamation = |bundle: &Bundle| bundle.text().unwrap().tokenizer.encode(&["!"]).ids(0)[1];
    let fit = |bundle: &Bundle| bundle.image_encoder.as_ref().unwrap().config().fit;
    let own = open(options(None, None));
    let diffusers = open(options(Some(Padding::Exclamation), Some(Fit::Crop)));
    assert_eq!([fit(&own), fit(&diffusers)], [Fit::Squash, Fit::Crop]);
    let padding = *own.text().unwrap().tokenizer.encode(&[""]).ids(0).last().unwrap();
    assert_eq!(exclamation(&diffusers), padding);
    assert_ne!(exclamation(&own), padding);
}

/// The converter can strip the prefix that all names of a file have; CLIP may be of another source,
/// or without its image tower.
#[test]
fn the_original_layout_has_variants() {
    let folder = Folder::new();
    for name in [PRIOR, DECODER] {
        folder.edit(name, |tensors| {
            for tensor in tensors {
                tensor.key = tensor.key.strip_prefix("model.").unwrap().into();
            }
        });
    }
    folder.edit(CLIP, |tensors| tensors.retain(|tensor| !tensor.key.starts_with("visual.")));
    let bundle = folder.open().unwrap();
    assert!(bundle.image_encoder.is_none());
    same(&loaded(&bundle.text().unwrap().encoder), &karlo().text);
    same(&loaded(bundle.prior().unwrap()), &karlo().prior);
    same(&loaded(&bundle.decoder), &karlo().decoder);
    folder.write(CLIP, &hugging_face());
    same(&loaded(&folder.open().unwrap().text().unwrap().encoder), &karlo().text);
}

#[test]
fn clip_is_the_same_in_every_layout() {
    for tensors in [open_ai(""), open_ai("text."), hugging_face()] {
        let folder = Folder::new();
        folder.write(CLIP, &tensors);
        let bundle = folder.open().unwrap();
        same(&loaded(&bundle.text().unwrap().encoder), &karlo().text);
        same(&loaded(bundle.image_encoder().unwrap()), &karlo().image);
    }
}

// what is refused

/// Loads all stages.
fn load(bundle: &Bundle) -> Result<(), LoadError> {
    let device = Device::flex();
    bundle.text().unwrap().encoder.load(&device)?;
    if let Some(image) = &bundle.image_encoder {
        image.load(&device)?;
    }
    if let Some(prior) = &bundle.prior {
        prior.load(&device)?;
    }
    bundle.decoder.load(&device)?;
    bundle.upsamplers.iter().try_for_each(|stage| stage.load(&device).map(drop))
}

#[test]
fn sizes_that_cannot_be_read_off_name_file_and_tensor() {
    let absent = |name: &'static str, key: &'static str, expected: &str| {
        let folder = Folder::new();
        folder.edit(name, |tensors| tensors.retain(|tensor| tensor.key != key));
        refused(folder.open(), &[name, key, "absent", expected]);
    };
    absent(PRIOR, "model.positional_embedding", "a tensor of 3 dimensions");
    absent(STATISTICS, "std", "a tensor of 1 dimensions");
    absent(DECODER, "model.time_embed.0.weight", "a tensor of 2 dimensions");
    absent(UPSAMPLER, "model_first_steps.out.2.weight", "a tensor of 4 dimensions");

    let reshaped = |name: &'static str, key: &str, shape: &[usize], words: &[&str]| {
        let folder = Folder::new();
        folder.edit(name, |tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.key == key).unwrap();
            tensor.shape = shape.to_vec();
            tensor.bytes = vec![0; 4 * shape.iter().product::<usize>()];
        });
        refused(folder.open(), &[&[name, key], words].concat());
    };
    let multiple = "a multiple of 64, the width of a head";
    reshaped(PRIOR, "model.positional_embedding", &[1, 12, 100], &["100", multiple]);
    reshaped(PRIOR, "model.positional_embedding", &[12, 128], &["[12, 128]", "3 dimensions"]);
    reshaped(DECODER, "model.clip_tok_proj.weight", &[61, 24], &["61", "a multiple of 20"]);
    let key = "model.input_blocks.1.0.emb_layers.1.weight";
    reshaped(DECODER, key, &[33, 128], &["33", "32 or twice that"]);
    reshaped(PRIOR, "model.transformer.resblocks.1.attn.c_qkv.bias", &[200], &["200"]);
}

#[test]
fn blocks_that_do_not_form_levels_are_refused() {
    let folder = Folder::new();
    let block = "model.output_blocks.5.2.";
    folder.edit(DECODER, |tensors| tensors.retain(|tensor| !tensor.key.starts_with(block)));
    refused(folder.open(), &[DECODER, "model.output_blocks", "{2}", "levels of equally many"]);
    folder.edit(DECODER, |tensors| tensors.retain(|tensor| tensor.key == "model.cf_param"));
    refused(folder.open(), &[DECODER, "model.output_blocks", "{}", "levels of equally many"]);
}

#[test]
fn tensors_too_few_and_too_many_are_named() {
    let edits = [
        (PRIOR, "model.prd_emb", "prd_embedding"),
        (DECODER, "model.input_blocks.4.1.qkv.bias", "unet.down_blocks.1.attentions.0.to_k.bias"),
        (UPSAMPLER, "model_last_step.out.0.bias", "last_step.conv_norm_out.bias"),
        (CLIP, "visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    ];
    for (name, key, missing) in edits {
        let folder = Folder::new();
        folder.edit(name, |tensors| tensors.retain(|tensor| tensor.key != key));
        refused(load(&folder.open().unwrap()), &[name, "missing", missing]);
    }
    for name in FILES {
        let folder = Folder::new();
        folder.edit(name, |tensors| {
            let (key, dtype, bytes) = ("model.surplus.weight".into(), "F32".into(), vec![0; 8]);
            tensors.push(RawTensor { key, dtype, shape: vec![2], bytes });
        });
        // the statistics are loaded with the prior
        let file = if name == STATISTICS { PRIOR } else { name };
        let words = [file, "not expected", "model.surplus.weight"];
        refused(load(&folder.open().unwrap()), &words);
    }
}

#[test]
fn every_file_is_needed() {
    let folder = Folder::new();
    for name in FILES.into_iter().chain(["tokenizer/vocab.json", "tokenizer/merges.txt"]) {
        let aside = folder.path("aside");
        fs::rename(folder.path(name), &aside).unwrap();
        refused(folder.open(), &[name]);
        fs::rename(&aside, folder.path(name)).unwrap();
    }
    folder.open().unwrap();
    for name in FILES {
        let alone = TempDir::new().unwrap();
        fs::copy(folder.path(name), alone.path().join(name)).unwrap();
        // recognized by any file; the first that is missing is named
        let missing = if name == CLIP { "tokenizer/vocab.json" } else { CLIP };
        refused(Bundle::open(alone.path()), &[missing]);
    }
}

#[test]
fn pickles_in_place_of_the_files_name_the_converter() {
    let folder = Folder::new();
    let pickles = [
        (CLIP, "ViT-L-14.pt", b"PK\x03\x04".as_slice()),
        (STATISTICS, "ViT-L-14_stats.th", b"\x80\x02"),
        (PRIOR, "prior-ckpt-step=01000000-of-01000000.ckpt", b"PK\x03\x04"),
        (DECODER, "decoder-ckpt-step=01000000-of-01000000.ckpt", b"PK\x03\x04"),
        (UPSAMPLER, "improved-sr-ckpt-step=1.2M.ckpt", b"PK\x03\x04"),
    ];
    for (converted, pickle, magic) in pickles {
        let aside = folder.path("aside");
        fs::write(folder.path(pickle), [magic, &[7; 40]].concat()).unwrap();
        folder.open().unwrap(); // both: the converted one counts
        fs::rename(folder.path(converted), &aside).unwrap();
        refused(folder.open(), &[pickle, "pickle", "tools/convert_pickle.py"]);
        fs::rename(&aside, folder.path(converted)).unwrap();
    }
    // as they are published: nothing is converted
    for name in FILES.map(|name| folder.path(name)) {
        fs::remove_file(name).unwrap();
    }
    refused(folder.open(), &["ViT-L-14.pt", "tools/convert_pickle.py"]);
}

#[test]
fn stages_of_another_model_are_refused() {
    let folder = Folder::new();
    for (name, other) in [(PRIOR, DECODER), (DECODER, PRIOR), (UPSAMPLER, DECODER), (CLIP, PRIOR)] {
        let aside = folder.path("aside");
        fs::rename(folder.path(name), &aside).unwrap();
        fs::copy(folder.path(other), folder.path(name)).unwrap();
        refused(folder.open(), &[name, "expected"]);
        fs::rename(&aside, folder.path(name)).unwrap();
    }
}
