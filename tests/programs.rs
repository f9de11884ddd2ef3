//! The programs that people type: where results go, what is read, what is said.

/// Which prior, what guides, and folders of pictures.
mod choices;
/// What brought programs down, or was taken without a word.
mod found;
/// Training.
#[cfg(feature = "train")]
mod training;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use unclip::{Recipe, read_picture};

use crate::support::names;

/// As few steps as there can be.
const QUICK: [&str; 4] = ["--decoder-steps", "1", "--upsampler-steps", "1"];

/// A folder in which programs run.
struct Place(tempfile::TempDir);

/// What a program did.
struct Done {
    code: i32,
    out: Vec<String>,
    err: String,
}

/// An executable of this build's examples.
fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let path = here.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    let path = path.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.exists(), "{}: build the examples first: cargo build --examples", path.display());
    path
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program(name));
        command.current_dir(self.0.path()).args(arguments);
        if ["text_to_image", "image_variation"].contains(&name) {
            command.args(QUICK);
        }
        if name == "text_to_image" {
            command.args(["--prior-steps", "1"]);
        }
        command
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Done {
        done(&self.command(name, arguments).output().unwrap())
    }

    fn text_to_image(&self, arguments: &[&str]) -> Done {
        self.run("text_to_image", arguments)
    }

    fn image_variation(&self, arguments: &[&str]) -> Done {
        self.run("image_variation", arguments)
    }
}

fn done(output: &Output) -> Done {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Done {
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout).lines().map(String::from).collect(),
        err: text(&output.stderr),
    }
}

impl Done {
    /// It went well, and wrote these files.
    #[track_caller]
    fn wrote(&self, files: &[&str]) {
        assert_eq!(self.code, 0, "{}", self.err);
        assert_eq!(self.out, files);
    }

    /// It was refused, in these words among others.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        assert!(self.code == 1 || self.code == 2, "{}: {}", self.code, self.err);
        assert!(self.out.is_empty(), "{:?}", self.out);
        words
            .iter()
            .for_each(|word| assert!(self.err.contains(word), "{word:?} in {:?}", self.err));
    }
}

#[test]
fn results_go_where_they_were_asked_for() {
    let place = Place::new();
    place.text_to_image(&["a pink ring"]).wrote(&["picture.png"]);
    place.text_to_image(&["a pink ring", "--n", "2"]).wrote(&["picture.0.png", "picture.1.png"]);
    place.text_to_image(&["a pink ring", "--out", "new/"]).wrote(&["new/00000.png"]);
    fs::create_dir(place.path("old")).unwrap();
    let both = ["old/00000.png", "old/00001.png"];
    place.text_to_image(&["a pink ring", "--n", "2", "--out", "old"]).wrote(&both);
    place.text_to_image(&["a pink ring", "--out", "a.jpg", "--quality", "50"]).wrote(&["a.jpg"]);
    assert!(fs::read(place.path("a.jpg")).unwrap().starts_with(b"\xff\xd8"));
    place
        .text_to_image(&["a pink ring", "--out", "old", "--format", "WebP"])
        .wrote(&["old/00000.webp"]);
    // a picture's name is never that of what is read
    place.image_variation(&["picture.png"]).wrote(&["variation.png"]);
    place.image_variation(&["picture.png", "--out", "old/"]).wrote(&["old/00000.png"]);
    place
        .image_variation(&["picture.png", "a.jpg", "--out", "two"])
        .wrote(&["two/00000.png", "two/00001.png"]);
}

#[test]
fn limits_are_raised_and_lowered_by_the_environment() {
    let place = Place::new();
    let run = |limits: &str, arguments: &[&str]| {
        done(
            &place
                .command("text_to_image", arguments)
                .env("UNCLIP_LIMITS", limits)
                .output()
                .unwrap(),
        )
    };
    run("images=2", &["x", "--n", "2", "--out", "two/"]).wrote(&["two/00000.png", "two/00001.png"]);
    run("images=2", &["x", "--n", "3"]).refused(&["n is 3 pictures", "the limit images"]);
    run("caption_bytes=3", &["rings"])
        .refused(&["length of the caption is 5 bytes", "caption_bytes"]);
    run("picture=3", &["x"]).refused(&["UNCLIP_LIMITS: limit is picture=3", "picture_side"]);
    let said =
        ["memory of the call (most of it of the", "at most 1000 bytes (the limit memory_bytes"];
    run("memory_bytes=1000", &["x"]).refused(&said);
    // the same pictures in as many parts as there are
    run("batch_bytes=1", &["x", "--n", "2", "--out", "parts/"])
        .wrote(&["parts/00000.png", "parts/00001.png"]);
    for name in ["00000.png", "00001.png"] {
        let [whole, part] = ["two", "parts"].map(|it| fs::read(place.path(it).join(name)).unwrap());
        assert!(whole == part, "{name}");
    }
    let help = place.text_to_image(&["--help"]);
    assert!(help.out.iter().any(|line| line.contains("UNCLIP_LIMITS")));
}

/// More threads than cores wait for each other and nothing else.
#[test]
fn more_threads_than_cores_are_not_taken() {
    let place = Place::new();
    let command = &mut place.command("text_to_image", &["x", "--out", "a.png"]);
    let made = done(&command.env("RAYON_NUM_THREADS", "1000").output().unwrap());
    made.wrote(&["a.png"]);
    assert!(made.err.contains("RAYON_NUM_THREADS is 1000"), "{}", made.err);
    place.text_to_image(&["x", "--out", "b.png"]).wrote(&["b.png"]);
    let [many, few] = ["a.png", "b.png"].map(|name| fs::read(place.path(name)).unwrap());
    assert!(many == few, "threads make no difference");
}

#[test]
fn an_estimate_makes_nothing() {
    let place = Place::new();
    place.text_to_image(&["x", "--timings", "rate.json"]).wrote(&["picture.png"]);
    fs::remove_file(place.path("picture.png")).unwrap();
    let estimate = place.text_to_image(&["x", "--n", "4", "--estimate"]);
    assert_eq!(estimate.code, 0, "{}", estimate.err);
    let said = estimate.out.join("\n");
    for word in ["stage", "decoder", "upsampler.1", "calls", "memory: about"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let estimate = place.text_to_image(&["x", "--n", "4", "--estimate", "--rate", "rate.json"]);
    assert!(estimate.out.join("\n").contains("time: about"), "{:?}", estimate.out);
    assert!(!place.path("picture.png").exists());
    place.text_to_image(&["x", "--rate", "rate.json"]).refused(&["--estimate"]);
    fs::write(place.path("other.json"), "{}").unwrap();
    place
        .text_to_image(&["x", "--estimate", "--rate", "other.json"])
        .refused(&["other.json", "stages"]);
}

#[test]
fn places_are_checked_before_any_work() {
    let place = Place::new();
    fs::write(place.path("file"), "a text").unwrap();
    place.text_to_image(&["x", "--out", "picture.png"]).wrote(&["picture.png"]);
    let before = names(place.0.path());
    let cases: [(&[&str], &[&str]); 10] = [
        (&["x", "--out", "-"], &["files", "./-"]),
        (&["x", "--out", "missing/a.png"], &["missing/a.png", "not found"]),
        (&["x", "--out", "a.gif"], &["a.gif", ".png, .jpg, .jpeg or .webp"]),
        (&["x", "--out", "file/"], &["file", "no folder"]),
        (&["x", "--out", "file/below/"], &["file", "no folder"]),
        (&["x", "--trace", "missing/x"], &["missing/x", "not found"]),
        (&["x", "--timings", "missing/x"], &["missing/x", "not found"]),
        (&["x", "--trace", "picture.png"], &["picture.png", "a place of its own"]),
        (
            &["--from", "picture.png", "--out", "picture.png"],
            &["picture.png", "a place of its own"],
        ),
        (&["x", "--quality", "80"], &["quality is 80", "PNG is written without loss"]),
    ];
    for (arguments, words) in cases {
        place.text_to_image(arguments).refused(words);
    }
    place
        .image_variation(&["picture.png", "--out", "./picture.png"])
        .refused(&["a place of its own"]);
    fs::create_dir(place.path("in")).unwrap();
    fs::copy(place.path("picture.png"), place.path("in/00000.png")).unwrap();
    place
        .image_variation(&["in/00000.png", "--out", "in"])
        .refused(&["in/00000.png", "of its own"]);
    fs::remove_dir_all(place.path("in")).unwrap();
    assert_eq!(names(place.0.path()), before);
    fs::create_dir_all(place.path("out/00001.png")).unwrap();
    place.text_to_image(&["x", "--n", "2", "--out", "out"]).refused(&["00001.png", "a folder"]);
    assert_eq!(names(&place.path("out")), ["00001.png"]);
}

#[cfg(unix)]
#[test]
fn links_and_devices_stay_what_they_are() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    fs::create_dir(place.path("real")).unwrap();
    symlink("real/a.png", place.path("link.png")).unwrap();
    for _ in 0..2 {
        place.text_to_image(&["x", "--out", "link.png"]).wrote(&["link.png"]);
        assert!(place.path("link.png").symlink_metadata().unwrap().is_symlink());
        read_picture(place.path("real/a.png")).unwrap();
    }
    assert_eq!(names(&place.path("real")), ["a.png"]);
    // a link that leads where another result goes
    symlink("a.json", place.path("b.png")).unwrap();
    let both = ["x", "--out", "b.png", "--timings", "a.json"];
    place.text_to_image(&both).refused(&["a.json", "a place of its own"]);
    place.text_to_image(&["x", "--out", "/dev/stdout"]).refused(&["a pipe", "regular file"]);
    place.text_to_image(&["x", "--out", "/dev/null"]).refused(&["a device", "regular file"]);
}

#[test]
fn sheets_are_made_again() {
    let place = Place::new();
    let made = place.text_to_image(&["a pink ring", "--n", "3", "--grid", "--seed", "5"]);
    made.wrote(&["picture.png"]);
    let recipes = Recipe::read_all(place.path("picture.png")).unwrap();
    assert_eq!(recipes.iter().map(|it| it.seed).collect::<Vec<_>>(), [5, 6, 7]);
    place.text_to_image(&["--from", "picture.png", "--out", "again.png"]).wrote(&["again.png"]);
    let [a, b] = ["picture.png", "again.png"].map(|name| fs::read(place.path(name)).unwrap());
    assert_eq!(a, b);
    let made = place.image_variation(&["picture.png", "--n", "2", "--grid"]);
    made.wrote(&["variation.png"]);
    let again = ["picture.png", "--from", "variation.png", "--out", "again.png"];
    place.image_variation(&again).wrote(&["again.png"]);
    let [a, b] = ["variation.png", "again.png"].map(|name| fs::read(place.path(name)).unwrap());
    assert_eq!(a, b);
    place
        .text_to_image(&["--from", "variation.png"])
        .refused(&["a variation of \"picture.png\"", "image_variation PICTURE --from"]);
    let other = ["picture.png", "--from", "picture.png", "--out", "a.png"];
    place.image_variation(&other).refused(&["text_to_image --from"]);
}

#[test]
fn a_negative_prompt_acts_or_is_refused_and_can_be_cleared() {
    let place = Place::new();
    let ring = ["a pink ring", "--negative-prompt", "a star"];
    place.text_to_image(&[&ring[..], &["--out", "a.png"]].concat()).wrote(&["a.png"]);
    assert_eq!(Recipe::read(place.path("a.png")).unwrap().negative_prompt, "a star");
    place.text_to_image(&["a pink ring", "--out", "b.png"]).wrote(&["b.png"]);
    let clear = ["--from", "a.png", "--negative-prompt", "", "--out", "c.png"];
    place.text_to_image(&clear).wrote(&["c.png"]);
    let [a, b, c] = ["a.png", "b.png", "c.png"].map(|name| fs::read(place.path(name)).unwrap());
    assert_eq!(b, c);
    assert_ne!(a, b);
    let idle = ["--prior-guidance", "1", "--decoder-guidance", "1"];
    place
        .text_to_image(&[&ring[..], &idle].concat())
        .refused(&["negative prompt", "guidance scale"]);
    let vary = ["b.png", "--negative-prompt", "a star"];
    place.image_variation(&vary).refused(&["negative prompt", "guidance scale"]);
}

#[test]
fn files_of_captions_are_texts_as_people_have_them() {
    let place = Place::new();
    fs::write(place.path("a.txt"), b"\xef\xbb\xbfa pink ring\r\n\r\n  a blue square \n\n").unwrap();
    let both = ["pictures/00000.png", "pictures/00001.png"];
    place.text_to_image(&["--prompts", "a.txt"]).wrote(&both);
    let prompts: Vec<String> =
        both.iter().map(|name| Recipe::read(place.path(name)).unwrap().prompt).collect();
    assert_eq!(prompts, ["a pink ring", "a blue square"]);
    let cases: [(&[u8], &[&str]); 6] = [
        (b"", &["b.txt", "holds no caption"]),
        (b"\n \n\t\n", &["b.txt", "holds no caption"]),
        (b"\xff\xfea\0", &["b.txt", "UTF-16", "save it as"]),
        (b"\xff\xfe\0\0a\0\0\0", &["b.txt", "UTF-32", "save it as"]),
        (b"fine\n\xe9t\xe9\n", &["b.txt", "line 2 is not UTF-8"]),
        (b"a\0b\0", &["b.txt", "zero bytes"]),
    ];
    for (bytes, words) in cases {
        fs::write(place.path("b.txt"), bytes).unwrap();
        place.text_to_image(&["--prompts", "b.txt"]).refused(words);
    }
    place.text_to_image(&["--prompts", "missing.txt"]).refused(&["missing.txt", "No such file"]);
    let mut command = place.command("text_to_image", &["--prompts", "-", "--out", "piped"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"a green star\n").unwrap();
    done(&child.wait_with_output().unwrap()).wrote(&["piped/00000.png"]);
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_that_prints_ends_the_work() {
    let place = Place::new();
    fs::write(place.path("three.txt"), "a ring\na star\na square\n").unwrap();
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut command = place.command("text_to_image", &["--prompts", "three.txt"]);
    let status = command.stdout(full()).stderr(full()).status().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(names(&place.path("pictures")).len(), 3);
    fs::remove_dir_all(place.path("pictures")).unwrap();
    let mut command = place.command("text_to_image", &["--prompts", "three.txt"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(names(&place.path("pictures")).len(), 3);
}

#[test]
fn words_of_other_programs_are_understood_or_get_a_hint() {
    let place = Place::new();
    let words = ["x", "--device", "auto", "--precision", "FP32", "--decoder-sampler", "DDIM"];
    place.text_to_image(&words).wrote(&["picture.png"]);
    let sampler = ["x", "--device", "cpu", "--decoder-sampler", "dpm++"];
    place.text_to_image(&sampler).wrote(&["picture.png"]);
    let recipe = Recipe::read(place.path("picture.png")).unwrap();
    assert_eq!(recipe.settings.decoder.sampler.to_string(), "dpm_solver");
    for seed in ["-1", "random"] {
        let made = place.text_to_image(&["x", "--seed", seed]);
        made.wrote(&["picture.png"]);
        let kept = Recipe::read(place.path("picture.png")).unwrap().seed;
        assert!(made.err.contains(&format!("note: seed {kept}")), "{}", made.err);
    }
    for (word, hint) in [
        ("--steps=5", "--decoder-steps"),
        ("--cfg", "--prior-guidance and --decoder-guidance"),
        ("--prompt", "stands without a name"),
        ("--negative", "--negative-prompt"),
        ("--num_images", "--n"),
        ("--size", "--width and --height of text_to_image and image_variation"),
        ("-n", "--n"),
        ("--num_images_per_prompt", "--n"),
        ("--strength", "an option of image_to_image"),
        ("red", "several words stand in quotes"),
    ] {
        place.text_to_image(&["x", word]).refused(&["unexpected argument", "here that is", hint]);
    }
    place.text_to_image(&["x", "--seed", "-7"]).refused(&["0 to 18446744073709551615, or random"]);
    place.text_to_image(&["x", "--decoder-guidance", "-1"]).refused(&["decoder guidance", "-1"]);
    place.text_to_image(&["x", "--device", "tpu"]).refused(&["tpu", "expected cpu, gpu, auto"]);
}

#[test]
fn what_is_no_picture_is_refused_by_name() {
    let place = Place::new();
    fs::write(place.path("a.png"), "hello").unwrap();
    place.image_variation(&["a.png"]).refused(&["a.png", "expected PNG, JPEG, WebP"]);
    let clear = Path::new("tests/fixtures/pictures/frames.gif").canonicalize().unwrap();
    let made = place.image_variation(&[clear.to_str().unwrap(), "--background", "ff8000"]);
    made.wrote(&["variation.png"]);
    assert!(made.err.contains("only the first of several frames is read"), "{}", made.err);
    let seen = "of its 12 × 8 pixels, the 8 × 8 in the middle are seen";
    assert!(made.err.contains(seen), "{}", made.err);
    place.image_variation(&["a.png", "--background", "orange"]).refused(&["six digits"]);
    place
        .image_variation(&[clear.to_str().unwrap(), "--background", "#f80"])
        .wrote(&["variation.png"]);
    let long = place.path("long.png");
    image::RgbImage::new(340, 20).save(&long).unwrap();
    place.image_variation(&["long.png"]).refused(&["long.png", "(340, 20)", "16 times"]);
}

#[test]
fn what_is_no_folder_of_a_model_is_named() {
    let place = Place::new();
    fs::write(place.path("model.ckpt"), "weights").unwrap();
    for (model, word) in [
        ("model.ckpt", "this is a file"),
        ("https://example.org/karlo", "this is an address"),
        ("~/karlo", "the shell has not replaced ~"),
        ("kakaobrain/karlo-v1-alpha", "on a hub"),
        ("missing", "No such file"),
    ] {
        place.text_to_image(&["x", "--model", model]).refused(&[model, word]);
        place.run("convert", &["--model", model, "--out", "new"]).refused(&[model, word]);
    }
}

#[cfg(unix)]
#[test]
fn a_file_keeps_its_permissions_and_a_read_only_one_its_contents() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let path = place.path("a.png");
    let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    fs::write(&path, "old").unwrap();
    set(0o444);
    place.text_to_image(&["x", "--out", "a.png"]).refused(&["a.png", "read-only"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    set(0o600);
    place.text_to_image(&["x", "--out", "a.png"]).wrote(&["a.png"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Few steps for programs that change a picture by its latents.
const FEW: [&str; 4] = ["--decoder-steps", "3", "--upsampler-steps", "1"];

#[test]
fn pictures_are_changed_by_their_latents() {
    let place = Place::new();
    place.text_to_image(&["a large red circle"]).wrote(&["picture.png"]);
    let run = |name: &str, arguments: &[&str]| place.run(name, &[arguments, &FEW].concat());
    let made = run("reconstruct", &["picture.png", "--exact", "--latents", "both.safetensors"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let decibels: f64 = made.out[0].split(' ').next().unwrap().parse().unwrap_or(0.0);
    assert!(made.out[0].starts_with("equal at") || decibels > 50.0, "{:?}", made.out);
    assert_eq!(made.out[1], "again.png");
    assert!(Recipe::read(place.path("again.png")).unwrap().incomplete);
    place.text_to_image(&["--from", "again.png"]).refused(&["latents"]);
    let words = ["--from", "a red circle", "--to", "a blue circle", "--frames", "2"];
    run("text_diff", &[&["picture.png"], &words[..]].concat()).wrote(&["text_diff.png"]);
    assert_eq!(Recipe::read_all(place.path("text_diff.png")).unwrap().len(), 2);
    run("interpolate", &["picture.png", "again.png", "--frames", "2", "--out", "a.gif"])
        .wrote(&["a.gif"]);
    let captions = ["--captions", "a red circle", "a blue star", "--frames", "2"];
    run("interpolate", &[&captions[..], &["--out", "way/"]].concat())
        .wrote(&["way/00000.png", "way/00001.png"]);
    run("mix", &["picture.png:0.7", "a blue star:0.3"]).wrote(&["mixed.png"]);
    run("probe", &["picture.png", "--components", "1,8"]).wrote(&["probe.png"]);
    let mut mask = image::GrayImage::new(512, 512);
    (100..300).for_each(|x| (100..300).for_each(|y| mask.put_pixel(x, y, image::Luma([255]))));
    mask.save(place.path("mask.png")).unwrap();
    image::GrayImage::new(512, 512).save(place.path("black.png")).unwrap();
    let before = read_picture(place.path("picture.png")).unwrap();
    let quick = ["--prior-steps", "1", "--resample", "1"];
    let inpaint = ["picture.png", "mask.png", "a blue star"];
    run("inpaint", &[&inpaint[..], &quick].concat()).wrote(&["edited.png"]);
    let after = read_picture(place.path("edited.png")).unwrap();
    let kept = before.enumerate_pixels().filter(|(x, y, _)| mask.get_pixel(*x, *y)[0] == 0);
    assert!(kept.into_iter().all(|(x, y, pixel)| after.get_pixel(x, y) == pixel));
    run("outpaint", &["picture.png", "--left", "64", "--right", "32", "--resample", "1"])
        .wrote(&["wide.png"]);
    let wide = read_picture(place.path("wide.png")).unwrap();
    assert_eq!(wide.dimensions(), (608, 512));
    assert_eq!(wide.get_pixel(64 + 300, 200), before.get_pixel(300, 200));
    let redrawn = ["picture.png", "a blue star", "--strength", "0.5", "--prior-steps", "1"];
    run("image_to_image", &redrawn).wrote(&["redrawn.png"]);
    let refused: [(&str, &[&str], &[&str]); 19] = [
        ("inpaint", &["picture.png", "again.png.gif"], &["again.png.gif"]),
        ("outpaint", &["picture.png"], &["nothing to draw", "--left"]),
        (
            "outpaint",
            &["picture.png", "--top", "20000"],
            &["20512 pixels", "the limit picture_side"],
        ),
        ("image_to_image", &["picture.png", "--jump", "3"], &["unexpected argument"]),
        (
            "reconstruct",
            &["picture.png", "--latents", "picture.png"],
            &["picture.png", "a place of its own"],
        ),
        (
            "reconstruct",
            &["picture.png", "--latents", "a.png", "--out", "a.png"],
            &["a.png", "a place of its own"],
        ),
        ("inpaint", &["picture.png", "black.png"], &["black.png", "no white"]),
        (
            "inpaint",
            &["picture.png", "mask.png", "--n", "18446744073709551615", "--out", "many/"],
            &["n is 18446744073709551615 pictures, expected at most 64 pictures"],
        ),
        ("inpaint", &["picture.png", "missing.png", "--out", "many/"], &["mask missing.png"]),
        ("mix", &["picture.png:x"], &["weight of picture.png is \"x\", expected a number"]),
        ("mix", &["pictur.png:0.7", "a ring"], &["pictur.png", "no such file"]),
        ("probe", &["picture.png", "--components", "0"], &["components is 0"]),
        ("reconstruct", &["picture.png", "--out", "picture.png"], &["a place of its own"]),
        ("reconstruct", &["missing.png"], &["missing.png", "No such file"]),
        ("text_diff", &["picture.png", "--from", "a", "--to", "a"], &["between equal captions"]),
        (
            "text_diff",
            &["picture.png", "--from", "a", "--to", "b", "--theta", "1.5"],
            &["theta is 1.5, expected a number from 0 to 1"],
        ),
        ("mix", &["a ring:1", "a star:-1"], &["weights", "a sum above 0"]),
        ("mix", &["a ring:NaN"], &["weight is NaN"]),
        ("probe", &["picture.png", "--components", "1000"], &["components is 1000"]),
    ];
    for (name, arguments, words) in refused {
        run(name, arguments).refused(words);
    }
}

#[test]
fn every_option_has_a_help_text() {
    for name in [
        "text_to_image",
        "image_variation",
        "convert",
        "interpolate",
        "reconstruct",
        "text_diff",
        "mix",
        "probe",
        "inpaint",
        "outpaint",
        "image_to_image",
        "step_by_step",
    ] {
        let help = Place::new().run(name, &["--help"]);
        assert_eq!(help.code, 0, "{name}: {}", help.err);
        let options = help.out.iter().enumerate();
        for (at, line) in options.filter(|(_, line)| line.trim_start().starts_with("--")) {
            let own = line.trim_start().split("  ").nth(1).is_some();
            let next = help
                .out
                .get(at + 1)
                .is_some_and(|next| !next.trim().is_empty() && !next.trim_start().starts_with('-'));
            assert!(own || next, "{name}: {line}");
        }
    }
}
