//! LAION's folders with something wrong in them: refused with the files' own names.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use unclip::unclip_core::BetaSchedule;
use unclip::{Bundle, device};

use crate::hashed::raw;
use crate::laion::folder;
use crate::support::{read_tensors, refused, safetensors, tensors_file};

/// What opening says of a folder whose configuration has another value at this place.
fn edited(name: &str, stage: &str, place: &str, value: &Value) -> String {
    let model = folder(name);
    let file = if stage == "prior" { "prior_config.json" } else { "decoder_config.json" };
    let path = model.path().join(stage).join(file);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let (object, field) = place.rsplit_once('/').unwrap();
    config.pointer_mut(object).unwrap()[field] = value.clone();
    fs::write(&path, config.to_string()).unwrap();
    Bundle::open(model.path()).unwrap_err().to_string()
}

/// Checks what is said of each value in the place of that in a stage's configuration.
fn check(name: &str, stage: &str, cases: &[(&str, Value, &str)]) {
    let root = if stage == "prior" { "/prior" } else { "/decoder" };
    for (place, value, expected) in cases {
        let message = edited(name, stage, &format!("{root}/{place}"), value);
        assert!(message.contains(expected), "{place} {value}: {message}");
        assert!(message.contains("_config.json: "), "{place} {value}: {message}");
    }
}

#[test]
fn priors_that_are_not_built_are_refused() {
    check(
        "micro",
        "prior",
        &[
            ("sampling_clamp_l2norm", json!(true), "prior.sampling_clamp_l2norm is true"),
            ("beta_schedule", json!("jsd"), "prior.beta_schedule is jsd, expected cosine"),
            ("sample_timesteps", json!(1001), "sample_timesteps is 1001, expected at most 1000"),
            ("sample_timesteps", json!(1), "prior.sample_timesteps is 1, expected at least 2"),
            ("timesteps", json!(0), "prior.timesteps is 0, expected at least 1"),
            ("cond_drop_prob", json!("often"), "prior.cond_drop_prob is \"often\""),
            ("predict_x_start", json!(false), "prior.sample_timesteps is 5, expected 1000"),
            ("image_embed_dim", json!(63), "prior.image_embed_dim is 63, expected 64"),
            ("image_embed_scale", json!(0), "prior.image_embed_scale is 0"),
            ("net/self_cond", json!(true), "prior.net.self_cond is true"),
            ("net/num_timesteps", json!(10), "prior.net.num_timesteps is 10, expected 1000"),
            ("net/num_time_embeds", json!(0), "prior.net.num_time_embeds is 0"),
            ("net/dropout", json!(1), "prior.net.dropout is 1, expected no such field"),
            ("net/dim_head", json!(15), "prior.net.dim_head is 15, expected a multiple"),
            ("clip/make", json!("coca"), "prior.clip.make is \"coca\""),
            ("clip/model", json!("../x"), "prior.clip.model is ../x, expected the name"),
            ("clip/model", json!(""), "prior.clip.model is"),
            ("clip/model", json!("ViT-B/32"), "decoder.clip.model is ViT-L/14, expected ViT-B/32"),
        ],
    );
}

#[test]
fn decoders_that_are_not_built_are_refused() {
    check(
        "micro",
        "decoder",
        &[
            ("use_dynamic_thres", json!(true), "decoder.use_dynamic_thres is true"),
            ("unconditional", json!(true), "decoder.unconditional is true"),
            ("channels", json!(4), "decoder.channels is 4, expected 3"),
            ("image_sizes", json!([16]), "decoder.image_sizes is [16], expected a side"),
            ("image_sizes", json!([16, 24]), "image_sizes is 24, expected multiples"),
            ("image_size", json!(16), "decoder.image_size is 16, expected absent"),
            ("beta_schedule", json!(["cosine"]), "decoder.beta_schedule is a list of 1, expected"),
            ("beta_schedule", json!("jsd"), "decoder.beta_schedule is jsd, expected cosine"),
            ("sample_timesteps", json!([2]), "decoder.sample_timesteps is a list of 1"),
            ("predict_x_start", json!([true]), "decoder.predict_x_start is a list of 1"),
            ("predict_x_start", json!([0, true]), "one value of the right type, or a list of such"),
            ("ddim_sampling_eta", json!(2), "decoder.ddim_sampling_eta is 2"),
            ("use_noise_for_lowres_cond", json!([true]), "use_noise_for_lowres_cond"),
            ("timesteps", json!(0), "decoder.timesteps is 0, expected at least 1"),
        ],
    );
}

#[test]
fn unets_that_are_not_built_are_refused() {
    check(
        "micro",
        "decoder",
        &[
            ("unets/0/self_cond", json!(true), "decoder.unets.0.self_cond is true"),
            ("unets/0/image_embed_dim", json!(24), "unets.0.image_embed_dim is 24, expected"),
            ("unets/0/dim_mults", json!([]), "unets.0.dim_mults is [], expected at least"),
            ("unets/1/dim_mults", json!([]), "unets.1.dim_mults is [], expected at least"),
            ("unets/0/resnet_groups", json!([8, 4]), "unets.0.resnet_groups is [8, 4]"),
            ("unets/0/init_dim", json!(32), "decoder.unets.0.init_dim is 32, expected 16"),
            ("unets/0/self_attn", json!([true]), "unets.0.self_attn is a list of 1"),
            ("unets/0/self_attn", json!([2, 0]), "unets.0.self_attn is 2, expected true or false"),
            ("unets/0/attn_heads", json!(0), "unets.0.attn_heads is 0"),
            ("unets/1/final_conv_kernel_size", json!(4), "unets.1.final_conv_kernel_size is 4"),
            ("unets/1/cond_on_text_encodings", json!(true), "unets.1.text_embed_dim is absent"),
            ("unets/1/self_con", json!(0), "unets.1.self_con is 0, expected no such"),
        ],
    );
    let above = json!([8, 48]);
    check(
        "micro-odd",
        "upsampler",
        &[("image_sizes", above, "image_sizes.0 is 8, expected 16, which the decoder draws")],
    );
}

/// Files that do not make one model are refused by name.
#[test]
fn damaged_folders_are_refused() {
    let model = folder("micro");
    fs::remove_file(model.path().join("ViT-L-14.safetensors")).unwrap();
    refused(Bundle::open(model.path()), &["ViT-L-14.safetensors"]);
    let model = folder("micro");
    fs::remove_dir_all(model.path().join("decoder")).unwrap();
    refused(Bundle::open(model.path()), &["decoder"]);
    let model = folder("micro");
    let own = own_of(&model);
    fs::rename(&own, model.path().join("prior/latest.pth")).unwrap();
    fs::write(model.path().join("prior/latest.pth"), b"\x80\x02}q\x00.").unwrap();
    refused(Bundle::open(model.path()), &["latest.pth", "pickle", "convert_pickle"]);
    // the weights of the other stage
    let model = folder("micro");
    fs::copy(model.path().join("decoder/latest.safetensors"), own_of(&model)).unwrap();
    let bundle = Bundle::open(model.path()).unwrap();
    refused(bundle.prior().unwrap().load(&device("flex").unwrap()), &["latest.safetensors"]);
}

fn own_of(model: &TempDir) -> PathBuf {
    model.path().join("prior/latest.safetensors")
}

/// Adds tensors to a file of weights, and a note of the release that wrote it.
fn with_more(path: &Path, more: &[(&str, Vec<f32>)], release: Option<&str>) {
    let mut tensors = read_tensors(path);
    tensors.extend(more.iter().map(|(name, values)| raw(name, &[values.len()], values)));
    let file = tensors_file(&tensors);
    let (len, rest) = file.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    if let Some(release) = release {
        header["__metadata__"] = json!({ "dalle2_pytorch": release });
    }
    fs::write(path, safetensors(&header.to_string(), data)).unwrap();
}

/// What the weights say of the schedule, of U-Nets and of their release has to be true.
#[test]
fn weights_that_say_otherwise_are_refused() {
    let opened = |stage: &str, more: &[(&str, Vec<f32>)], note: Option<&str>| {
        let model = folder("micro");
        with_more(&model.path().join(stage).join("latest.safetensors"), more, note);
        Bundle::open(model.path())
    };
    let linear: Vec<f32> = (0..1000).map(|t| 1e-4 + t as f32 * (0.02 - 1e-4) / 999.0).collect();
    let betas = BetaSchedule::SquaredCosine.betas(1000).unwrap();
    let cosine: Vec<f32> = betas.iter().map(|&beta| beta as f32).collect();
    let of_prior = "noise_scheduler.betas";
    assert!(opened("prior", &[(of_prior, cosine)], Some("1.15.6")).is_ok());
    let early = ["release of DALLE2-pytorch is 1.0.3", "net.null_text_embed is absent"];
    refused(opened("prior", &[], Some("1.0.3")), &early);
    assert!(opened("decoder", &[], Some("1.10.0")).is_ok());
    let expected = ["prior.beta_schedule is cosine, expected linear", "noise_scheduler.betas"];
    refused(opened("prior", &[(of_prior, linear)], None), &expected);
    let odd = ["prior.beta_schedule is cosine", "none of those known"];
    refused(opened("prior", &[(of_prior, vec![0.5; 1000])], None), &odd);
    let few = ["prior.timesteps is 1000, expected 3", "noise_scheduler.betas"];
    refused(opened("prior", &[(of_prior, vec![0.1; 3])], None), &few);
    let of_unet = "noise_schedulers.1.betas";
    let few = ["decoder.timesteps is 8, expected 3", of_unet];
    refused(opened("decoder", &[(of_unet, vec![0.1; 3])], None), &few);
    for name in ["unets.2.foo", "unets.x"] {
        let expected = ["decoder.unets is a list of 2", name];
        refused(opened("decoder", &[(name, vec![0.0])], None), &expected);
    }
    for stage in ["prior", "decoder"] {
        for release in ["1.4.6", "1.2", "0.23.2", "0.22.3"] {
            let said = format!("release of DALLE2-pytorch is {release}");
            let expected = [said.as_str(), "0.23.3 to 1.1"];
            refused(opened(stage, &[], Some(release)), &expected);
        }
    }
}

/// A file has one release: what it notes decides where its tensors say nothing, and may not contradict them.
#[test]
fn a_file_is_of_one_release() {
    let opened = |model: TempDir, note: &str| {
        with_more(&model.path().join("decoder/latest.safetensors"), &[], Some(note));
        Bundle::open(model.path())
    };
    assert!(opened(folder("early"), "0.23.3").is_ok());
    let expected = ["release of DALLE2-pytorch is 1.15.6", "a kernel of 4 pixels"];
    refused(opened(folder("early"), "1.15.6"), &expected);
    // DDIM of the early releases alone is random
    let eta = |model: &TempDir| {
        let path = model.path().join("decoder/decoder_config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let decoder = &mut config["decoder"];
        decoder["ddim_sampling_eta"] = json!(0.5);
        decoder["sample_timesteps"] = json!([2, 2]);
        fs::write(path, config.to_string()).unwrap();
    };
    let early = folder("early");
    eta(&early);
    assert!(opened(early, "1.0.3").is_ok());
    let late = folder("micro");
    eta(&late);
    refused(Bundle::open(late.path()), &["ddim_sampling_eta is 0.5, expected 0"]);
}

/// The trainers of DALLE2-pytorch keep a configuration in which this field has numbers.
#[test]
fn configurations_of_checkpoints_are_read() {
    let model = folder("micro");
    let path = model.path().join("decoder/decoder_config.json");
    let config = fs::read_to_string(&path).unwrap();
    let before = Bundle::open(model.path()).unwrap().decoder.config().clone();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    for unet in config["decoder"]["unets"].as_array_mut().unwrap() {
        let number = |it: &Value| json!(u8::from(it.as_bool().unwrap()));
        let numbers = match &unet["self_attn"] {
            Value::Array(levels) => Value::Array(levels.iter().map(number).collect()),
            Value::Null => continue,
            one => number(one),
        };
        unet["self_attn"] = numbers;
    }
    assert!(
        config.to_string().contains("\"self_attn\":[0")
            || config.to_string().contains("\"self_attn\":[1")
    );
    fs::write(&path, config.to_string()).unwrap();
    assert_eq!(*Bundle::open(model.path()).unwrap().decoder.config(), before);
}
