//! Which prior, what guides, and folders of pictures.

use std::fs;
use std::process::Command;

use unclip::{Recipe, read_picture};

use super::{Place, QUICK, done, program};

#[test]
fn a_folder_is_embedded_ranked_and_mapped_and_draws() {
    let place = Place::new();
    fs::create_dir_all(place.path("folder/sub")).unwrap();
    place.text_to_image(&["a pink ring", "--out", "folder/a.png"]).wrote(&["folder/a.png"]);
    place.text_to_image(&["a star", "--out", "folder/sub/b.png"]).wrote(&["folder/sub/b.png"]);
    fs::write(place.path("folder/broken.png"), "a text").unwrap();
    image::RgbImage::new(2000, 20).save(place.path("folder/thin.png")).unwrap();
    let embedded = place.run("embed", &["folder"]);
    embedded.wrote(&["embeddings.safetensors: 2 embeddings"]);
    for name in ["folder/broken.png is left out", "folder/thin.png is left out"] {
        assert!(embedded.err.contains(name), "{}", embedded.err);
    }
    let ranked = place.run("rank", &["embeddings.safetensors", "a ring", "--top", "1"]);
    assert_eq!(ranked.out.len(), 2, "{}", ranked.err);
    assert_eq!(ranked.out, place.run("rank", &["folder", "a ring", "--top", "1"]).out);
    let one = place.run("rank", &["folder/a.png", "a pink ring", "a star"]);
    assert_eq!(one.out.len(), 2);
    assert!(one.out.iter().all(|line| line.contains(" %")), "{:?}", one.out);
    place.run("rank", &["folder/a.png", "a", "--top", "1"]).refused(&["--top"]);
    place.run("map", &["embeddings.safetensors"]).wrote(&["map.png"]);
    place
        .run("map", &["embeddings.safetensors", "--size", "64", "--thumbnail", "65"])
        .refused(&["--thumbnail is 65"]);
    place
        .run("map", &["embeddings.safetensors", "--method", "tsne"])
        .refused(&["embeddings for t-SNE is 2", "pca"]);
    let near = ["a ring", "--prior", "retrieval", "--gallery", "embeddings.safetensors"];
    let mut command = Command::new(program("text_to_image"));
    command.current_dir(place.path("")).args(near).args(QUICK);
    done(&command.output().unwrap()).wrote(&["picture.png"]);
    // made again with the same embeddings alone
    let again = ["--from", "picture.png", "--out", "again.png", "--gallery"];
    let again = |gallery: &str| {
        let mut command = Command::new(program("text_to_image"));
        command.current_dir(place.path("")).args(again).arg(gallery);
        done(&command.output().unwrap())
    };
    again("embeddings.safetensors").wrote(&["again.png"]);
    let [first, second] =
        ["picture.png", "again.png"].map(|name| read_picture(place.path(name)).unwrap());
    assert_eq!(first, second);
    place.run("embed", &["folder/sub", "--out", "other.safetensors"]);
    again("other.safetensors").refused(&["its embeddings came from \"embeddings.safetensors\""]);
    // nothing that can be used
    fs::create_dir(place.path("bad")).unwrap();
    fs::write(place.path("bad/a.png"), "a text").unwrap();
    place.run("embed", &["bad", "--out", "bad.safetensors"]).refused(&["no picture can be read"]);
    place.run("rank", &["bad", "a ring"]).refused(&["no picture can be read"]);
}

#[test]
fn variations_from_the_pictures_own_noise_take_what_goes_with_them() {
    let place = Place::new();
    place.text_to_image(&["a pink ring"]).wrote(&["picture.png"]);
    let vary = |arguments: &[&str]| {
        let mut command = Command::new(program("image_variation"));
        let quick = ["--decoder-steps", "3", "--upsampler-steps", "1"];
        command.current_dir(place.path("")).arg("picture.png").args(quick).args(arguments);
        done(&command.output().unwrap())
    };
    vary(&["--eta", "0"]).wrote(&["variation.png"]);
    let prior = ["--through-prior", "--prior", "ar", "--n", "2"];
    let with_prior = [&["--eta", "1"], &prior[..]].concat();
    vary(&with_prior).wrote(&["variation.0.png", "variation.1.png"]);
    vary(&["--eta", "2"]).refused(&["ddim is 2"]);
    vary(&["--eta", "-1"]).refused(&["ddim is -1"]);
    vary(&["--eta", "0.5", "--prior", "ar"]).refused(&["prior is ar", "absent"]);
    vary(&["--eta", "0.5", "--prior-steps", "3"]).refused(&["prior options is steps 3", "absent"]);
    // a recipe's prior goes with the variation that had it
    vary(&["--strength", "0.5", "--prompt", "a star", "--out", "half.png"]).wrote(&["half.png"]);
    vary(&["--from", "half.png", "--out", "again.png"]).wrote(&["again.png"]);
    vary(&["--from", "half.png", "--strength", "1", "--out", "full.png"]).wrote(&["full.png"]);
    let [half, again, full] =
        ["half.png", "again.png", "full.png"].map(|name| read_picture(place.path(name)).unwrap());
    assert_eq!(half, again);
    assert_ne!(half, full);
}

#[test]
fn what_guides_is_kept_and_what_is_given_overrides_it() {
    let place = Place::new();
    let scales = ["--text-guidance", "3", "--image-guidance", "2", "--out", "a.png"];
    place.text_to_image(&[&["a pink ring"], &scales[..]].concat()).wrote(&["a.png"]);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(program("text_to_image"));
        command.current_dir(place.path("")).args(arguments);
        done(&command.output().unwrap())
    };
    let settings = |name: &str| Recipe::read(place.path(name)).unwrap().settings.decoder;
    run(&["--from", "a.png", "--text-guidance", "4", "--out", "b.png"]).wrote(&["b.png"]);
    let after = settings("b.png");
    assert_eq!((after.guidance_scale, after.image_guidance), (4.0, Some(2.0)));
    let negative = ["a star", "--decoder-guidance", "2", "--negative-picture", "a.png"];
    place.text_to_image(&[&negative[..], &["--out", "c.png"]].concat()).wrote(&["c.png"]);
    run(&["--from", "c.png", "--out", "d.png"]).refused(&["--negative-picture"]);
    let again = ["--from", "c.png", "--negative-picture", "a.png", "--out", "d.png"];
    run(&again).wrote(&["d.png"]);
    let [first, second] = ["c.png", "d.png"].map(|name| read_picture(place.path(name)).unwrap());
    assert_eq!(first, second);
    // of pictures there is no guidance with a scale of 1
    let apart = ["a star", "--text-guidance", "3", "--negative-picture", "a.png"];
    place.text_to_image(&apart).refused(&["negative picture", "a scale of 1"]);
    place.text_to_image(&["a star", "--clip-gradient", "estimate"]).refused(&["--clip-guidance"]);
}
