//! Configurations and tokenizer files that cannot be used: every one is refused with the file, the
//! field or line, what was found and what was expected.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use unclip::clip::{ImageEncoderConfig, TextEncoderConfig, Tokenizer, TokenizerOptions};
use unclip::decoder::DecoderConfig;
use unclip::prior::DiffusionPriorConfig;
use unclip::unclip_core::{BetaSchedule, NoiseSchedule};
use unclip::unclip_nn::checkpoint::{LoadError, StageConfig, StageFiles};
use unclip::upsample::UpsamplerConfig;

use crate::support::{Model, STAGES, in_time, refused};

// configurations

/// Where the whole numbers of a configuration are, as JSON pointers.
fn numbers(json: &Value, at: &str, found: &mut Vec<String>) {
    match json {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| numbers(value, &format!("{at}/{name}"), found));
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(i, value)| numbers(value, &format!("{at}/{i}"), found));
        }
        Value::Number(number) if number.is_u64() => found.push(at.into()),
        _ => {}
    }
}

/// Opens a stage of the tiny model with another configuration, all in memory.
fn open_config(stage: &str, json: &Value) -> Result<(), LoadError> {
    fn open<T: StageConfig>(stage: &str, json: &Value) -> Result<(), LoadError> {
        let weights = Model::file(&format!("{stage}/model.safetensors"));
        StageFiles::<T>::embedded(stage, json.to_string().as_bytes(), weights).map(drop)
    }
    match stage {
        "text_encoder" => open::<TextEncoderConfig>(stage, json),
        "image_encoder" => open::<ImageEncoderConfig>(stage, json),
        "prior" => open::<DiffusionPriorConfig>(stage, json),
        "decoder" => open::<DecoderConfig>(stage, json),
        _ => open::<UpsamplerConfig>(stage, json),
    }
}

#[test]
fn every_size_of_every_stage_is_checked() {
    for stage in STAGES {
        let file = Model::file(&format!("{stage}/config.json"));
        let good: Value = serde_json::from_slice(file).unwrap();
        open_config(stage, &good).unwrap();
        let mut fields = Vec::new();
        numbers(&good["config"], "/config", &mut fields);
        assert!(fields.len() >= 6, "{stage}: {fields:?}");
        let bad = [
            json!(0),
            json!(-1),
            json!(8.5),
            json!(1_000_000_000),
            json!(u64::MAX),
            json!(1e300),
            json!("8"),
            json!(null),
            json!([8]),
            json!({ "size": 8 }),
            json!(true),
        ];
        for (field, value) in fields.iter().flat_map(|f| bad.iter().map(move |v| (f, v))) {
            let mut json = good.clone();
            *json.pointer_mut(field).unwrap() = value.clone();
            // a value of the wrong type is told by its line, one out of range by its field
            let place = match value {
                Value::Number(number) if number.is_u64() => " is ",
                Value::Null if field.ends_with("/d_context") => "d_context is absent",
                Value::Null if stage == "decoder" && field.ends_with("/d_text") => {
                    "d_text is absent"
                }
                _ => " at line ",
            };
            let file = format!("{stage}/config.json");
            let result = open_config(stage, &json);
            assert!(result.is_err(), "{stage} accepts {field} = {value}");
            refused(result, &[&file, "expected", place]);
        }
    }
}

#[test]
fn many_layers_are_refused_before_they_are_built() {
    let cases =
        [("prior", "/config/transformer/n_layers"), ("decoder", "/config/unet/num_res_blocks")];
    for (stage, field) in cases {
        let model = Model::new();
        let most = json!(1 << 20);
        model.edit_config(stage, |json| *json.pointer_mut(field).unwrap() = most);
        let name = field.rsplit('/').next().unwrap();
        refused(in_time(move || model.open()), &[name, "is 1048576, expected 1 to 1024"]);
    }
}

#[test]
fn more_layers_than_tensors_are_refused_before_they_are_built() {
    let cases =
        [("prior", "/config/transformer/n_layers"), ("decoder", "/config/unet/num_res_blocks")];
    for (stage, field) in cases {
        let model = Model::new();
        model.edit_config(stage, |json| *json.pointer_mut(field).unwrap() = json!(1024));
        let field = field.replace("/config/", ": ").replace('/', ".");
        let words = [&field, "is 1024, expected at most one layer for each of the"];
        refused(in_time(move || model.open()), &words);
    }
}

#[test]
fn the_largest_sizes_are_compared_with_the_file_before_memory_is_taken() {
    let cases = [
        ("prior", vec!["/config/transformer/d_model", "/config/transformer/d_hidden"]),
        ("decoder", vec!["/config/image_tokens", "/config/unet/d_context"]),
        ("text_encoder", vec!["/config/transformer/d_hidden"]),
    ];
    for (stage, fields) in cases {
        let model = Model::new();
        model.edit_config(stage, |json| {
            fields.iter().for_each(|field| *json.pointer_mut(field).unwrap() = json!(1 << 20));
        });
        let weights = format!("{stage}/model.safetensors");
        refused(in_time(move || model.load()), &[&weights, "of another shape", "1048576"]);
    }
}

#[test]
fn sizes_that_do_not_go_together_name_their_fields() {
    let cases = [
        (
            "prior",
            "/config/transformer/n_heads",
            json!(3),
            "config.json: transformer.d_model is 8, expected a multiple of n_heads",
        ),
        (
            "prior",
            "/config/diffusion/steps",
            json!(101),
            "config.json: diffusion.steps is 101, expected 1 to 100",
        ),
        (
            "prior",
            "/config/diffusion/variance",
            json!("learned_range"),
            "config.json: diffusion.variance is LearnedRange",
        ),
        ("decoder", "/config/unet/norm_groups", json!(3), "multiple of norm_groups, which is 3"),
        ("decoder", "/config/unet/d_head", json!(5), "multiple of d_head, which is 5"),
        (
            "decoder",
            "/config/unet/image_size",
            json!(9),
            "config.json: unet.image_size is 9, expected",
        ),
        (
            "decoder",
            "/config/unet/attention_resolutions",
            json!([5]),
            "sides of levels, which are [8, 4]",
        ),
        (
            "decoder",
            "/config/unet/block_out_channels",
            json!([]),
            "config.json: unet.block_out_channels is",
        ),
        (
            "decoder",
            "/config/unet/block_out_channels",
            json!(vec![1; 64]),
            "a list of 64, expected 1 to 12",
        ),
        (
            "decoder",
            "/config/unet/in_channels",
            json!(4),
            "config.json: unet.in_channels is 4, expected 5",
        ),
        ("decoder", "/config/unet/out_channels", json!(3), "unet.out_channels is 3, expected 6"),
        ("decoder", "/config/unet/d_context", json!(null), "unet.d_context is absent"),
        ("upsampler.0", "/config/factor", json!(1), "config.json: factor is 1, expected 2 to 16"),
        ("upsampler.0", "/config/factor", json!(17), "factor is 17, expected 2 to 16"),
        ("upsampler.0", "/config/unet/d_context", json!(8), "unet.d_context is 8, expected absent"),
        ("image_encoder", "/config/patch_size", json!(3), "multiple of patch_size, which is 3"),
        ("image_encoder", "/config/std", json!([0.5, 0.0, 0.5]), "std above 0"),
        ("image_encoder", "/config/std", json!([0.5, 0.5]), "line"),
        (
            "text_encoder",
            "/config/context_length",
            json!(2),
            "context_length is 2, expected at least 3",
        ),
    ];
    for (stage, field, value, words) in cases {
        let model = Model::new();
        model.edit_config(stage, |json| *json.pointer_mut(field).unwrap() = value);
        refused(model.open(), &[&format!("{stage}/config.json"), words]);
    }
}

#[test]
fn diffusion_settings_are_checked() {
    let cases = [
        ("num_train_timesteps", json!(0), "at least 2"),
        (
            "num_train_timesteps",
            json!(1),
            "config.json: diffusion.num_train_timesteps is 1, expected",
        ),
        ("num_train_timesteps", json!(100_001), "at most 100000 steps"),
        ("guidance_scale", json!(-1.0), "a number from 0 to 1000"),
        ("guidance_scale", json!(1e30), "a number from 0 to 1000"),
        ("guidance_scale", json!("2"), "expected f64 at line"),
        ("guidance_scale", json!(null), "expected f64 at line"),
        ("clamp", json!(0.0), "config.json: diffusion.clamp is 0, expected a number from"),
        ("clamp", json!(-1.0), "clamp is -1, expected a number from"),
        ("uncertainty", json!([0.5]), "uncertainty is 1, expected two numbers or more"),
        ("uncertainty", json!([0.5, -1.0]), "uncertainty[1]"),
        ("sampler", json!("euler"), "expected ddpm, analytic_dpm, ddim or ddim:ETA, early_ddim"),
        ("spacing", json!("evenly"), "expected even, leading"),
        (
            "spacing",
            json!("10,10"),
            "config.json: diffusion.steps is 3, expected 20, with spacing 10,10",
        ),
        ("set_alpha_to_one", json!("no"), "expected a boolean"),
        ("parameterization", json!("noise"), "expected one of"),
        (
            "beta_schedule",
            json!("cosine"),
            "expected one of `linear`, `scaled_linear`, `squaredcos_cap_v2`",
        ),
        ("beta_schedule", json!({ "linear": { "start": 0.1 } }), "missing field `end`"),
        (
            "beta_schedule",
            json!({ "linear": { "start": -0.1, "end": 0.2 } }),
            "diffusion.beta_schedule.linear.start is -0.1",
        ),
        (
            "beta_schedule",
            json!({ "linear": { "start": 0.1, "end": 1.0 } }),
            "diffusion.beta_schedule.linear.end is 1",
        ),
        (
            "beta_schedule",
            json!({ "linear": { "start": 0.2, "end": 0.1 } }),
            "diffusion.beta_schedule.linear.end is 0.1",
        ),
        ("beta_schedule", json!({ "linear": { "start": 0.9, "end": 0.99 } }), "fewer steps"),
    ];
    for (field, value, words) in cases {
        let model = Model::new();
        model.edit_config("decoder", |json| json["config"]["diffusion"][field] = value);
        refused(model.open(), &["decoder/config.json", words]);
    }
}

#[test]
fn schedules_that_cannot_be_inverted_are_refused() {
    let linear = |start, end| BetaSchedule::Linear { start, end };
    for (start, end) in [
        (f64::NAN, 0.02),
        (1e-4, f64::NAN),
        (0.0, 0.02),
        (-1e-4, 0.02),
        (1e-4, 1.0),
        (1e-4, f64::INFINITY),
        (0.02, 1e-4),
    ] {
        refused(
            NoiseSchedule::new(linear(start, end), 1000),
            &["beta_schedule.linear.", "a number from"],
        );
    }
    let least = "expected at least 2";
    let most = "expected at most 100000 steps (the limit steps";
    for (n, words) in [(0, least), (1, least), (100_001, most), (usize::MAX, most)] {
        for betas in [linear(1e-4, 0.02), BetaSchedule::SquaredCosine] {
            refused(NoiseSchedule::new(betas, n), &[&n.to_string(), words]);
        }
    }
    let expected = ["one whose 100000 steps leave", "at least 1e-30"];
    refused(NoiseSchedule::new(linear(1e-4, 0.02), 100_000), &expected);
    for n in [2, 1000, 100_000] {
        let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, n).unwrap();
        assert!(schedule.reverse_steps().all(|step| step.posterior_variance().is_finite()));
    }
}

#[test]
fn unknown_and_missing_fields_are_named_with_their_line() {
    for stage in STAGES {
        let model = Model::new();
        model.edit_config(stage, |json| json["config"]["n_heds"] = json!(4));
        refused(model.open(), &["config.json", "unknown field `n_heds`", "expected", "line"]);
        let model = Model::new();
        model.edit_config(stage, |json| json["author"] = json!("me"));
        refused(model.open(), &["config.json", "unknown field `author`", "line"]);
        let model = Model::new();
        model.edit_config(stage, |json| {
            json.as_object_mut().unwrap().remove("embedding_space").unwrap();
        });
        refused(model.open(), &["config.json", "missing field `embedding_space`", "line"]);
    }
}

#[test]
fn configurations_that_are_no_json_are_refused() {
    let nested = |bracket: &str| bracket.repeat(100_000);
    let inside = |value: &str| {
        format!(r#"{{"format_version":1,"stage":"prior","embedding_space":"","config":{value}}}"#)
    };
    let texts = [
        "".to_string(),
        " ".into(),
        "null".into(),
        "[]".into(),
        "\u{feff}{}".into(),
        nested("["),
        nested(r#"{"a":"#),
        inside(&nested("[")),
        inside(&format!(r#"{{"d_embedding":{}"#, nested("["))),
        inside(r#"{"d_embedding":6,"d_embedding":6}"#),
        inside(r#"{"d_embedding":NaN}"#),
        inside(r#"{"d_embedding":1e999}"#),
    ];
    for text in texts {
        let model = Model::new();
        fs::write(model.path("prior/config.json"), text).unwrap();
        refused(in_time(move || model.open()), &["prior/config.json", "line"]);
    }
    let model = Model::new();
    fs::write(model.path("prior/config.json"), b"{\"stage\": \"\xff\"}").unwrap();
    refused(model.open(), &["prior/config.json", "line 1"]);
    fs::write(model.path("prior/config.json"), vec![b' '; (1 << 20) + 1]).unwrap();
    refused(model.open(), &["prior/config.json", "1048577 bytes long, expected at most 1048576"]);
}

// tokenizer files

fn tokenizer(vocab: &[u8], merges: &[u8]) -> Result<Tokenizer, impl std::fmt::Display> {
    Tokenizer::from_bytes(Path::new("tokenizer"), vocab, merges, TokenizerOptions::default())
}

#[test]
fn vocabularies_that_cannot_be_used_are_refused() {
    let start_end = r#""<|startoftext|>":0,"<|endoftext|>":1"#;
    let cases = [
        ("".to_string(), "line 1"),
        ("[]".into(), "expected a map"),
        ("[".repeat(100_000), "expected a map"),
        ("{}".into(), "lacks one of the tokens <|startoftext|>, <|endoftext|> and !"),
        (format!("{{{start_end}}}"), "lacks one of the tokens"),
        (format!(r#"{{{start_end},"!":1}}"#), "has id 1, expected each id from 0 to 2 once"),
        (format!(r#"{{{start_end},"!":3}}"#), "\"!\" has id 3, expected each id from 0 to 2"),
        (format!(r#"{{{start_end},"!":-1}}"#), "expected u32 at line 1"),
        (format!(r#"{{{start_end},"!":2.0}}"#), "expected u32 at line 1"),
        (format!(r#"{{{start_end},"!":4294967296}}"#), "expected u32 at line 1"),
        (format!(r#"{{{start_end},"!":2,"!":3}}"#), "has id 3, expected each id from 0 to 2"),
    ];
    for (vocab, words) in cases {
        refused(tokenizer(vocab.as_bytes(), b""), &["tokenizer/vocab.json", words]);
    }
}

#[test]
fn merges_that_cannot_be_used_are_refused_with_their_line() {
    let vocab = Model::file("tokenizer/vocab.json");
    let cases: [(&[u8], &str); 5] = [
        (b"#version: 0.2\ni n\nzzz qqq\n", "line 3: token \"zzz\" is not in the vocabulary"),
        (b"in\n", "line 1: \"in\" is not two tokens with a space between them"),
        (b"i n g\n", "line 1: token \"n g\" is not in the vocabulary"),
        (b"i \n", "line 1: token \"\" is not in the vocabulary"),
        (b"i n\n\xff\xfe\n", "invalid utf-8"),
    ];
    for (merges, words) in cases {
        refused(tokenizer(vocab, merges), &["tokenizer/merges.txt", words]);
    }
    refused(
        tokenizer(vocab, &b"i n\n".repeat(1_000_001)),
        &["line 1000001: number of merges is 1000001", "the limit vocabulary_entries"],
    );
}

#[test]
fn contexts_without_room_for_a_token_are_refused() {
    for context_length in [0, 1, 2] {
        let options = TokenizerOptions { context_length, ..TokenizerOptions::default() };
        let model = Model::new();
        let found = format!("context length {context_length}, expected at least 3");
        refused(Tokenizer::from_folder(&model.path("tokenizer"), options), &["tokenizer", &found]);
    }
}

#[test]
fn another_vocabulary_is_told() {
    let model = Model::new();
    let path = model.path("tokenizer/vocab.json");
    let mut vocab: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let len = vocab.as_object().unwrap().len();
    vocab["one more"] = json!(len);
    fs::write(&path, vocab.to_string()).unwrap();
    let (expected, found) = (len.to_string(), (len + 1).to_string());
    refused(model.open(), &["text_encoder and tokenizer", "vocab_size", &expected, &found]);
}
