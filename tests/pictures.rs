//! Pictures from files as Pillow and LittleCMS show them, and back into files with their recipes.

use std::path::{Path, PathBuf};

use unclip::{
    GenerateOptions, LeftOut, Picture, PictureFormat, ReadOptions, Recipe, RgbImage, Sheet,
    picture_from_bytes, read_picture, write_animation, write_picture,
};

use crate::support::{Model, names, refused};

fn fixture(name: &str) -> PathBuf {
    Path::new("tests/fixtures/pictures").join(name)
}

/// The largest difference of a channel.
fn difference(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// How far a file may be from what is seen of it: rounding of a channel, of color transforms, of
/// JPEG (which each decoder rounds in its own way).
fn tolerance(name: &str) -> u8 {
    match name {
        _ if name.ends_with(".jpeg") => 3,
        _ if name.starts_with("adobe") || name.contains("gamma1") => 1,
        _ => 0,
    }
}

#[test]
fn pictures_are_seen_as_viewers_show_them() {
    let mut n = 0;
    for name in names(&fixture("")).iter().filter(|name| name.as_str() != "shown") {
        let read = ReadOptions::default().read(fixture(name)).unwrap();
        let seen = image::open(fixture(&format!("shown/{name}.png"))).unwrap().into_rgb8();
        let found = difference(&read.image, &seen);
        println!("{name}: {found}");
        assert!(found <= tolerance(name), "{name}: {found}");
        let frames = name.starts_with("frames");
        assert_eq!(
            read.left_out,
            if frames { vec![LeftOut::LaterFrames] } else { vec![] },
            "{name}"
        );
        n += 1;
    }
    assert!(n >= 40, "{n}");
}

#[test]
fn the_background_of_transparent_pictures_is_chosen() {
    let at = |background: [u8; 3]| {
        let options = ReadOptions::default().with_background(background);
        options.read(fixture("clear.png")).unwrap().image.get_pixel(0, 0).0
    };
    // the first pixel is transparent altogether
    assert_eq!(at([255; 3]), [255; 3]);
    assert_eq!(at([9, 8, 7]), [9, 8, 7]);
}

#[test]
fn what_is_no_picture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let expected = "expected PNG, JPEG, WebP, GIF, BMP or TIFF";
    let cases: [(&[u8], &str); 7] = [
        (b"", "an empty file"),
        (b"hello", "not a picture of a known format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"<svg xmlns=\"\">", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\x01", "PSD"),
    ];
    for (bytes, found) in cases {
        let path = folder.path().join("picture.png");
        std::fs::write(&path, bytes).unwrap();
        refused(read_picture(&path), &["picture.png", found, expected]);
        refused(picture_from_bytes(bytes), &[found, expected]);
    }
    let long = folder.path().join("long.png");
    image::GrayImage::new(16_385, 1).save(&long).unwrap();
    refused(
        read_picture(&long),
        &["long.png", "16385 × 1 pixels", "a side of at most 16384 pixels"],
    );
    // what claims to be large is refused before it is drawn: a screen, and a frame
    let gif = |screen: [u8; 4], frame: [u8; 4]| {
        let frame = [&b"\x2c\0\0\0\0"[..], &frame, b"\0\x02\x02\x44\x01\0"].concat();
        let head = [&b"GIF89a"[..], &screen, b"\x80\0\0\0\0\0\xff\xff\xff"].concat();
        [&head[..], &frame, &frame, b"\x3b"].concat()
    };
    let (huge, small) = ([0xff; 4], [1, 0, 1, 0]);
    refused(picture_from_bytes(&gif(huge, small)), &["65535 × 65535 pixels"]);
    assert!(picture_from_bytes(&gif(small, huge)).is_err());
    drop(picture_from_bytes(&gif(small, small)).unwrap());
    let whole = std::fs::read(fixture("adobe.png")).unwrap();
    refused(picture_from_bytes(&whole[..whole.len() / 2]), &["picture"]);
}

#[test]
fn a_jpeg_whose_file_ends_too_early_is_told() {
    let picture = RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 4, 9]));
    let mut whole = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut whole, image::ImageFormat::Jpeg).unwrap();
    let whole = whole.into_inner();
    let left_out = |bytes: &[u8]| ReadOptions::default().from_bytes(bytes).unwrap().left_out;
    assert_eq!(left_out(&whole), []);
    // what other programs put behind the end is no part of the picture
    assert_eq!(left_out(&[&whole[..], b"trailer"].concat()), []);
    let [LeftOut::End] = left_out(&whole[..whole.len() * 2 / 3])[..] else { panic!("not told") };
}

#[test]
fn a_profile_that_is_too_large_is_told() {
    let mut bytes = Vec::new();
    let mut info = png::Info::with_size(1, 1);
    info.icc_profile = Some(vec![0; 80 << 20].into());
    let encoder = png::Encoder::with_info(&mut bytes, info).unwrap();
    encoder.write_header().unwrap().write_image_data(&[1]).unwrap();
    assert!(bytes.len() < 1 << 20, "{}", bytes.len());
    let read = ReadOptions::default().from_bytes(&bytes).unwrap();
    let [LeftOut::ColorProfile(reason)] = &read.left_out[..] else { panic!("{read:?}") };
    assert_eq!(reason, "it is damaged or too large");
}

#[test]
fn a_profile_that_cannot_be_applied_is_told() {
    let whole = std::fs::read(fixture("adobe.webp")).unwrap();
    let at = whole.windows(4).position(|part| part == b"acsp").unwrap();
    let mut damaged = whole.clone();
    damaged[at..at + 4].copy_from_slice(b"????");
    let read = ReadOptions::default().from_bytes(&damaged).unwrap();
    let [LeftOut::ColorProfile(_)] = read.left_out.as_slice() else {
        panic!("{:?}", read.left_out)
    };
    let message = read.left_out[0].to_string();
    assert!(message.starts_with("its color profile is not applied: "), "{message}");
    // the pixels as they are
    let plain = read_picture(fixture("turned1.webp")).unwrap();
    assert_eq!(read.image, plain);
}

/// Pictures of a tiny model, with captions that are hard to keep.
fn pictures() -> Vec<Picture> {
    let unclip = Model::new().load().unwrap();
    let captions = ["a pink ring", "ein grüner Stern \u{1f31f} \"auf\" \\ Weiß"];
    let options = GenerateOptions::default().with_seed(7).with_n(2);
    unclip.text_to_images(&captions, &options).unwrap().pictures
}

#[test]
fn every_format_holds_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    for picture in pictures() {
        for name in ["a.png", "a.jpg", "a.JPEG", "a.webp", "a"] {
            let path = folder.path().join(name);
            picture.save(&path).unwrap();
            assert_eq!(Recipe::read(&path).unwrap(), picture.recipe, "{name}");
            let format = PictureFormat::of(&path).unwrap();
            let kind = image::guess_format(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(format.to_string().to_lowercase(), format!("{kind:?}").to_lowercase());
            let pixels = read_picture(&path).unwrap();
            match format {
                PictureFormat::Jpeg { .. } => assert_eq!(pixels.dimensions(), (32, 32)),
                _ => assert_eq!(pixels, picture.image, "{name}"),
            }
        }
    }
    let sizes = [1, 50, 100].map(|quality| {
        let format = PictureFormat::of("a.jpg").unwrap().with_quality(quality).unwrap();
        pictures()[0].to_bytes(format).unwrap().len()
    });
    assert!(sizes.is_sorted(), "{sizes:?}");
    refused(PictureFormat::of("a.gif"), &["a.gif", ".png, .jpg, .jpeg or .webp"]);
    refused(PictureFormat::Png.with_quality(90), &["quality is 90", "none", "PNG"]);
    let jpeg = PictureFormat::of("a.jpg").unwrap();
    refused(jpeg.with_quality(0), &["quality is 0, expected 1 to 100"]);
}

#[test]
fn a_recipe_that_is_too_long_for_a_jpeg_is_refused() {
    let mut picture = pictures().remove(0);
    picture.recipe.prompt = "ü".repeat(20_000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    refused(picture.save(&path), &["a.jpg", "its recipe takes 120", "write a PNG or WebP"]);
    assert!(!path.exists());
    for name in ["a.png", "a.webp"] {
        let path = folder.path().join(name);
        picture.save(&path).unwrap();
        assert_eq!(Recipe::read(&path).unwrap(), picture.recipe);
    }
    let quality = PictureFormat::Jpeg { quality: 0 };
    refused(picture.save_as(&path, quality), &["quality is 0, expected 1 to 100"]);
}

#[test]
fn a_sheet_holds_all_recipes() {
    let (folder, pictures) = (tempfile::tempdir().unwrap(), pictures());
    for name in ["sheet.png", "sheet.jpg", "sheet.webp"] {
        let path = folder.path().join(name);
        let sheet = Sheet::grid(&pictures);
        sheet.save(&path).unwrap();
        assert_eq!(Recipe::read_all(&path).unwrap(), sheet.recipes, "{name}");
        let bytes = sheet.to_bytes(PictureFormat::of(&path).unwrap()).unwrap();
        assert_eq!(Recipe::all_from_bytes(&bytes).unwrap(), sheet.recipes, "{name}");
        refused(Recipe::read(&path), &[name, "holds 4 recipes, expected one"]);
    }
    let strip = Sheet::strip(&pictures[..1]);
    let path = folder.path().join("strip.png");
    strip.save(&path).unwrap();
    assert_eq!(Recipe::read(&path).unwrap(), pictures[0].recipe);
    write_picture(&path, &strip.image).unwrap();
    refused(Recipe::read(&path), &["strip.png", "holds no recipe"]);
}

/// A PNG's chunks, by name.
fn chunks(bytes: &[u8]) -> Vec<([u8; 4], Vec<u8>)> {
    let (mut rest, mut chunks) = (&bytes[8..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        chunks.push((after[..4].try_into().unwrap(), after[4..4 + length].to_vec()));
        rest = &after[8 + length..];
    }
    chunks
}

/// Text chunks of other kinds, before the pixels and after them: what other programs write when
/// they save a picture again.
#[test]
fn a_recipe_is_found_where_other_programs_put_it() {
    let (folder, picture) = (tempfile::tempdir().unwrap(), pictures().remove(0));
    let json = serde_json::to_string(&picture.recipe).unwrap();
    let written = chunks(&picture.to_bytes(PictureFormat::Png).unwrap());
    assert!(written.iter().any(|(name, _)| name == b"iTXt"));
    let path = folder.path().join("again.png");
    let mut bytes = Vec::new();
    let encoder = png::Encoder::new(&mut bytes, 2, 2);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0; 4]).unwrap();
    let keyword = || "unclip".to_string();
    writer.write_text_chunk(&png::text_metadata::ZTXtChunk::new(keyword(), json.clone())).unwrap();
    writer.finish().unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(Recipe::read(&path).unwrap(), picture.recipe, "zTXt after the pixels");
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 2, 2);
    encoder.add_text_chunk(keyword(), json).unwrap();
    encoder.write_header().unwrap().write_image_data(&[0; 4]).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(Recipe::read(&path).unwrap(), picture.recipe, "tEXt");
    // beside a text of somebody else's; none at all; too many
    let text = |texts: &[String]| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 2, 2);
        texts.iter().for_each(|it| encoder.add_text_chunk(keyword(), it.clone()).unwrap());
        encoder.write_header().unwrap().write_image_data(&[0; 4]).unwrap();
        std::fs::write(&path, &bytes).unwrap();
    };
    let json = serde_json::to_string(&picture.recipe).unwrap();
    // of a version that can do more, and of one that spelled out what it left alone
    let with = |field: &str| json.replacen('{', &format!("{{{field},"), 1);
    text(&[with(r#""control_picture":"a.png""#)]);
    refused(Recipe::read(&path), &["again.png", "control_picture", "does not know"]);
    text(&[json.replacen("\"upsamplers\":[{", "\"upsamplers\":[{\"churn\":0.5,", 1)]);
    refused(Recipe::read(&path), &["again.png", "churn", "does not know"]);
    text(&[with(r#""control_picture":null,"masks":[],"embedding_space":"older""#)]);
    assert_eq!(Recipe::read(&path).unwrap(), picture.recipe);
    text(&["mine".into(), json.replace('ü', "u")]);
    drop(Recipe::read(&path).unwrap());
    text(&["[]".into()]);
    refused(Recipe::read(&path), &["again.png", "holds no recipe"]);
    let long = json.replace("a pink ring", &"x".repeat(1 << 20));
    text(&[format!("[{long}{}]", ",{}".repeat(5000))]);
    refused(Recipe::read(&path), &["again.png", "the limit recipe_bytes"]);
}

#[test]
fn an_animation_shows_every_frame() {
    let folder = tempfile::tempdir().unwrap();
    let frames = [10u8, 120, 240].map(|value| RgbImage::from_pixel(6, 4, image::Rgb([value; 3])));
    let each = std::time::Duration::from_millis(100);
    for name in ["a.gif", "a.apng"] {
        let path = folder.path().join(name);
        write_animation(&path, &frames, each).unwrap();
        assert_eq!(read_picture(&path).unwrap(), frames[0], "{name}");
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let shown: Vec<u8> = match name {
            "a.gif" => {
                let decoder = image::codecs::gif::GifDecoder::new(file).unwrap();
                let all = image::AnimationDecoder::into_frames(decoder).collect_frames().unwrap();
                all.iter().map(|frame| frame.buffer().get_pixel(3, 2)[0]).collect()
            }
            _ => {
                let decoder = image::codecs::png::PngDecoder::new(file).unwrap().apng().unwrap();
                let all = image::AnimationDecoder::into_frames(decoder).collect_frames().unwrap();
                all.iter().map(|frame| frame.buffer().get_pixel(3, 2)[0]).collect()
            }
        };
        assert_eq!(shown, [10, 120, 240], "{name}");
    }
    let path = folder.path().join("a.gif");
    refused(write_animation(&path, &[], each), &["frames", "at least one"]);
    let two = [frames[0].clone(), RgbImage::new(1, 1)];
    refused(write_animation(&path, &two, each), &["all of one size"]);
    refused(
        write_animation(folder.path().join("a.mp4"), &frames, each),
        &["a.mp4", ".gif or .apng"],
    );
}
