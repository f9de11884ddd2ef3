//! Published folders, damaged at random: refused or harmless, at once, and with no more
//! memory than their files' size and a fixed allowance.
//!
//! 256 of each by default; `PROPTEST_CASES=1000000 cargo test … damage` tries more, and
//! `PROPTEST_RNG_SEED` others.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use image::RgbImage;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngSeed, TestRunner};
use serde_json::json;
use unclip::{Ability, Error, GenerateOptions, RecordedNoise, StageOptions};

use crate::adm;
use crate::bad_karlo::load;
use crate::bad_karlo_files::shard;
use crate::glide;
use crate::karlo::fixture;
use crate::karlo_write::{Karlo, files};
use crate::laion;
use crate::support::in_time;

/// Set in the process that does the work.
const CHILD: &str = "UNCLIP_DAMAGE_CHILD";
/// Memory that a damaged folder may take beyond the size of its files. A layer for each of their
/// tensors, which a configuration may ask for, is some megabytes before it is seen to have none.
const ALLOWANCE: u64 = 32 << 20;
/// What numbers are replaced by.
const NUMBERS: [&str; 16] = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "64",
    "1024",
    "1048576",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "0.5",
    "null",
    "[]",
    "\"x\"",
];

/// In a process of its own, where nobody else takes memory.
#[test]
fn damaged_folders_do_no_harm() {
    if std::env::var_os(CHILD).is_some() {
        damage_folders(&karlo().path(""), 32, 1);
        for family in ["kandinsky", "kandinsky21", "stable"] {
            damage_folders(&with_noise(family).path(""), 16, 1);
        }
        damage_folders(laion::folder("micro").path(), 32, 8);
        // larger networks, and pictures of 64 and 256 pixels
        damage_folders(glide::drawing().path(), 256, 8);
        let model = adm::folder(&adm::OF_CLASSES);
        fs::write(model.path().join("classes.txt"), "cat\ndog\ncow\nhen\nox\n").unwrap();
        return damage_folders(model.path(), 256, 8);
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "damage::damaged_folders_do_no_harm", "--nocapture"])
        // glibc gives every thread a region of its own otherwise, which looks like memory in use
        .envs([(CHILD, "1"), ("MALLOC_ARENA_MAX", "1")])
        .output()
        .unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    println!("{out}");
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
}

/// Something that disks, networks, editors and programs do to a file.
#[derive(Debug, Clone)]
enum Damage {
    /// All after a place is lost.
    Cut(Place),
    /// Some bytes are lost.
    Drop(Place, usize),
    /// Some bytes are there twice.
    Repeat(Place, usize),
    /// Some bytes are others.
    Bytes(Vec<(Place, u8)>),
    /// A number in the text is another.
    Number(Index, usize),
    /// A string in the text is another one of it.
    String(Index, Index),
    /// The first eight bytes, the length of a header, are another number.
    Length(u64),
}

/// A place in a file: mostly in its text, which is all of it or the header.
type Place = (bool, Index);

fn damage() -> impl Strategy<Value = Damage> {
    let place = || (prop::bool::weighted(0.8), any::<Index>());
    let len = 0..64usize;
    let bytes = prop::collection::vec((place(), any::<u8>()), 1..8);
    let lengths = prop_oneof![any::<u64>(), 0..100_000u64, Just(100_000_000), Just(u64::MAX - 7)];
    prop_oneof![
        1 => place().prop_map(Damage::Cut),
        1 => (place(), len.clone()).prop_map(|(place, len)| Damage::Drop(place, len)),
        1 => (place(), len).prop_map(|(place, len)| Damage::Repeat(place, len)),
        2 => bytes.prop_map(Damage::Bytes),
        4 => (any::<Index>(), 0..NUMBERS.len()).prop_map(|(at, n)| Damage::Number(at, n)),
        2 => any::<(Index, Index)>().prop_map(|(at, other)| Damage::String(at, other)),
        1 => lengths.prop_map(Damage::Length),
    ]
}

impl Damage {
    fn apply(&self, file: &mut Vec<u8>) {
        let text = text(file);
        let find = |(inside, index): &Place, file: &[u8]| match inside {
            true => text.start + index.index(text.len().max(1)),
            false => index.index(file.len()),
        };
        let range = |place: &Place, len: usize, file: &[u8]| {
            let at = find(place, file).min(file.len());
            at..(at + len).min(file.len())
        };
        match self {
            _ if file.is_empty() => {}
            Self::Cut(place) => file.truncate(find(place, file)),
            Self::Drop(place, len) => drop(file.drain(range(place, *len, file))),
            Self::Repeat(place, len) => {
                let range = range(place, *len, file);
                let part = file[range.clone()].to_vec();
                drop(file.splice(range.start..range.start, part));
            }
            Self::Bytes(bytes) => {
                for (place, byte) in bytes {
                    let at = find(place, file).min(file.len() - 1);
                    file[at] = *byte;
                }
            }
            Self::Number(at, number) => {
                let numbers = pieces(&file[text.clone()], u8::is_ascii_digit);
                replace(file, &text, at, &numbers, NUMBERS[*number].as_bytes());
            }
            Self::String(at, other) => {
                let is_name = |c: &u8| c.is_ascii_alphanumeric() || b"_.-/<|>".contains(c);
                let strings = pieces(&file[text.clone()], is_name);
                if !strings.is_empty() {
                    let other = file[text.clone()][other.get(&strings).clone()].to_vec();
                    replace(file, &text, at, &strings, &other);
                }
            }
            Self::Length(len) => {
                let len = len.to_le_bytes();
                let end = file.len().min(len.len());
                file[..end].copy_from_slice(&len[..end]);
            }
        }
    }
}

/// Where the text of a file is: its header, or all.
fn text(file: &[u8]) -> std::ops::Range<usize> {
    let len = file.first_chunk().map(|len| u64::from_le_bytes(*len) as usize);
    match len.filter(|len| file.get(8) == Some(&b'{') && *len <= file.len() - 8) {
        Some(len) => 8..8 + len,
        None => 0..file.len(),
    }
}

/// The longest runs of bytes of a kind.
fn pieces(text: &[u8], kind: impl Fn(&u8) -> bool) -> Vec<std::ops::Range<usize>> {
    let mut start = 0;
    let runs = text.chunk_by(|a, b| kind(a) == kind(b)).map(|run| {
        start += run.len();
        (kind(&run[0]), start - run.len()..start)
    });
    runs.filter(|(wanted, _)| *wanted).map(|(_, range)| range).collect()
}

/// Puts something in the place of a piece of the text. A header keeps telling its length: what is
/// wrong is inside then.
fn replace(
    file: &mut Vec<u8>,
    text: &std::ops::Range<usize>,
    at: &Index,
    pieces: &[std::ops::Range<usize>],
    by: &[u8],
) {
    if pieces.is_empty() {
        return;
    }
    let piece = at.get(pieces);
    file.splice(text.start + piece.start..text.start + piece.end, by.iter().copied());
    if text.start == 8 {
        let len = (text.len() + by.len() - piece.len()) as u64;
        file[..8].copy_from_slice(&len.to_le_bytes());
    }
}

/// Karlo with every part that there can be, one of them in shards, and noise for it.
fn karlo() -> Karlo {
    let model = Karlo::new("tiny");
    for folder in ["image_encoder", "feature_extractor"] {
        fs::create_dir(model.path(folder)).unwrap();
        for file in files(&fixture("variation").join(folder)) {
            let file = format!("{folder}/{file}");
            fs::copy(fixture("variation").join(&file), model.path(&file)).unwrap();
        }
    }
    model.edit("model_index.json", |index| {
        index["image_encoder"] = json!(["transformers", "CLIPVisionModelWithProjection"]);
        index["feature_extractor"] = json!(["transformers", "CLIPImageProcessor"]);
    });
    shard(&model);
    fs::copy(fixture("tiny.noise.safetensors"), model.path("noise.safetensors")).unwrap();
    model
}

/// Another family's folder, and noise for it.
fn with_noise(family: &str) -> Karlo {
    let model = Karlo::new(&format!("../{family}/model"));
    let noise = fixture(&format!("../{family}/text.noise.safetensors"));
    fs::copy(noise, model.path("noise.safetensors")).unwrap();
    model
}

/// `side` is that of its pictures; one of `share` of the cases is tried.
fn damage_folders(model: &Path, side: usize, share: u32) {
    let names = files(model);
    let good: Vec<Vec<u8>> = names.iter().map(|name| fs::read(model.join(name)).unwrap()).collect();
    let size = good.iter().map(Vec::len).sum::<usize>() as u64;
    use_model(model, side).unwrap();

    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let rng_seed = match config.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        chosen => chosen,
    };
    let cases = config.cases.div_ceil(share);
    let config = ProptestConfig { rng_seed, cases, max_shrink_time: 60_000, ..config };
    let [harmless, refused, most] = [0, 0, 0].map(Cell::new);
    let damages = prop::collection::vec((any::<Index>(), damage()), 1..4);
    let result = TestRunner::new(config).run(&damages, |damages| {
        let mut changed = Vec::new();
        for (file, damage) in damages {
            let file = file.index(names.len());
            let path = model.join(&names[file]);
            let mut bytes = fs::read(&path).unwrap();
            damage.apply(&mut bytes);
            fs::write(path, bytes).unwrap();
            changed.push(file);
        }
        let (before, folder) = (peak(), model.to_path_buf());
        let result = in_time(move || use_model(&folder, side));
        let more = peak() - before;
        for file in changed {
            fs::write(model.join(&names[file]), &good[file]).unwrap();
        }
        let outcome = if result.is_ok() { &harmless } else { &refused };
        outcome.set(outcome.get() + 1);
        most.set(more.max(most.get()));
        prop_assert!(more <= size + ALLOWANCE, "{more} bytes more, the files have {size}");
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let [harmless, refused, most] = [harmless, refused, most].map(Cell::into_inner);
    println!("{refused} refused, {harmless} harmless; {most} bytes at most, {size} in files");
    assert!(refused > harmless && harmless > 0);
}

/// Everything that a folder is for, as long as it asks for pictures of its old size.
fn use_model(folder: &Path, side: usize) -> Result<(), Error> {
    let noise = RecordedNoise::open(folder.join("noise.safetensors")).ok().map(Arc::new);
    let unclip = load(folder)?;
    if let Ok(text) = unclip.bundle().text() {
        drop(text.tokenizer.encode(&["a red circle!", "\u{1f600}", ""]));
    }
    if unclip.bundle().image_size() != side {
        return Ok(());
    }
    let two = StageOptions::default().with_steps(2);
    let mut options = GenerateOptions::default().with_decoder(two.clone());
    if unclip.bundle().prior.is_some() {
        options = options.with_prior(two.clone());
    }
    if !unclip.bundle().upsamplers.is_empty() {
        options = options.with_upsampler(two);
    }
    options.noise = noise;
    // the classes of a model that has such
    let captions = if unclip.bundle().classes().is_some() { ["0", "1"] } else { ["a", "b!"] };
    unclip.text_to_images(&captions, &options)?;
    if !unclip.bundle().can(Ability::ImageVariation) {
        return Ok(());
    }
    (options.prior, options.noise) = (StageOptions::default(), None);
    unclip.image_variation(&[RgbImage::new(31, 24)], &options).map(drop)
}

/// The most memory that this process ever had, used or not, in bytes; only Linux tells.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kilobytes.unwrap_or(0u64) * 1024
}
