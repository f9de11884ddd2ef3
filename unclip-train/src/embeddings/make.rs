//! Computing embeddings.

use std::ops::ControlFlow;

use unclip_nn::checkpoint::{LoadError, Weights};

use super::options::EmbeddingsOptions;
use super::shard::{Collected, Origin, caption_rows, image_rows};
use crate::TrainError;
use crate::objective::FrozenClip;
use crate::shown::{Data, Embeddable};

/// Items that are embedded at once.
const CHUNK: usize = 256;

/// Makes the shards of this machine's share that are not there yet. The observer hears after each chunk how
/// many items are done, of how many.
///
/// # Errors
/// Data or CLIP that cannot be read, files that cannot be written, shards of another CLIP or of other
/// data.
pub fn make_embeddings(
    options: &EmbeddingsOptions,
    (clip, space): (&FrozenClip, &str),
    data: &dyn Data,
    observer: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<(), TrainError> {
    let folder = &options.folder;
    std::fs::create_dir_all(folder)
        .map_err(|source| LoadError::Io { path: folder.clone(), source })?;
    let (machine, machines) = options.share;
    let own = options.places(data)?.into_iter().filter(|(index, _)| index % machines == machine);
    let own: Vec<(usize, usize)> = own.collect();
    let all: u64 = own.iter().map(|place| options.items_of(place.0, data).len() as u64).sum();
    let d_text = clip.embed_captions(&clip.tokenizer.encode(&[""])).tokens.dims()[2];
    let mut done = 0;
    for place in own {
        let origin = Origin { space: space.into(), data: data.name(), place };
        let items = options.items_of(place.0, data);
        if origin.path(folder).exists() {
            origin.check(&Weights::open(&origin.path(folder))?)?;
            done += items.len() as u64;
            continue;
        }
        let mut collected = Collected::default();
        for first in items.clone().step_by(CHUNK) {
            let chunk = first..items.end.min(first + CHUNK);
            let len = chunk.len();
            collect(&mut collected, clip, data.numbered(chunk, clip.side())?);
            done += len as u64;
            if observer(done, all).is_break() {
                return Ok(());
            }
        }
        collected.write(folder, &origin, [clip.d_embedding(), d_text])?;
    }
    Ok(())
}

/// Embeds some items with all their captions.
fn collect(collected: &mut Collected, clip: &FrozenClip, items: Vec<Option<Embeddable>>) {
    let usable: Vec<&Embeddable> = items.iter().flatten().collect();
    let (mut images, mut texts) = (Vec::new(), Vec::new());
    if !usable.is_empty() {
        images = image_rows(&clip.embed_shown(&usable));
        let captions: Vec<&str> =
            usable.iter().flat_map(|it| &it.captions).map(String::as_str).collect();
        for some in captions.chunks(CHUNK) {
            texts.extend(caption_rows(&clip.embed_captions(&clip.tokenizer.encode(some))));
        }
    }
    let (mut images, mut texts) = (images.into_iter(), texts.as_slice());
    for item in &items {
        let Some(item) = item else {
            collected.skip(clip.d_embedding());
            continue;
        };
        let (own, rest) = texts.split_at(item.captions.len());
        collected.add(&images.next().unwrap_or_default(), own);
        texts = rest;
    }
}
