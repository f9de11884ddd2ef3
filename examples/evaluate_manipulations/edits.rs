//! Pictures changed by words.

use std::fmt::Write;

use image::GrayImage;
use unclip::train::shapes::{
    Attribute, Color, Description, Layout, Object, Rate, Scene, Shape, Tally, judge, read,
};
use unclip::{Error, GenerateOptions, SHARE, StageOptions, Subject};

use crate::Evaluation;

/// How far the embedding is turned.
const THETAS: [f64; 4] = [0.2, 0.3, 0.4, 0.5];

/// What must be right after a text diff.
const KEPT: [Attribute; 4] =
    [Attribute::Count, Attribute::Color, Attribute::Shape, Attribute::Position];

/// How often another color is reached by words, and the rest stays.
pub(crate) fn text_diff(evaluation: &Evaluation) -> Result<String, Error> {
    let mut tallies = THETAS.map(|_| (Rate::default(), Tally::default()));
    for numbers in evaluation.begin("text diff", evaluation.cases, evaluation.batch) {
        let scenes: Vec<Scene> =
            evaluation.samples(&numbers).iter().map(|sample| sample.scene).collect();
        let wanted: Vec<Scene> =
            scenes.iter().zip(&numbers).map(|(scene, &at)| recolored(scene, at)).collect();
        let options = evaluation.inversion("ddim", evaluation.steps)?;
        let latents = evaluation.unclip.invert(&evaluation.pictures(&scenes), &options)?;
        let captions = |scenes: &[Scene]| scenes.iter().map(caption).collect::<Vec<_>>();
        let from = evaluation.unclip.embed_texts(&captions(&scenes))?.pooled;
        let to = evaluation.unclip.embed_texts(&captions(&wanted))?.pooled;
        for (theta, (rate, tally)) in THETAS.into_iter().zip(&mut tallies) {
            let image = latents.image.text_diff(&from, &to, theta)?;
            let image = evaluation.unclip.keep_variance(&image, SHARE)?;
            let turned = latents.clone().with_image(image);
            let made = evaluation.draw(&turned, None, &numbers)?;
            for (scene, picture) in wanted.iter().zip(evaluation.read_size(made, &numbers)?) {
                let verdict = judge(&Description::of(scene), &read(&picture));
                let is_right = |attribute: &Attribute| verdict.get(*attribute).unwrap_or(true);
                rate.add(KEPT.iter().all(is_right));
                tally.add(&verdict);
            }
        }
        evaluation.bar.inc(numbers.len() as u64);
    }
    let mut text = String::from(
        "text diff \"a COLOR SHAPE\" to \"a COLOR SHAPE\", from the picture's own noise\n",
    );
    for (theta, (rate, tally)) in THETAS.into_iter().zip(&tallies) {
        let _ = writeln!(text, "theta {theta}: color, shape, position and count right {rate}");
        let _ = writeln!(text, "{tally}");
    }
    Ok(text)
}

/// Color and shape in words.
fn caption(scene: &Scene) -> String {
    let Object { color, shape, .. } = scene.objects()[0];
    format!("a {color} {shape}")
}

/// The scene with its object in another color; over the cases, every pair of colors comes.
fn recolored(scene: &Scene, number: u64) -> Scene {
    let own = scene.objects()[0].color;
    let others: Vec<Color> = Color::ALL.into_iter().filter(|color| *color != own).collect();
    let color = others[number as usize % others.len()];
    changed(scene, |object| Object { color, ..object })
}

/// A scene of one object with the object changed.
fn changed(scene: &Scene, change: impl Fn(Object) -> Object) -> Scene {
    match scene.layout {
        Layout::Single { object, position } => {
            Scene { layout: Layout::Single { object: change(object), position }, ..*scene }
        }
        Layout::Pair { .. } => *scene,
    }
}

/// How often another object is drawn where one was, and everything else stays.
pub(crate) fn inpainting(evaluation: &Evaluation) -> Result<String, Error> {
    let (mut present, mut kept) = (Rate::default(), Rate::default());
    let mut tally = Tally::default();
    for numbers in evaluation.begin("inpainting", evaluation.cases, 1) {
        let number = numbers[0];
        let scene = evaluation.samples(&numbers)[0].scene;
        let old = scene.objects()[0];
        let wanted = recolored(&scene, number);
        let shape = Shape::ALL[(number as usize * 3 + 1) % Shape::ALL.len()];
        let wanted = changed(&wanted, |object| Object { shape, ..object });
        let picture = evaluation.pictures(&[scene]).remove(0);
        let mask = hole(&old, picture.width());
        let caption = Description::of(&wanted).to_string();
        let options = GenerateOptions::default()
            .with_seed(evaluation.seed.wrapping_add(number))
            .with_decoder(StageOptions::default().with_steps(25));
        let (parts, resampling) = ((&picture, &mask), None);
        let subject = Subject::Caption(&caption);
        let made = evaluation.unclip.inpaint(parts, subject, resampling, &options)?;
        let drawn = &made.pictures[0].image;
        let stays = |(x, y, pixel): (u32, u32, &image::Rgb<u8>)| {
            mask.get_pixel(x, y)[0] >= 128 || pixel == picture.get_pixel(x, y)
        };
        kept.add(drawn.enumerate_pixels().all(stays));
        let reading = read(drawn);
        let is_asked_for = |object: &Object| {
            let [x, y] = object.center.map(|at| (at * drawn.width() as f32) as u32);
            let inside =
                mask.get_pixel(x.min(mask.width() - 1), y.min(mask.height() - 1))[0] >= 128;
            inside && object.shape == shape && object.color == wanted.objects()[0].color
        };
        present.add(reading.objects.iter().any(is_asked_for));
        tally.add(&judge(&Description::of(&wanted), &reading));
        evaluation.bar.inc(1);
    }
    let mut text = String::from(
        "inpainting of another object over the one that is there, 25 steps, 85 calls\n",
    );
    let _ =
        writeln!(text, "asked object in the hole {present}\nkept pixels to the last bit {kept}");
    let _ = writeln!(text, "{tally}");
    Ok(text)
}

/// White in a square around an object.
fn hole(object: &Object, side: u32) -> GrayImage {
    const MARGIN: f32 = 1.35;
    let reach = object.radius * MARGIN;
    let within = |at: u32, center: f32| ((at as f32 + 0.5) / side as f32 - center).abs() <= reach;
    let [x0, y0] = object.center;
    GrayImage::from_fn(side, side, |x, y| {
        let is_white = within(x, x0) && within(y, y0);
        image::Luma([if is_white { 255 } else { 0 }])
    })
}
