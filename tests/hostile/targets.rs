//! What strangers may give: each target takes any bytes, and has to come back. `fuzz/run.sh` tries
//! millions; the tests try those of `fuzz/corpus` and whatever was found before.

#![allow(dead_code, unreachable_pub, reason = "a part of two programs")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tempfile::TempDir;
use unclip::clip::{Tokenizer, TokenizerOptions};
use unclip::train::dataset::{Dataset, DatasetOptions};
use unclip::train::plan::Plan;
use unclip::unclip_nn::checkpoint::Weights;
use unclip::{Bundle, OpenOptions, ReadOptions, Recipe, RecordedNoise, picture_from_bytes};

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 12] = [
    ("checkpoint", checkpoint),
    ("index", index),
    ("config", config),
    ("tokenizer", tokenizer),
    ("tokenizer_json", tokenizer_json),
    ("caption", caption),
    ("picture", picture),
    ("recipe", recipe),
    ("shard", shard),
    ("list", list),
    ("noise", noise),
    ("plan", plan),
];

/// The target of this name.
pub fn by_name(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(own, _)| *own == name).map(|&(_, target)| target)
}

/// A folder in memory, one for each thread, so that tests do not write over each other.
fn with_folder<R>(run: impl FnOnce(&Path) -> R) -> R {
    thread_local! {
        static FOLDER: TempDir = {
            let memory = Path::new("/dev/shm");
            let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { TempDir::new() };
            folder.expect("a folder")
        };
    }
    FOLDER.with(|folder| run(folder.path()))
}

fn write(path: &Path, data: &[u8]) {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    std::fs::write(path, data).expect("a file");
}

/// A safetensors file, and its tensors.
fn checkpoint(data: &[u8]) {
    with_folder(|folder| {
        let path = folder.join("checkpoint.safetensors");
        write(&path, data);
        let Ok(weights) = Weights::open(&path) else { return };
        for key in weights.keys() {
            let _ = weights.read(&key);
        }
        let _ = weights.fingerprint();
    });
}

/// An index of safetensors files, beside one that is there.
fn index(data: &[u8]) {
    with_folder(|folder| {
        let folder = folder.join("index");
        let shard = folder.join("model-00001-of-00001.safetensors");
        if !shard.exists() {
            write(&shard, &shard_of_one());
        }
        write(&folder.join("model.safetensors.index.json"), data);
        let _ = Weights::open_in(&folder, "model");
    });
}

/// A safetensors file with the tensor `a` of one number.
fn shard_of_one() -> Vec<u8> {
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(1f32.to_le_bytes());
    bytes
}

/// The fixtures' models, and the configurations in them.
fn models() -> &'static [(PathBuf, Vec<PathBuf>)] {
    static MODELS: OnceLock<Vec<(PathBuf, Vec<PathBuf>)>> = OnceLock::new();
    MODELS.get_or_init(|| {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let fixtures = if fixtures.is_dir() {
            fixtures
        } else {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
        };
        let assets = fixtures.join("../../assets/shapes");
        let models = ["karlo/tiny", "karlo/variation", "kandinsky/model", "kandinsky21/model"];
        let models = models.iter().chain(&["laion/micro/model", "laion/early/model"]);
        let models = models.map(|name| fixtures.join(name)).chain([assets]);
        let with_configs = |folder: PathBuf| {
            let mut configs = Vec::new();
            find_configs(&folder, &mut configs);
            configs.sort();
            (folder, configs)
        };
        models.map(with_configs).collect()
    })
}

fn find_configs(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a fixture").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            find_configs(&path, found);
        } else if name.ends_with(".json") && !["vocab.json", "tokenizer.json"].contains(&&*name) {
            found.push(path);
        }
    }
}

/// A configuration of some layout, chosen by the first two bytes, in a model that is right otherwise.
fn config(data: &[u8]) {
    let [model, which, json @ ..] = data else { return };
    let models = models();
    let place = usize::from(*model) % models.len();
    let (source, configs) = &models[place];
    let changed = &configs[usize::from(*which) % configs.len()];
    with_folder(|folder| {
        let copy = folder.join(format!("model-{place}"));
        if !copy.exists() {
            link_all(source, &copy);
        }
        let path = copy.join(changed.strip_prefix(source).expect("in the model"));
        // a link leads to the fixture
        std::fs::remove_file(&path).expect("a link");
        write(&path, json);
        let bundle = if copy.join("prior/model_index.json").exists() {
            let prior_model = Some(copy.join("prior"));
            let options = OpenOptions { prior_model, ..OpenOptions::default() };
            Bundle::open_with(copy.join("decoder"), &options)
        } else {
            Bundle::open(&copy)
        };
        drop(bundle);
        std::fs::remove_file(&path).expect("a file");
        link(changed, &path);
    });
}

/// Every file of a folder as a link in another.
fn link_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a fixture").flatten() {
        let (own, other) = (entry.path(), to.join(entry.file_name()));
        if own.is_dir() { link_all(&own, &other) } else { link(&own, &other) }
    }
}

fn link(from: &Path, to: &Path) {
    #[cfg(unix)]
    std::os::unix::fs::symlink(from, to).expect("a link");
    #[cfg(not(unix))]
    std::fs::copy(from, to).map(drop).expect("a copy");
}

const TOKENIZER: TokenizerOptions = TokenizerOptions { context_length: 16, padding: None };

/// A vocabulary, and merges after a byte 0.
fn tokenizer(data: &[u8]) {
    let split = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    let (vocab, merges) = (&data[..split], data.get(split + 1..).unwrap_or_default());
    if let Ok(tokenizer) = Tokenizer::from_bytes(Path::new(""), vocab, merges, TOKENIZER) {
        tokenizer.encode(&["a red ring", "größer 赤い 👩‍🚀", ""]);
    }
}

/// A `tokenizer.json` of either kind.
fn tokenizer_json(data: &[u8]) {
    with_folder(|folder| {
        let folder = folder.join("tokenizer");
        write(&folder.join("tokenizer.json"), data);
        if let Ok(tokenizer) = Tokenizer::from_folder(&folder, TOKENIZER) {
            tokenizer.encode(&["a red ring", "größer 赤い 👩‍🚀", ""]);
        }
    });
}

/// A caption, which gives the same tokens each time.
fn caption(data: &[u8]) {
    static SHAPES: OnceLock<Tokenizer> = OnceLock::new();
    let tokenizer = SHAPES.get_or_init(|| {
        let (folder, _) = models().last().expect("the shapes model");
        Tokenizer::from_folder(&folder.join("tokenizer"), TOKENIZER).expect("a tokenizer")
    });
    let text = String::from_utf8_lossy(data);
    let (once, again) = (tokenizer.encode(&[&text]), tokenizer.encode(&[&text]));
    assert_eq!(format!("{once:?}"), format!("{again:?}"));
}

/// A picture of any format.
fn picture(data: &[u8]) {
    if let Ok(read) = ReadOptions::default().from_bytes(data) {
        assert!(read.image.width() > 0 && read.image.height() > 0);
    }
}

/// A recipe: in a picture, and as it stands.
fn recipe(data: &[u8]) {
    for recipe in Recipe::all_from_bytes(data).unwrap_or_default() {
        let _ = recipe.options();
    }
    if let Ok(recipe) = unclip_json::<Recipe>(data) {
        let _ = (recipe.options(), recipe.open_options());
    }
}

fn unclip_json<T: for<'a> serde::Deserialize<'a>>(data: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(data)
}

fn open(path: &Path) {
    let options = DatasetOptions { max_bad: 1.0, ..DatasetOptions::new(path) };
    let decode = |bytes: &[u8]| picture_from_bytes(bytes).map_err(|error| error.to_string());
    let Ok(data) = Dataset::open(&options, Arc::new(decode), Arc::new(|_| {})) else { return };
    let _ = data.samples(0, 2, 16);
}

/// A tar shard.
fn shard(data: &[u8]) {
    with_folder(|folder| {
        let path = folder.join("shard.tar");
        write(&path, data);
        open(&path);
    });
}

/// A list of captions: the first byte says whether of lines or as a table.
fn list(data: &[u8]) {
    let Some((&kind, text)) = data.split_first() else { return };
    let [own, other] = match kind % 2 {
        0 => ["metadata.jsonl", "metadata.csv"],
        _ => ["metadata.csv", "metadata.jsonl"],
    };
    with_folder(|folder| {
        let folder = folder.join("list");
        let picture = folder.join("a.png");
        if !picture.exists() {
            std::fs::create_dir_all(&folder).expect("a folder");
            image::RgbImage::new(16, 16).save(&picture).expect("a picture");
        }
        let _ = std::fs::remove_file(folder.join(other));
        write(&folder.join(own), text);
        open(&folder);
    });
}

/// A file of noise.
fn noise(data: &[u8]) {
    with_folder(|folder| {
        let path = folder.join("noise.safetensors");
        write(&path, data);
        let _ = RecordedNoise::open(&path);
    });
}

/// A configuration of a training.
fn plan(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(plan) = Plan::of_toml(&text, None, &[]) else { return };
    if plan.validate().is_ok() {
        assert_eq!(Plan::of_toml(&plan.to_toml(), None, &[]).as_ref(), Ok(&plan));
    }
}
