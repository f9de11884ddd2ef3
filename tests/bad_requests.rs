//! Options, captions, positions, pictures and devices that cannot be used: refused before anything
//! is computed, or answered in a way that is written down.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use burn::tensor::{Device, Tensor};
use image::RgbImage;
use unclip::unclip_core::{
    BetaSchedule, Ddim, Ddpm, Limit, NoiseSchedule, Timesteps, check_guidance_scale, escaped, slerp,
};
use unclip::{
    Error, Event, GenerateOptions, Generated, PriorSettings, Recipe, StageOptions, TimestepRange,
    UnClip, device, grid, write_picture,
};

use crate::support::{Model, in_time, names, refused};

/// One tiny model for all requests.
fn unclip() -> &'static UnClip {
    static UNCLIP: OnceLock<UnClip> = OnceLock::new();
    // weights are in memory: the folder can go
    UNCLIP.get_or_init(|| Model::new().load().unwrap())
}

/// Asks for what must be refused before the first step.
fn request(options: &GenerateOptions) -> Result<Generated, Error> {
    let never = &mut |event: &Event<'_>| -> ControlFlow<()> { panic!("computes {event:?}") };
    unclip().observed(never).text_to_image("a circle", options)
}

/// As few steps as possible.
fn quick() -> GenerateOptions {
    let one = StageOptions::default().with_steps(1);
    let options = GenerateOptions::default().with_prior(one.clone()).with_decoder(one.clone());
    options.with_upsampler(one)
}

fn caption(caption: &str) -> Generated {
    unclip().text_to_image(caption, &quick()).unwrap()
}

// options

/// Options with a choice for one stage.
fn of_stage(stage: &str, options: StageOptions) -> GenerateOptions {
    let mut all = GenerateOptions::default();
    match stage {
        "prior" => all.prior = options,
        "decoder" => all.decoder = options,
        _ => all.upsampler = options,
    }
    all
}

#[test]
fn steps_out_of_range_name_their_stage() {
    for stage in ["prior", "decoder", "upsampler.0"] {
        for steps in [0, 101, 1001, usize::MAX] {
            let options = StageOptions::default().with_steps(steps);
            let words = format!("{stage} steps is {steps}, expected 1 to 100");
            refused(request(&of_stage(stage, options)), &[&words]);
        }
    }
}

#[test]
fn guidance_out_of_range_names_its_stage() {
    for stage in ["prior", "decoder"] {
        for scale in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -1e-9, 1000.1, 1e30] {
            let options = StageOptions::default().with_guidance_scale(scale);
            let words = format!("{stage} guidance is {scale}, expected a number from 0 to 1000");
            refused(request(&of_stage(stage, options)), &[&words]);
        }
    }
    refused(check_guidance_scale("guidance", f64::NAN), &["guidance is NaN"]);
}

#[test]
fn guidance_of_an_upsampler_is_refused() {
    for scale in [1.0, 7.0, f64::NAN] {
        let options = StageOptions::default().with_guidance_scale(scale);
        let words = ["upsampler guidance is", "expected absent", "no null condition"];
        refused(request(&of_stage("upsampler", options)), &words);
    }
}

#[test]
fn parameters_of_samplers_and_ranges_are_checked_before_anything_is_computed() {
    let stage = StageOptions::default;
    for eta in [-0.1, 1.5, f64::NAN] {
        let options = of_stage("decoder", stage().with_sampler(Ddim { eta }));
        refused(request(&options), &[&format!("decoder eta of the sampler ddim is {eta}")]);
    }
    for (from, to) in [(0, 100), (60, 20)] {
        let options = of_stage("prior", stage().with_guidance_range(TimestepRange { from, to }));
        let words =
            format!("prior guidance range is {from}..{to}, expected timesteps from 0 to 99");
        refused(request(&options), &[&words]);
    }
    let range = TimestepRange { from: 0, to: 50 };
    let options = of_stage("upsampler", stage().with_guidance_range(range));
    refused(request(&options), &["upsampler guidance is 0..50", "no null condition"]);
    let options = of_stage("decoder", stage().with_spacing("90,90".parse().unwrap()));
    refused(request(&options), &["decoder steps is 180, expected 1 to 100"]);
}

#[test]
fn guidance_at_its_bounds_gives_pictures() {
    let picture = |caption: &str, scale: f64| {
        let stage = StageOptions::default().with_guidance_scale(scale);
        let options = GenerateOptions::default().with_prior(stage.clone()).with_decoder(stage);
        let trace = unclip().text_to_image(caption, &options).unwrap().trace;
        (trace.prior.unwrap().0.into_data(), trace.decoder.unwrap().into_data())
    };
    let [circle, square] = ["a circle", "a blue square"];
    // the decoder's variance comes from the caption at any scale
    assert_eq!(picture(circle, 0.0).0, picture(square, 0.0).0, "0 ignores the caption");
    let pictures = [0.0, 0.5, 1.0, 1000.0].map(|scale| picture(circle, scale));
    for (k, picture) in pictures.iter().enumerate() {
        assert!(!pictures[..k].contains(picture), "each scale gives another picture");
    }
    let other = picture(square, 1.0);
    assert_ne!(pictures[2], other, "1 follows the caption");
}

#[test]
fn numbers_of_pictures_out_of_range_are_refused() {
    refused(request(&GenerateOptions::default().with_n(0)), &["n is 0, expected at least 1"]);
    let most = usize::try_from(Limit::Images.value()).unwrap();
    for n in [most + 1, 1_000_000, usize::MAX] {
        let options = GenerateOptions::default().with_n(n);
        let said = format!("n is {n} pictures, expected at most 64 pictures (the limit images");
        refused(request(&options), &[&said]);
    }
    let all = quick().with_n(most);
    assert_eq!(unclip().text_to_image("", &all).unwrap().pictures.len(), most);
}

#[test]
fn seeds_wrap_around() {
    let two = quick().with_seed(u64::MAX).with_n(2);
    let two = unclip().text_to_image("a circle", &two).unwrap();
    let [first, second] = &two.pictures[..] else { panic!("two pictures") };
    assert_eq!([first.recipe.seed, second.recipe.seed], [u64::MAX, 0]);
    assert_ne!(first.image, second.image);
}

#[test]
fn timesteps_that_do_not_rise_are_refused() {
    for list in [vec![], vec![3, 3], vec![5, 4], vec![0, 2, 1]] {
        let found = format!("{list:?}");
        refused(Timesteps::new(list), &["timesteps is", &found, "strictly increasing"]);
    }
    for n in [0, 101, usize::MAX] {
        let words = format!("steps is {n}, expected 1 to 100");
        refused(Timesteps::evenly_spaced(n, 100), &[&words]);
    }
    let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 100).unwrap();
    let beyond = Timesteps::new(vec![0, 100]).unwrap();
    refused(schedule.respaced(&beyond), &["timestep is 100, expected less than 100"]);
}

// captions

#[test]
fn blank_captions_are_the_empty_one() {
    let empty = caption("");
    assert_eq!(empty.dropped, [None]);
    for blank in [" ", "\t\r\n", "\u{a0}\u{2003}\u{3000}", &" ".repeat(500)] {
        let blank = caption(blank);
        assert_eq!(blank.images(), empty.images());
        assert_eq!(blank.dropped, [None]);
    }
}

/// Checks a caption that is too long: it gives a picture, and what was lost is its end.
fn check_cut(text: &str) -> String {
    let dropped = caption(text).dropped.remove(0).expect("something was lost");
    assert!(!dropped.is_empty() && text.ends_with(&dropped), "{dropped:?} of {text:?}");
    dropped
}

#[test]
fn captions_that_are_too_long_are_cut_and_the_rest_is_reported() {
    assert_eq!(check_cut("1 2 3 4 5 6 7 8"), "7 8");
    assert_eq!(caption("1 2 3 4 5 6").dropped, [None]);
    assert_eq!(caption("1 2 3 4 5 6").images(), caption("1 2 3 4 5 6 7 8").images());
}

#[test]
fn what_does_not_fit_is_told_for_each_caption_and_for_the_negative_prompt() {
    let options = quick().with_negative_prompt("8 7 6 5 4 3 2 1");
    let made = unclip().text_to_images(&["1 2", "1 2 3 4 5 6 7 8"], &options).unwrap();
    assert_eq!(made.dropped, [None, Some("7 8".to_string())]);
    assert_eq!(made.dropped_negative.as_deref(), Some("2 1"));
    let options = options.with_prior(StageOptions::default());
    let varied = unclip().image_variation(&[RgbImage::new(9, 9)], &options).unwrap();
    assert_eq!(varied.dropped, Vec::<Option<String>>::new());
    assert_eq!(varied.dropped_negative.as_deref(), Some("2 1"));
    // another negative prompt, of which nothing is known yet
    let mut run = unclip().run(&[1]).with_negative_prompt("8 7 6 5 4 3 2 1");
    run.encode(&["1 2"]).unwrap();
    assert_eq!(run.dropped_negative.as_deref(), Some("2 1"));
    let mut run = run.with_negative_prompt("8");
    assert_eq!(run.dropped_negative, None);
    run.null().unwrap();
    assert_eq!(run.dropped_negative, None);
}

#[test]
fn variations_of_the_square_that_is_seen_are_those_of_the_picture() {
    let unclip = unclip();
    let picture = RgbImage::from_fn(40, 9, |x, y| image::Rgb([6 * x as u8, 28 * y as u8, 50]));
    let (square, cropped) = unclip.bundle().fit(&picture, &unclip.device()).unwrap();
    let cropped = cropped.unwrap();
    assert_eq!((cropped.size, cropped.side), ([40, 9], 9));
    let options = quick().with_prior(StageOptions::default());
    let of = |picture: &RgbImage| {
        let picture = std::slice::from_ref(picture);
        unclip.image_variation(picture, &options).unwrap().images()
    };
    assert_eq!(of(&picture), of(&square));
    refused(unclip.bundle().fit(&RgbImage::new(17, 1), &unclip.device()), &["(17, 1)", "16 times"]);
}

#[test]
fn enormous_captions_take_no_time() {
    let million = "a circle ".repeat(111_112);
    assert!(million.len() > 1_000_000);
    let dropped = in_time(move || check_cut(&million));
    assert!(dropped.len() > 900_000);
    for text in [
        "x".repeat(100_000),
        "\u{1f468}\u{200d}".repeat(50_000),
        format!("e{}", "\u{301}".repeat(100_000)),
        "\u{fdfa}".repeat(100_000),
        "'s".repeat(50_000),
        "\0".repeat(100_000),
    ] {
        in_time(move || check_cut(&text));
    }
    // blanks before the first word are looked at only so far
    let late = format!("{}circle", " ".repeat(1_000_000));
    assert!(in_time(move || check_cut(&late)).ends_with("circle"));
}

#[test]
fn every_character_is_a_character() {
    let captions = [
        "\0",
        "a\0b",
        "\u{1}\u{1b}[31m\u{7f}",
        "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        "\u{1f3f3}\u{fe0f}\u{200d}\u{1f308}",
        "\u{645}\u{631}\u{628}\u{639} \u{623}\u{62d}\u{645}\u{631}",
        "\u{202e}detrevni\u{202c}",
        "\u{301}",
        "\u{301}\u{308}\u{327}",
        "\u{fffd}",
        "\u{fffe}\u{ffff}\u{10ffff}",
        "\u{feff}",
        "\u{130}\u{131}\u{df}\u{1e9e}",
        "\u{1100}\u{1161}\u{11a8}",
        "<|startoftext|> <|endoftext|> !",
        "{\"prompt\": null}",
        "../../etc/passwd",
    ];
    for text in captions {
        let (first, again) = (caption(text), caption(text));
        assert_eq!(first.images(), again.images(), "{text:?}");
        assert_eq!(first.pictures[0].recipe.prompt, text);
        if let [Some(dropped)] = first.dropped.as_slice() {
            assert!(text.ends_with(dropped), "{dropped:?} of {text:?}");
        }
    }
}

#[test]
fn a_character_that_is_cut_in_its_middle_is_reported_whole() {
    // six tokens fit, and no merge joins these bytes: one token for each
    let tokens = unclip().bundle().text().unwrap().tokenizer.encode(&["\u{10348}"]);
    assert_eq!(tokens.len(0), 2 + 4);
    assert_eq!(check_cut("\u{10348}\u{10349}"), "\u{10349}");
    assert_eq!(check_cut("ab\u{10348} \u{10349} end").trim_start(), "\u{10349} end");
}

// embeddings

#[test]
fn positions_outside_an_interpolation_are_refused() {
    let row = |values: [f32; 2]| Tensor::<2>::from_floats([values], &Device::flex());
    for t in [f64::NAN, f64::INFINITY, -f64::INFINITY, -0.001, 1.001] {
        let words = [format!("interpolation position is {t}"), "a number from 0 to 1".into()];
        let result = slerp(row([1.0, 0.0]), row([0.0, 1.0]), t);
        refused(result, &words.each_ref().map(String::as_str));
    }
}

#[test]
fn ends_of_different_shapes_are_refused() {
    let zeros = |shape: [usize; 2]| Tensor::<2>::zeros(shape, &Device::flex());
    for shape in [[1, 3], [2, 4], [1, 1], [4, 1]] {
        let words = [format!("is {shape:?}, expected [1, 4]")];
        refused(slerp(zeros([1, 4]), zeros(shape), 0.5), &words.each_ref().map(String::as_str));
    }
}

#[test]
fn ends_without_a_direction_are_interpolated_straight() {
    let row = |values: [f32; 2]| Tensor::<2>::from_floats([values], &Device::flex());
    let half = |a, b| {
        let values = slerp(row(a), row(b), 0.5).unwrap().into_data();
        values.iter::<f32>().collect::<Vec<_>>()
    };
    assert_eq!(half([0.0, 0.0], [0.0, 0.0]), [0.0, 0.0]);
    assert_eq!(half([2.0, 0.0], [-2.0, 0.0]), [0.0, 0.0]);
    assert!(half([0.0, 0.0], [2.0, 0.0]).iter().all(|v| v.is_finite()));
}

// pictures

#[test]
fn pictures_that_cannot_be_embedded_are_refused() {
    let picture = RgbImage::new;
    let lists = [
        vec![],
        vec![picture(0, 0)],
        vec![picture(0, 5)],
        vec![picture(5, 0)],
        vec![picture(100_000, 1)],
        vec![picture(1, 17)],
    ];
    for list in lists {
        refused(unclip().embed_images(&list), &["pictures is [", "expected at least one picture"]);
    }
    let mixed = vec![picture(8, 8), picture(8, 9)];
    for list in [vec![picture(1, 1)], vec![picture(1, 16)], vec![picture(30, 7); 3], mixed] {
        assert_eq!(unclip().embed_images(&list).unwrap().0.dims(), [list.len(), 6]);
    }
}

#[test]
fn a_model_without_an_image_encoder_says_so() {
    let model = Model::new();
    std::fs::remove_dir_all(model.path("image_encoder")).unwrap();
    let result = model.load().unwrap().embed_images(&[RgbImage::new(8, 8)]);
    refused(result, &["has no image_encoder", "expected a folder `image_encoder`"]);
}

#[test]
fn pictures_that_cannot_be_written_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.png");
    write_picture(&old, &RgbImage::new(2, 2)).unwrap();
    let bytes = std::fs::read(&old).unwrap();
    refused(write_picture(&old, &grid(&[])), &["old.png"]);
    assert_eq!(std::fs::read(&old).unwrap(), bytes);
    let missing = folder.path().join("nowhere").join("new.png");
    refused(write_picture(&missing, &RgbImage::new(2, 2)), &["nowhere/new.png", "not found"]);
    refused(write_picture(folder.path(), &RgbImage::new(2, 2)), &["this is a folder"]);
    assert_eq!(names(folder.path()), ["old.png"]);
}

/// A PNG with a text chunk, which may be compressed.
fn png_with_text(path: &Path, text: &str, compress: bool) {
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), 1, 1);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    let mut chunk = png::text_metadata::ITXtChunk::new("unclip", text);
    if compress {
        chunk.compressed = true;
        chunk.compress_text().unwrap();
    }
    writer.write_text_chunk(&chunk).unwrap();
    writer.write_image_data(&[0; 3]).unwrap();
}

#[test]
fn pictures_without_a_recipe_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    refused(Recipe::read(&path), &["picture.png", "No such file"]);
    refused(Recipe::read(folder.path()), &["this is a folder, expected a regular file"]);
    for other in [&b""[..], b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0JFIF", b"<svg/>", b"PK\x03\x04"]
    {
        std::fs::write(&path, other).unwrap();
        refused(Recipe::read(&path), &["picture.png"]);
    }
    write_picture(&path, &RgbImage::new(2, 2)).unwrap();
    refused(Recipe::read(&path), &["picture.png", "holds no recipe"]);
    for text in ["", "null", "{}", "{\"prompt\": 3}", &"[".repeat(100_000)] {
        png_with_text(&path, text, false);
        refused(Recipe::read(&path), &["picture.png", "line"]);
    }
    // a little file that would become a large one
    png_with_text(&path, &" ".repeat(8 << 20), true);
    refused(Recipe::read(&path), &["picture.png"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe.png");
    crate::support::make_pipe(&path);
    refused(in_time(move || Recipe::read(&path)), &["pipe.png", "a pipe"]);
}

#[test]
fn a_truncated_picture_gives_its_recipe_or_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    let made = caption("a circle");
    made.pictures[0].save(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for len in (0..file.metadata().unwrap().len()).rev() {
        file.set_len(len).unwrap();
        match Recipe::read(&path) {
            Ok(recipe) => assert_eq!(recipe, made.pictures[0].recipe),
            Err(error) => assert!(error.to_string().contains("picture.png")),
        }
    }
}

#[test]
fn a_recipe_from_elsewhere_is_checked_like_any_other_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    let mut recipe = caption("a circle").pictures.remove(0).recipe;
    recipe.settings.decoder.steps = 1_000_000_000;
    png_with_text(&path, &serde_json::to_string(&recipe).unwrap(), false);
    let read = Recipe::read(&path).unwrap();
    refused(request(&read.options()), &["decoder steps is 1000000000, expected 1 to 100"]);
    recipe.settings.decoder.guidance_scale = -3.0;
    refused(request(&recipe.options()), &["decoder guidance is -3"]);
    recipe.settings.decoder.guidance_scale = f64::NAN; // JSON has none
    png_with_text(&path, &serde_json::to_string(&recipe).unwrap(), false);
    refused(Recipe::read(&path), &["picture.png", "expected f64"]);
    let text = serde_json::to_string(&recipe).unwrap().replace("\"ddpm\"", "\"euler\"");
    png_with_text(&path, &text, false);
    refused(Recipe::read(&path), &["picture.png"]);
    let Some(PriorSettings::Diffusion(prior)) = recipe.settings.prior else { panic!() };
    assert_eq!(prior.sampler, Ddpm.into());
}

// devices

#[test]
fn devices_that_are_not_there_are_refused_by_name() {
    assert_eq!(device("flex").unwrap(), Device::flex());
    assert_eq!(device("flex:0").unwrap(), Device::flex());
    assert_eq!(device("cpu").unwrap(), Device::flex());
    assert!(device("auto").is_ok());
    refused(device("cpu:1"), &["cpu takes no index"]);
    let names = "expected cpu, gpu, auto, flex, wgpu, vulkan, metal, cuda or rocm";
    for name in ["", ":", "nonsense", "FLEX", " flex", "flex ", "cuda0", "\0", ":0"] {
        refused(device(name), &[&format!("device \"{}\"", escaped(name)), names]);
    }
    for name in ["flex:7", "flex:x", "flex:", "flex:-1", "flex:0:0"] {
        refused(device(name), &[&format!("device {name:?}"), "there is one CPU, flex"]);
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_is_not_built_in_names_its_feature() {
    for name in ["cuda", "cuda:0", "cuda:x"] {
        let words = [&format!("device {name:?}"), "built without it", "`--features cuda`"];
        refused(device(name), &words);
    }
}

/// burn reads its default device from the environment, and panics on one that it does not know.
#[test]
fn the_environment_chooses_no_device() {
    let this = std::env::current_exe().unwrap();
    let test = "end_to_end::a_folder_gives_pictures";
    let status = std::process::Command::new(this)
        .args(["--exact", test])
        .env("BURN_DEVICE", "nonsense")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && output.contains("1 passed"), "{output}");
}
