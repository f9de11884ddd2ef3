//! The whole pipeline on a GPU backend against the processor. Needs a Vulkan driver; a software one
//! (Mesa's) will do.

use unclip::{Bundle, GenerateOptions, Residency, StageOptions, UnClip, device};

use crate::karlo::{Tolerance, agrees_with_diffusers, calls_agree_with_diffusers};

/// Largest difference of a value of the final picture, of 255, and its mean over the picture.
/// Two reverse steps a stage are long enough for every kernel and short enough that rounding does
/// not grow into another picture.
const TOLERANCE: (u8, f64) = (6, 0.5);

#[test]
fn wgpu_gives_the_picture_that_flex_gives() {
    let steps = StageOptions { steps: Some(2), ..StageOptions::default() };
    let upsample = StageOptions { steps: Some(1), ..steps };
    let options =
        GenerateOptions { seed: 3, prior: steps, decoder: steps, upsample, ..Default::default() };
    let picture = |name: &str| {
        let device = device(name).unwrap();
        let unclip = UnClip::new(Bundle::shapes().unwrap(), &device, Residency::OneByOne).unwrap();
        let caption = "a large red circle above a small blue square";
        unclip.text_to_image(caption, &options, &mut ()).unwrap().images.remove(0)
    };
    let (here, there) = (picture("flex"), picture("wgpu:cpu"));
    let differences = here.iter().zip(there.iter()).map(|(a, b)| a.abs_diff(*b));
    let (worst, total) = differences.fold((0, 0.0), |(worst, total), difference| {
        (worst.max(difference), total + f64::from(difference))
    });
    let mean = total / here.len() as f64;
    println!("largest difference {worst} of 255, mean {mean:.4}");
    assert!(worst <= TOLERANCE.0 && mean <= TOLERANCE.1, "largest {worst}, mean {mean}");
}

/// Some ten times what Mesa's software Vulkan gives: 5e-7 for CLIP, 9e-7 for the prior, 1e-6 for
/// single calls, and for pictures a median of 4e-7 with 99 % below 3e-5.
const KARLO: Tolerance = Tolerance { clip: 1e-5, prior: 1e-5, call: 1e-5, picture: [1e-5, 1e-3] };

#[test]
fn wgpu_gives_the_numbers_of_diffusers() {
    calls_agree_with_diffusers("wgpu:cpu", KARLO);
    agrees_with_diffusers("wgpu:cpu", KARLO);
}
