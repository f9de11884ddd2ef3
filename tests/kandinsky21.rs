//! Kandinsky 2.1's folders, whose decoder reads captions by a tower of its own: the numbers that
//! diffusers gives. `tools/reference/kandinsky21_fixtures.py` makes folders, noise and traces.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::imageops::crop_imm;
use image::{GrayImage, Luma, RgbImage};
use serde_json::{Value, json};
use unclip::clip::{Padding, Tokenizer, TokenizerOptions};
use unclip::decoder::{Condition, Control};
use unclip::unclip_core::{ImageEmbedding, Network, TextEmbedding};
use unclip::unclip_nn::checkpoint::Weights;
use unclip::{
    Ability, Bundle, GenerateOptions, OpenOptions, Precision, RecordedNoise, Residency,
    StageOptions, Subject, UnClip, Variation, device, read_picture,
};

use crate::kandinsky::{FLEX, PROMPTS};
use crate::karlo_write::{KANDINSKY_2_1, Karlo, files};
use crate::reference::{Calls, Saved, Tolerance};
use crate::support::refused;

const TOKENIZER: &str = "decoder/tokenizer/tokenizer.json";
const TOWER: &str = "decoder/text_encoder/config.json";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kandinsky21").join(name)
}

fn model() -> Karlo {
    Karlo::new(KANDINSKY_2_1)
}

/// The same with the U-Net for inpainting.
fn for_inpainting() -> Karlo {
    let model = model();
    model.add("../kandinsky21/inpaint", "decoder");
    model
}

fn ready(model: &Karlo, name: &str) -> UnClip {
    UnClip::new(model.open().unwrap(), &device(name).unwrap(), Residency::OneByOne).unwrap()
}

fn steps(steps: usize) -> StageOptions {
    StageOptions::default().with_steps(steps)
}

fn options(name: &str) -> GenerateOptions {
    let noise = RecordedNoise::open(fixture(&format!("{name}.noise.safetensors"))).unwrap();
    let decoder = steps(5).with_guidance_scale(3.0);
    GenerateOptions::default().with_noise(Arc::new(noise)).with_decoder(decoder)
}

fn with_prior(options: GenerateOptions) -> GenerateOptions {
    options.with_prior(steps(5))
}

fn corner() -> RgbImage {
    let picture = read_picture(fixture("../karlo/wide.png")).unwrap();
    crop_imm(&picture, 0, 0, 16, 16).to_image()
}

fn trace(name: &str) -> PathBuf {
    fixture(&format!("{name}.trace.safetensors"))
}

const ENDS: [&str; 3] = ["prior.negative_embedding", "decoder.latent", "decoder.image"];
const OF_PRIOR: [&str; 4] = [
    "prior_text_encoder.pooled",
    "prior_text_encoder.tokens",
    "prior_text_encoder.mask",
    "prior.embedding",
];
const OWN_TEXT: [&str; 3] = ["text_encoder.pooled", "text_encoder.tokens", "text_encoder.mask"];

/// Compares the traces of these runs: of captions, with a negative one, and of pictures.
pub(crate) fn agrees_with_diffusers(device: &str, runs: &[&str], tolerance: Tolerance) {
    let unclip = ready(&model(), device);
    for name in runs {
        let options = options(name);
        let (found, seen) = if *name == "variation" {
            let pictures = ["wide.png", "high.png"];
            let pictures =
                pictures.map(|name| read_picture(fixture("../karlo").join(name)).unwrap());
            let found = unclip.image_variation(&pictures, &options);
            (found, &["image_encoder.pixels", "image_encoder.embedding"][..])
        } else {
            let negative = if *name == "negative" { "a dog" } else { "" };
            let options = with_prior(options).with_negative_prompt(negative);
            (unclip.text_to_images(&PROMPTS, &options), &OF_PRIOR[..])
        };
        let keys = [&OWN_TEXT[..], seen, &ENDS].concat();
        Saved::of(&found.unwrap().trace).agrees(&trace(name), &keys, tolerance);
    }
}

#[test]
fn flex_gives_the_numbers_of_diffusers() {
    agrees_with_diffusers("flex", &["text", "negative", "variation"], FLEX);
}

#[test]
fn flex_gives_the_call_of_diffusers() {
    let bundle = model().open().unwrap();
    let file = Weights::open(&fixture("text.calls.safetensors")).unwrap();
    let calls = Calls { file, device: device("flex").unwrap() };
    let tokens = calls.tensor::<3>("unet.input.encoder_hidden_states");
    let [rows, length, _] = tokens.dims();
    let text = TextEmbedding {
        pooled: calls.tensor("unet.input.text_embeds"),
        tokens,
        // which it does not look at
        mask: burn::tensor::Tensor::<2>::zeros([rows, length], &calls.device).bool(),
    };
    let image = ImageEmbedding(calls.tensor("unet.input.image_embeds"));
    let decoder = bundle.decoder.load(&calls.device).unwrap();
    let bound = decoder.bind(&Condition::new(image, text));
    let output = bound.forward(calls.tensor("unet.input.sample"), calls.timesteps("unet", rows));
    calls.agree("unet.output", output, FLEX);
}

/// As in the reference, the decoder draws what it is told of as well, and the picture's own pixels
/// take its place afterwards.
#[test]
fn an_inpainting_has_the_numbers_of_diffusers() {
    let model = for_inpainting();
    let unclip = ready(&model, "flex");
    assert_eq!(unclip.bundle().control(), Some(Control::Kept));
    assert!(unclip.bundle().can(Ability::TrainedInpainting));
    let in_hole = |x: u32, y: u32| (6..12).contains(&x) && (4..10).contains(&y);
    let mask = GrayImage::from_fn(16, 16, |x, y| Luma([if in_hole(x, y) { 255 } else { 0 }]));
    let picture = corner();
    let subject = Subject::Picture(&picture);
    let made = unclip.inpaint((&picture, &mask), subject, None, &options("inpaint")).unwrap();
    Saved::of(&made.trace).agrees_in(&trace("inpaint"), &ENDS, FLEX);
    let kept = made.pictures[0].image.enumerate_pixels();
    assert!(
        kept.filter(|(x, y, _)| !in_hole(*x, *y)).all(|(x, y, it)| it == picture.get_pixel(x, y))
    );
}

/// transformers' tokens of captions in many scripts.
#[test]
fn captions_have_the_tokens_of_transformers() {
    let options = TokenizerOptions::default();
    let tokenizer = Tokenizer::from_folder(&fixture("model/decoder/tokenizer"), options).unwrap();
    assert_eq!(tokenizer.padding(), Padding::Pad);
    let file = fs::read(fixture("tokens.json")).unwrap();
    let table: Value = serde_json::from_slice(&file).unwrap();
    for case in table["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let tokens = tokenizer.encode(&[text]);
        let found: Vec<u64> = tokens.ids(0).iter().map(|&id| id.into()).collect();
        let expected: Vec<u64> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        assert_eq!(found, expected, "{text:?}");
        assert_eq!(tokens.len(0) as u64, case["len"].as_u64().unwrap(), "{text:?}");
    }
    let long = "qué bonito ".repeat(40);
    let tokens = tokenizer.encode(&[&long]);
    assert!(long.ends_with(tokens.dropped(0).unwrap()));
}

/// What the decoder reads beside an embedding counts, and so does what it should not be like.
#[test]
fn captions_stand_beside_pictures() {
    let unclip = ready(&model(), "flex");
    let bundle = unclip.bundle();
    assert!(bundle.can(Ability::CaptionBesidePicture) && bundle.can(Ability::Similarity));
    assert_eq!(bundle.text().unwrap().encoder.config().context_length, 77);
    let pictures = [corner()];
    let plain = GenerateOptions::default().with_decoder(steps(3));
    let draw = |caption, options: &GenerateOptions| {
        let variation = Variation { caption, ..Variation::default() };
        unclip.vary(&pictures, &variation, options).unwrap().images()
    };
    let negative = plain.clone().with_negative_prompt("a dog");
    assert_ne!(draw("", &plain), draw("a cat", &plain));
    assert_ne!(draw("a cat", &negative), draw("a cat", &plain));
    // both are read by CLIP where both are to be compared
    let text = unclip.embed_texts(&["a cat"]).unwrap();
    let image = unclip.embed_images(&pictures).unwrap();
    assert_eq!(text.pooled.dims(), image.0.dims());
    // a prior led by it draws another embedding
    let imagine = |options: &GenerateOptions| {
        let image = unclip.imagine(&["a cat"], options).unwrap();
        image.0.into_data().iter::<f32>().collect::<Vec<_>>()
    };
    let of_prior = GenerateOptions::default().with_prior(steps(3));
    assert_ne!(imagine(&of_prior), imagine(&of_prior.clone().with_negative_prompt("a dog")));
}

#[test]
fn decoder_and_prior_may_lie_apart() {
    let model = model();
    refused(Bundle::open(model.path("decoder")), &["prior model is absent", "kandinsky-2-1-prior"]);
    refused(Bundle::open(model.path("prior")), &["model is a prior"]);
    let with = |prior: PathBuf| {
        let options = OpenOptions { prior_model: Some(prior), ..OpenOptions::default() };
        Bundle::open_with(model.path("decoder"), &options)
    };
    with(model.path("prior")).unwrap();
    // that of 2.2 is of another space
    let other = fixture("../kandinsky/model/prior");
    refused(with(other), &["_class_name is KandinskyV22PriorPipeline", "KandinskyPriorPipeline"]);
}

/// Written back as it was read, and in this project's own layout, it is the same model.
#[test]
fn it_is_written_back() {
    for (model, weights) in [(model(), 6), (for_inpainting(), 6)] {
        let flex = device("flex").unwrap();
        let bundle = model.open().unwrap();
        for layout in ["kandinsky", "native"] {
            bundle.save(layout, model.beside(layout), Precision::F16, &flex).unwrap();
        }
        let out = model.beside("kandinsky");
        let is_weights = |name: &&String| name.ends_with(".safetensors");
        let names = files(&model.path(""));
        let folders: std::collections::BTreeSet<&str> =
            names.iter().filter(is_weights).map(|name| name.rsplit_once('/').unwrap().0).collect();
        assert_eq!(folders.len(), weights);
        for folder in folders {
            let stem = ["model", "diffusion_pytorch_model"];
            let open = |root: &Path| {
                let found =
                    stem.iter().find_map(|it| Weights::open_in(&root.join(folder), it).ok());
                found.unwrap()
            };
            let (before, after) = (open(&model.path("")), open(&out));
            assert_eq!(before.keys(), after.keys(), "{folder}");
            assert_eq!(before.fingerprint().unwrap(), after.fingerprint().unwrap(), "{folder}");
        }
        let words = |root: &Path| fs::read(root.join(TOKENIZER)).unwrap();
        assert_eq!(words(&model.path("")), words(&out));
        let index = |root: &Path| -> Value {
            let text = fs::read(root.join("decoder/model_index.json")).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        for name in ["_class_name", "text_encoder", "unet", "movq", "scheduler"] {
            assert_eq!(index(&out)[name], index(&model.path(""))[name], "{name}");
        }
        // by this name, every version of transformers reads the file that was copied
        assert_eq!(index(&out)["tokenizer"][1], "XLMRobertaTokenizerFast");
        let picture = |bundle: Bundle| {
            let unclip = UnClip::new(bundle, &flex, Residency::OneByOne).unwrap();
            let options = GenerateOptions::default().with_prior(steps(2)).with_decoder(steps(2));
            unclip.text_to_image("красный кот", &options).unwrap().images()
        };
        let expected = picture(bundle);
        for layout in ["kandinsky", "native"] {
            let again = Bundle::open(model.beside(layout)).unwrap();
            assert_eq!(picture(again), expected, "{layout}");
        }
    }
    let other = model();
    let diffusers = other.open().unwrap().save(
        "diffusers",
        other.beside("x"),
        Precision::F16,
        &Default::default(),
    );
    refused(diffusers, &["prior_text_encoder is given", "Kandinsky 2.1"]);
}

/// What another tower, another tokenizer or another U-Net would need is refused by name.
#[test]
fn what_is_not_of_it_is_refused() {
    type Edit = fn(&mut Value);
    let cases: &[(&str, Edit, &[&str])] = &[
        (TOWER, |it| it["hidden_act"] = "relu".into(), &["hidden_act is relu", "gelu"]),
        (TOWER, |it| it["type_vocab_size"] = 2.into(), &["type_vocab_size is 2"]),
        (TOWER, |it| it["numDims"] = 8.into(), &["d_embedding"]),
        (TOWER, |it| it["max_position_embeddings"] = 78.into(), &["max_position_embeddings is 78"]),
        (TOWER, |it| it["pad_token_id"] = 3.into(), &["pad_token_id", "tokenizer"]),
        (TOWER, |it| it["pad_token_id"] = 4000.into(), &["pad_token_id is 4000"]),
        (TOWER, |it| it["novelty"] = 1.into(), &["novelty is 1", "no such field"]),
        (
            TOKENIZER,
            |it| it["model"]["type"] = "WordPiece".into(),
            &["model.type is \"WordPiece\", expected \"Unigram\""],
        ),
        (TOKENIZER, |it| it["model"]["unk_id"] = 4000.into(), &["unk_id is 4000"]),
        (TOKENIZER, |it| it["model"]["vocab"][5][0] = "".into(), &["piece 5 is \"\""]),
        (
            TOKENIZER,
            |it| it["normalizer"] = json!({"type": "Lowercase"}),
            &["normalizer has the step"],
        ),
        (
            TOKENIZER,
            |it| it["normalizer"]["precompiled_charsmap"] = "AAAA".into(),
            &["precompiled_charsmap", "a length first"],
        ),
        (
            TOKENIZER,
            |it| it["model"]["vocab"][5][0] = "a".repeat(300).into(),
            &["piece 5 has 300 bytes", "at most 256"],
        ),
        (
            TOKENIZER,
            |it| {
                let vocab = it["model"]["vocab"].as_array_mut().unwrap();
                let long = |n: usize| json!([format!("{}{n}", "a".repeat(200)), -1.0]);
                vocab.extend((0..50_000).map(long));
            },
            &["pieces of 10", "bytes, expected at most 4194304"],
        ),
        (
            TOKENIZER,
            |it| it["added_tokens"][0]["rstrip"] = true.into(),
            &["the added token \"<s>\" takes spaces"],
        ),
        (
            TOKENIZER,
            |it| it["added_tokens"][1]["content"] = "a".into(),
            &["the added token \"a\" with the id 1"],
        ),
        (
            TOKENIZER,
            |it| it["normalizer"]["type"] = "Lowercase".into(),
            &["normalizer has the step", "Lowercase"],
        ),
        (
            TOKENIZER,
            |it| it["normalizer"]["precompiled_charsmap"] = 5.into(),
            &["precompiled_charsmap: 5, expected text"],
        ),
        (
            "decoder/tokenizer/special_tokens_map.json",
            |it| it["pad_token"] = "<mask>".into(),
            &["pad_token is \"<mask>\"", "<pad>"],
        ),
        (TOKENIZER, |it| it["normalizer"] = Value::Null, &["normalizer is absent"]),
        (
            TOKENIZER,
            |it| drop(it["pre_tokenizer"]["pretokenizers"].as_array_mut().unwrap().pop()),
            &["pre_tokenizer has no Metaspace"],
        ),
        (
            "decoder/unet/config.json",
            |it| it["encoder_hid_dim_type"] = "image_proj".into(),
            &["encoder_hid_dim_type", "text_image_proj"],
        ),
        (
            "decoder/model_index.json",
            |it| it["_class_name"] = "Kandinsky3Pipeline".into(),
            &["is decoder: Kandinsky3Pipeline", "exactly one with KandinskyPipeline"],
        ),
    ];
    for (file, edit, words) in cases {
        let model = model();
        model.edit(file, *edit);
        refused(model.open(), words);
    }
    let model = model();
    fs::rename(model.path(TOKENIZER), model.path("decoder/tokenizer/sentencepiece.bpe.model"))
        .unwrap();
    refused(model.open(), &["tokenizer.json", "is absent", "save_pretrained"]);
    let model = self::model();
    fs::write(model.path("decoder/tokenizer/tokenizer_config.json"), "{").unwrap();
    refused(model.open(), &["tokenizer_config.json", "EOF"]);
    let model = self::model();
    fs::write(model.path("decoder/model_index.json"), "{").unwrap();
    refused(model.open(), &["decoder: a damaged model_index.json"]);
    let model = self::model();
    fs::write(model.path("decoder/tokenizer/vocab.json"), "{}").unwrap();
    refused(model.open(), &["tokenizer.json", "is beside vocab.json"]);
    // the mark of padding is the tower's in every layout
    let model = self::model();
    let flex = device("flex").unwrap();
    model.open().unwrap().save("native", model.beside("native"), Precision::F16, &flex).unwrap();
    let config = model.beside("native/text_encoder/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"padding\": 1", "\"padding\": 3")).unwrap();
    refused(Bundle::open(model.beside("native")), &["pad_token_id is 3", "1"]);
    // one folder holds one version
    let model = self::model();
    model.add("../kandinsky/model/prior", "prior22");
    refused(model.open(), &["KandinskyV22PriorPipeline", "one version of Kandinsky"]);
}

/// Only CLIP's tokenizer has a choice of padding, and the options say so.
#[test]
fn padding_is_that_of_the_prior() {
    let model = model();
    let open = |padding, prior_padding| {
        let options = OpenOptions { padding, prior_padding, ..OpenOptions::default() };
        Bundle::open_with(model.path(""), &options)
    };
    let of = |bundle: Bundle| {
        let prior = bundle.prior_text.as_ref().unwrap().tokenizer.padding();
        (bundle.text().unwrap().tokenizer.padding(), prior)
    };
    for asked in [Padding::Exclamation, Padding::Zero, Padding::End] {
        let expected = (Padding::Pad, asked);
        assert_eq!(of(open(Some(asked), None).unwrap()), expected);
        assert_eq!(of(open(None, Some(asked)).unwrap()), expected);
        assert_eq!(of(open(Some(asked), Some(asked)).unwrap()), expected);
    }
    let both = open(Some(Padding::End), Some(Padding::Zero));
    refused(both, &["padding is end, expected zero, as of the prior"]);
    refused(open(None, Some(Padding::Pad)), &["padding pad, expected exclamation, zero or end"]);
    // a recipe says what it was
    let unclip = ready(&model, "flex");
    let options = GenerateOptions::default().with_prior(steps(2)).with_decoder(steps(2));
    let made = unclip.text_to_image("a cat", &options).unwrap();
    let again = made.pictures[0].recipe.open_options();
    assert_eq!((again.padding, again.prior_padding), (None, Some(Padding::Exclamation)));
}

/// Of the two towers, the one that reads less says what was left out.
#[test]
fn what_either_tower_leaves_out_is_told() {
    let unclip = ready(&model(), "flex");
    let options = GenerateOptions::default().with_prior(steps(2)).with_decoder(steps(2));
    // CLIP's tower of the fixture has ten positions, M-CLIP's seventy-seven
    let made = unclip.text_to_image("a red cat on the moon by night", &options).unwrap();
    assert!(made.dropped[0].as_ref().unwrap().ends_with("by night"), "{:?}", made.dropped);
}

/// Tokenizers as versions of transformers wrote them when the model was published.
#[test]
fn files_of_older_versions_are_read() {
    let model = model();
    let tokens = || {
        let folder = model.path("decoder/tokenizer");
        let tokenizer = Tokenizer::from_folder(&folder, TokenizerOptions::default()).unwrap();
        let captions = ["a cat", "a  cat on the moon", "красный кот", "Ａ ﬁne cat™…"];
        tokenizer.encode(&captions)
    };
    let expected = tokens();
    model.edit(TOKENIZER, |it| {
        let table = it["normalizer"].take();
        let spaces = json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " });
        it["normalizer"] = json!({ "type": "Sequence", "normalizers": [table, spaces] });
        it["pre_tokenizer"] = json!({
            "type": "Metaspace",
            "replacement": "▁",
            "str_rep": "▁",
            "add_prefix_space": true,
        });
        it["model"].as_object_mut().unwrap().remove("type");
    });
    assert_eq!(tokens(), expected);
    model.open().unwrap();
}
