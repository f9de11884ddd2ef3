//! What brought programs down, or was taken without a word, until somebody tried it; and what people try to
//! find out whether a machine is sound.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Done, Place, QUICK, done, program};

/// Copies a folder of a model.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The bundled model in a folder called `m`.
fn with_model() -> Place {
    let place = Place::new();
    copy(&root().join("assets/shapes"), &place.path("m"));
    place
}

#[test]
fn nothing_is_written_into_a_prior_that_is_read() {
    let place = Place::new();
    copy(&root().join("tests/fixtures/kandinsky/model"), &place.path("km"));
    fs::create_dir(place.path("pics")).unwrap();
    image::RgbImage::new(40, 40).save(place.path("pics/a.png")).unwrap();
    let weights = "km/prior/image_encoder/model.safetensors";
    let before = fs::read(place.path(weights)).unwrap();
    let model = ["--model", "km/decoder", "--prior-model", "km/prior", "--out", weights];
    place.run("embed", &[&["pics"][..], &model].concat()).refused(&["is in the model's folder"]);
    assert_eq!(fs::read(place.path(weights)).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn nothing_is_written_where_a_stage_of_the_model_is_a_link_to() {
    let place = with_model();
    fs::rename(place.path("m/decoder"), place.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere"), place.path("m/decoder")).unwrap();
    for option in ["--trace", "--timings"] {
        let out = ["red", "--model", "m", option, "elsewhere/config.json"];
        place.text_to_image(&out).refused(&["is in the model's folder"]);
    }
}

#[cfg(feature = "train")]
#[test]
fn reports_and_trainings_do_not_replace_what_they_read() {
    let place = with_model();
    let out = ["--model", "m", "--out", "m/tokenizer/vocab.json"];
    let one = ["--parts", "clip", "--captions", "1"];
    place.run("evaluate_shapes", &[&one[..], &out].concat()).refused(&["in the model's folder"]);
    let one = ["--parts", "reconstruction", "--cases", "1"];
    place
        .run("evaluate_manipulations", &[&one[..], &out].concat())
        .refused(&["in the model's folder"]);
    fs::rename(place.path("m"), place.path("bundle")).unwrap();
    let train = ["--preset", "shapes", "--stage", "upsampler.1", "--minutes", "0"];
    for out in [".", "bundle", "bundle/decoder"] {
        let places = ["--from", "bundle", "--out", out];
        let refused = place.run("train", &[&train[..], &places].concat());
        refused.refused(&["would write there", "another folder"]);
    }
}

fn with_limits(place: &Place, limits: &std::ffi::OsStr, arguments: &[&str]) -> Done {
    let mut command = place.command("text_to_image", arguments);
    done(&command.env("UNCLIP_LIMITS", limits).output().unwrap())
}

#[test]
fn limits_are_read_to_the_letter() {
    let place = Place::new();
    let run = |limits: &str| with_limits(&place, limits.as_ref(), &["red"]);
    run("images=1 images=3").refused(&["images stands there twice"]);
    run("images=99999999999999999999").refused(&["images is 99999999999999999999", "whole number"]);
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let odd = std::ffi::OsStr::from_bytes(b"images=1\xff");
        with_limits(&place, odd, &["red"]).refused(&["is not UTF-8"]);
    }
}

#[test]
fn captions_and_recipes_are_counted() {
    let place = Place::new();
    fs::write(place.path("three.txt"), "a\nb\nc\n").unwrap();
    let three = ["--prompts", "three.txt", "--out", "three/"];
    let refused = with_limits(&place, "prompts=2".as_ref(), &three);
    refused.refused(&["three.txt: number of captions is 3", "the limit prompts"]);
    place.text_to_image(&["a", "--n", "3", "--grid", "--out", "sheet.png"]).wrote(&["sheet.png"]);
    let again = ["--from", "sheet.png", "--out", "again.png"];
    with_limits(&place, "images=2".as_ref(), &again).refused(&["the limit images"]);
}

#[test]
fn no_option_is_taken_without_a_word() {
    let place = Place::new();
    for (option, value) in
        [("--timings", "t.json"), ("--trace", "t.safetensors"), ("--out", "o.png")]
    {
        place
            .text_to_image(&["red", "--estimate", option, value])
            .refused(&["cannot be used with"]);
    }
    fs::create_dir(place.path("odd")).unwrap();
    place.run("mix", &["odd", "a ring"]).refused(&["odd: is no file"]);
    place.run("mix", &["missing.png:0,7", "a ring"]).refused(&["missing.png:0,7: no such file"]);
}

#[test]
fn large_pictures_are_refused_before_memory_is_taken_for_them() {
    let place = Place::new();
    image::RgbImage::new(600, 600).save(place.path("a.png")).unwrap();
    let model = root().join("tests/fixtures/kandinsky/model/decoder");
    let model = model.to_str().unwrap();
    let mut command = place.command("autoencode", &["a.png", "--model", model]);
    let refused = done(&command.env("UNCLIP_LIMITS", "memory_bytes=1000000").output().unwrap());
    refused.refused(&["--tiles", "the limit memory_bytes"]);
    assert!(!place.path("again.png").exists());
}

#[cfg(unix)]
#[test]
fn a_first_thread_with_a_small_stack_is_enough() {
    let place = Place::new();
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -s 256; exec \"$0\" \"$@\""]).arg(program("text_to_image"));
    command.current_dir(place.path("")).args(["red", "--prior-steps", "1"]).args(QUICK);
    done(&command.output().unwrap()).wrote(&["picture.png"]);
}

#[cfg(unix)]
#[test]
fn folders_behind_links_are_read_once() {
    let place = Place::new();
    fs::create_dir_all(place.path("pics")).unwrap();
    image::RgbImage::new(40, 40).save(place.path("pics/a.png")).unwrap();
    fs::create_dir(place.path("only")).unwrap();
    std::os::unix::fs::symlink(place.path("pics"), place.path("only/link")).unwrap();
    std::os::unix::fs::symlink(place.path("only"), place.path("only/circle")).unwrap();
    place.run("embed", &["only"]).wrote(&["embeddings.safetensors: 1 embeddings"]);
}

#[test]
fn the_self_test_agrees_and_is_one_page() {
    let place = Place::new();
    let done = place.run("self_test", &[]);
    assert_eq!(done.code, 0, "{:?}\n{}", done.err, done.out.join("\n"));
    let last = done.out.last().unwrap();
    assert!(last.starts_with("all ") && last.ends_with(" checks agree"), "{last}");
    assert!(done.out.len() < 66, "{} lines", done.out.len());
    let longest = done.out.iter().map(String::len).max().unwrap();
    assert!(longest <= 120, "{longest} characters");
    // what it compares with is what it records
    place.run("self_test", &["--record", "numbers.safetensors"]).wrote(&["numbers.safetensors"]);
    let golden = root().join("examples/self_test/golden.safetensors");
    let [found, expected] = [place.path("numbers.safetensors"), golden]
        .map(|path| unclip::unclip_nn::checkpoint::Weights::open(&path).unwrap());
    assert_eq!(found.keys(), expected.keys());
}
