//! What CLIP can do alone: the decoder gets no caption and no embedding, and CLIP leads it.

use std::fmt::Write;

use unclip::decoder::Condition;
use unclip::train::shapes::{Color, Description, Shape, Tally, judge, read};
use unclip::unclip_core::normalize;
use unclip::{ClipGradient, ClipGuidance, Error, GenerateOptions, StageOptions};

use crate::Evaluation;

/// Scales, what the gradient goes through, and whether CLIP classifies.
const WAYS: [(f64, ClipGradient, bool); 12] = [
    (0.0, ClipGradient::Estimate, false),
    (0.5, ClipGradient::Decoder, false),
    (1.0, ClipGradient::Decoder, false),
    (1.0, ClipGradient::Estimate, false),
    (10.0, ClipGradient::Estimate, false),
    (30.0, ClipGradient::Estimate, false),
    (1.0, ClipGradient::Noised, false),
    (3.0, ClipGradient::Noised, false),
    (10.0, ClipGradient::Noised, false),
    (10.0, ClipGradient::Estimate, true),
    (3.0, ClipGradient::Noised, true),
    (10.0, ClipGradient::Noised, true),
];

/// The classes of a classifier: every object that there can be.
fn classes() -> Vec<String> {
    let shapes = |color: Color| Shape::ALL.map(|shape| format!("a {color} {shape}"));
    Color::ALL.into_iter().flat_map(shapes).collect()
}

pub(crate) fn measure(evaluation: &Evaluation) -> Result<String, Error> {
    let unclip = &evaluation.unclip;
    let decoder = StageOptions::default().with_steps(evaluation.steps).with_guidance_scale(1.0);
    let options = GenerateOptions::default().with_decoder(decoder);
    let settings = options.resolve(unclip.bundle())?.decoder;
    let network = unclip.bundle().decoder.load(&unclip.device())?;
    let mut text = String::from("CLIP guidance of a decoder without caption and embedding\n");
    let classes = classes();
    for (scale, gradient, classifies) in WAYS {
        if gradient == ClipGradient::Noised && unclip.bundle().noised_image_encoder.is_none() {
            continue;
        }
        let (mut tally, mut cosine) = (Tally::default(), 0.0);
        for numbers in evaluation.begin("guidance", evaluation.cases, evaluation.batch.min(20)) {
            let seeds: Vec<u64> =
                numbers.iter().map(|number| evaluation.seed.wrapping_add(*number)).collect();
            let samples = evaluation.samples(&numbers);
            let captions: Vec<String> = samples.iter().map(|it| it.caption.clone()).collect();
            let empty = unclip.embed_texts(&[""])?.repeat_rows(numbers.len());
            let image = network.null_image(numbers.len());
            let none = Condition::new(image.expect("a decoder of this project has one"), empty);
            let wanted = unclip.embed_texts(&captions)?;
            let guidance = ClipGuidance { scale, gradient };
            let mut run = unclip.run(&seeds).with_clip_guidance(guidance, Some(wanted.clone()));
            if classifies {
                run = run.with_clip_against(&classes);
            }
            let made = run.decode(&none, &settings)?;
            let pictures = evaluation.read_size(made, &numbers)?;
            let image = unclip.embed_images(&pictures)?;
            let cosines = normalize(image.0) * normalize(wanted.pooled);
            cosine += f64::from(cosines.sum().into_scalar::<f32>());
            for (sample, picture) in samples.iter().zip(&pictures) {
                tally.add(&judge(&Description::of(&sample.scene), &read(picture)));
            }
            evaluation.bar.inc(numbers.len() as u64);
        }
        let path = match gradient {
            ClipGradient::Decoder => "through the decoder",
            ClipGradient::Estimate => "of the estimate",
            ClipGradient::Noised => "by the tower for noised pictures",
        };
        let cosine = cosine / evaluation.cases as f64;
        let among = if classifies { ", among all objects" } else { "" };
        let _ = writeln!(
            text,
            "scale {scale}, {path}{among}: cosine to the caption {cosine:.3}\n{tally}"
        );
    }
    Ok(text)
}
