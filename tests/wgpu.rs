//! The whole pipeline on a GPU backend against the processor. Needs a Vulkan driver; a software one
//! (Mesa's) will do.

use unclip::{Bundle, GenerateOptions, Residency, StageOptions, UnClip, device};

use crate::karlo::{Saved, Tolerance, agrees_with_diffusers, calls_agree_with_diffusers};

/// Two reverse steps a stage are long enough for every kernel and short enough that rounding does
/// not grow into another picture.
#[test]
fn wgpu_gives_the_numbers_that_flex_gives() {
    let steps = StageOptions { steps: Some(2), ..StageOptions::default() };
    let upsample = StageOptions { steps: Some(1), ..steps };
    let options =
        GenerateOptions { seed: 3, prior: steps, decoder: steps, upsample, ..Default::default() };
    let trace = |name: &str| {
        let device = device(name).unwrap();
        let unclip = UnClip::new(Bundle::shapes().unwrap(), &device, Residency::OneByOne).unwrap();
        let caption = "a large red circle above a small blue square";
        Saved::of(&unclip.text_to_image(caption, &options, &mut ()).unwrap().trace)
    };
    let (here, there) = (trace("flex"), trace("wgpu:cpu"));
    there.agrees_with(&here, "shapes", TOLERANCE);
}

/// Some ten times what Mesa's software Vulkan gives: 5e-7 for CLIP, 9e-7 for the prior, 1e-6 for
/// single calls, and for pictures a median of 4e-7 with 99 % below 3e-5.
const TOLERANCE: Tolerance =
    Tolerance { clip: 1e-5, prior: 1e-5, call: 1e-5, picture: [1e-5, 1e-3] };

#[test]
fn wgpu_gives_the_numbers_of_diffusers() {
    calls_agree_with_diffusers("wgpu:cpu", TOLERANCE);
    agrees_with_diffusers("wgpu:cpu", TOLERANCE);
}
