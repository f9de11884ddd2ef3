//! What CLIP says of a data set, computed once.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use image::{Rgb, RgbImage};
use tempfile::TempDir;
use unclip_clip::{Tokenizer, TokenizerOptions};
use unclip_core::Weighting;
use unclip_nn::checkpoint::Weights;
use unclip_train::dataset::{Dataset, DatasetOptions};
use unclip_train::embeddings::{Embeddings, EmbeddingsOptions, make_embeddings};
use unclip_train::objective::{
    ArPriorObjective, ClipTowers, DecoderObjective, DecoderOptions, Dropped, FrozenClip, Objective,
    PriorObjective, Source,
};
use unclip_train::{Data, TrainError, recipe, train_vocabulary};

/// Eleven pictures, the last of which is none; every other one has two captions.
fn data() -> (TempDir, Arc<Dataset>) {
    let folder = TempDir::new().unwrap();
    for number in 0..11u8 {
        let picture =
            RgbImage::from_fn(40, 40, |x, y| Rgb([number * 20, x as u8 * 5, y as u8 * 5]));
        let stem = folder.path().join(format!("p{number:02}"));
        picture.save(stem.with_extension("jpg")).unwrap();
        let mut captions = format!("picture number {number}\n");
        if number % 2 == 0 {
            captions.push_str("an even one of more words than that\n");
        }
        fs::write(stem.with_extension("txt"), captions).unwrap();
    }
    fs::write(folder.path().join("p10.jpg"), b"no picture").unwrap();
    let data = open(folder.path());
    (folder, data)
}

fn open(folder: &Path) -> Arc<Dataset> {
    let options = DatasetOptions { max_bad: 0.2, ..DatasetOptions::new(folder) };
    let decode = |bytes: &[u8]| match image::load_from_memory(bytes) {
        Ok(picture) => Ok(picture.into_rgb8()),
        Err(error) => Err(error.to_string()),
    };
    Arc::new(Dataset::open(&options, Arc::new(decode), Arc::new(|_: &_| ())).unwrap())
}

fn clip(data: &dyn Data) -> FrozenClip {
    let (folder, device) = (TempDir::new().unwrap(), Device::flex());
    train_vocabulary(folder.path(), 20, data.captions()).unwrap();
    let text = recipe::text_encoder(0);
    let options =
        TokenizerOptions { context_length: text.context_length, ..TokenizerOptions::default() };
    let tokenizer = Tokenizer::from_folder(folder.path(), options).unwrap();
    let text = recipe::text_encoder(tokenizer.vocab_size());
    let image_config = recipe::image_encoder();
    let ClipTowers { text, image, .. } = ClipTowers::new(&text, &image_config, &device);
    FrozenClip { tokenizer, text, image, image_config, device, kept: None }
}

fn options(folder: &Path, share: (usize, usize)) -> EmbeddingsOptions {
    EmbeddingsOptions { folder: folder.into(), per_shard: 4, share }
}

fn make(options: &EmbeddingsOptions, clip: &FrozenClip, data: &Dataset) -> Result<u64, TrainError> {
    let mut done = 0;
    let mut observer = |now, _| {
        done = now;
        ControlFlow::Continue(())
    };
    make_embeddings(options, (clip, "space"), data, &mut observer)?;
    Ok(done)
}

fn opened(
    folder: &Path,
    clip: &FrozenClip,
    (data, space): (&Dataset, &str),
) -> Result<Embeddings, TrainError> {
    let empty = clip.embed_captions(&clip.tokenizer.encode(&[""]));
    Embeddings::open(&options(folder, (0, 1)), (data, space), &empty)
}

fn source(data: &Arc<Dataset>) -> Source {
    Source { data: data.clone(), batch: 6, seed: 3, device: Device::flex() }
}

fn loss<O: Objective>(objective: O, network: &O::Network, step: u64) -> f32 {
    objective.loss(network, objective.batch(step).unwrap()).into_scalar::<f32>()
}

/// The losses of all stages that learn from CLIP, at some steps, with and without what is kept.
fn losses(clips: [FrozenClip; 2], data: &Arc<Dataset>) -> [Vec<f32>; 2] {
    let device = Device::flex();
    let (prior, ar_prior, decoder) = (recipe::prior(), recipe::ar_prior(), recipe::decoder());
    let options = DecoderOptions { worn: 0.0, dropped: Dropped::PAPER, weighting: Weighting::Even };
    let (network, ar_network, drawer) =
        (prior.init(&device), ar_prior.init(&device), decoder.init(&device));
    clips.map(|clip| {
        let mut losses = Vec::new();
        for step in 0..3 {
            let (source, clip) = (source(data), clip.clone());
            let even = (0.3, Weighting::Even);
            let objective = PriorObjective::new(source.clone(), clip.clone(), prior.clone(), even);
            losses.push(loss(objective.unwrap(), &network, step));
            let objective =
                ArPriorObjective { source: source.clone(), clip: clip.clone(), drop_caption: 0.3 };
            losses.push(loss(objective, &ar_network, step));
            let objective = DecoderObjective::new(source, clip, decoder.clone(), options);
            losses.push(loss(objective.unwrap(), &drawer, step));
        }
        losses
    })
}

#[test]
fn what_was_said_once_is_what_would_be_said_again() {
    let ((_folder, data), kept) = (data(), TempDir::new().unwrap());
    let clip = clip(data.as_ref());
    assert_eq!(make(&options(kept.path(), (0, 1)), &clip, &data).unwrap(), 11);
    let with = FrozenClip {
        kept: Some(Arc::new(opened(kept.path(), &clip, (&data, "space")).unwrap())),
        ..clip.clone()
    };
    let [asked, kept] = losses([clip, with], &data);
    for (asked, kept) in asked.into_iter().zip(kept) {
        assert!((asked - kept).abs() < 1e-4 * asked.abs(), "{asked} and {kept}");
    }
}

#[test]
fn machines_share_the_work_and_an_interrupted_one_goes_on() {
    let ((_folder, data), whole, parts) =
        (data(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let clip = clip(data.as_ref());
    make(&options(whole.path(), (0, 1)), &clip, &data).unwrap();
    make(&options(parts.path(), (1, 2)), &clip, &data).unwrap();
    let error = opened(parts.path(), &clip, (&data, "space")).unwrap_err().to_string();
    assert!(
        error.contains("2 of 3 shards missing") && error.contains("stage embeddings"),
        "{error}"
    );
    let stop = &mut |_, _| ControlFlow::Break(());
    make_embeddings(&options(parts.path(), (0, 2)), (&clip, "space"), data.as_ref(), stop).unwrap();
    make(&options(parts.path(), (0, 2)), &clip, &data).unwrap();
    for shard in 0..3 {
        let name = format!("embeddings-{shard:05}-of-00003.safetensors");
        let tensors = |folder: &TempDir| -> Vec<_> {
            let file = Weights::open(&folder.path().join(&name)).unwrap();
            file.keys().iter().map(|key| file.read(key).unwrap().unwrap()).collect()
        };
        assert!(tensors(&whole) == tensors(&parts), "{name}");
    }
}

/// A file may have no item that can be used.
#[test]
fn a_file_of_nothing_is_a_file() {
    let ((_folder, data), kept) = (data(), TempDir::new().unwrap());
    let clip = clip(data.as_ref());
    let alone = |share| EmbeddingsOptions { per_shard: 10, ..options(kept.path(), share) };
    make_embeddings(&alone((0, 1)), (&clip, "space"), data.as_ref(), &mut |_, _| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let empty = clip.embed_captions(&clip.tokenizer.encode(&[""]));
    let opened = Embeddings::open(&alone((0, 1)), (data.as_ref(), "space"), &empty).unwrap();
    assert!(opened.is_usable(9) && !opened.is_usable(10));
}

#[test]
fn embeddings_of_something_else_are_refused() {
    let ((folder, data), kept) = (data(), TempDir::new().unwrap());
    let clip = clip(data.as_ref());
    make(&options(kept.path(), (0, 1)), &clip, &data).unwrap();
    let refused = |error: TrainError, parts: &[&str]| {
        let error = error.to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "{error} does not say {part}"));
    };
    let other = opened(kept.path(), &clip, (&data, "another")).unwrap_err();
    refused(other, &["embeddings-00000-of-00003.safetensors", "space is space, expected another"]);
    let again = make_embeddings(
        &options(kept.path(), (0, 1)),
        (&clip, "another"),
        data.as_ref(),
        &mut |_, _| ControlFlow::Continue(()),
    );
    refused(again.unwrap_err(), &["space is space, expected another", "remove the folder"]);
    fs::write(folder.path().join("p00.txt"), "something else").unwrap();
    let changed = opened(kept.path(), &clip, (&open(folder.path()), "space")).unwrap_err();
    refused(changed, &["data is data of 11 items", "another data"]);
    let first = kept.path().join("embeddings-00000-of-00003.safetensors");
    let bytes = fs::read(&first).unwrap();
    fs::write(&first, &bytes[..bytes.len() - 100]).unwrap();
    refused(
        opened(kept.path(), &clip, (&data, "space")).unwrap_err(),
        &["embeddings-00000-of-00003.safetensors"],
    );
    let world = unclip_train::shapes::ShapesWorld::new(1);
    let endless =
        make_embeddings(&options(kept.path(), (0, 1)), (&clip, "space"), &world, &mut |_, _| {
            ControlFlow::Continue(())
        });
    refused(endless.unwrap_err(), &["embeddings is of endless data"]);
}
