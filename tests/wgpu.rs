//! The whole pipeline on a GPU backend against the CPU. Needs a Vulkan driver; a software one
//! (Mesa's) will do.

use std::sync::LazyLock;

use unclip::{Bundle, GenerateOptions, Precision, Residency, StageOptions, UnClip, device};

use crate::karlo::{agrees_with_diffusers, calls_agree_with_diffusers};
use crate::reference::{Saved, Tolerance};
use crate::stable;
use crate::{adm, glide, kandinsky, kandinsky21, laion};

/// What goes between the stages of the bundled model. Two reverse steps of prior and decoder are
/// long enough for every kernel and short enough that rounding does not grow into another picture.
fn trace(name: &str, precision: Precision) -> Saved {
    let stage = |steps| StageOptions::default().with_steps(steps);
    let options = GenerateOptions::default().with_seed(3).with_prior(stage(2));
    let options = options.with_decoder(stage(2)).with_upsampler(stage(1));
    let (device, bundle) = (device(name).unwrap(), Bundle::shapes().unwrap());
    let unclip = UnClip::new(bundle, (&device, precision), Residency::OneByOne).unwrap();
    let caption = "a large red circle above a small blue square";
    Saved::of(&unclip.text_to_image(caption, &options).unwrap().trace)
}

/// The same in f32 on the CPU, which is the other side of two tests.
fn on_the_cpu() -> &'static Saved {
    static TRACE: LazyLock<Saved> = LazyLock::new(|| trace("flex", Precision::F32));
    &TRACE
}

#[test]
fn wgpu_gives_the_numbers_that_flex_gives() {
    trace("wgpu:cpu", Precision::F32).agrees_with(on_the_cpu(), "shapes", TOLERANCE);
}

/// In 16 bits, if the driver has them: a few roundings to three digits from f32.
#[test]
fn wgpu_computes_in_16_bits() {
    let device = device("wgpu:cpu").unwrap();
    if !Precision::F16.is_supported(&device) {
        let place = (&device, Precision::F16);
        let refused = UnClip::new(Bundle::shapes().unwrap(), place, Residency::OneByOne);
        let message = refused.err().unwrap().to_string();
        assert!(message.contains("precision is f16"), "{message}");
        return;
    }
    trace("wgpu:cpu", Precision::F16).agrees_with(on_the_cpu(), "f16", IN_16_BITS);
}

const IN_16_BITS: Tolerance =
    Tolerance { clip: 1e-2, prior: 1e-2, latent: 1e-2, call: 1e-2, picture: [1e-2, 1e-1] };

#[test]
fn wgpu_refuses_bf16_which_it_does_not_have() {
    let device = device("wgpu:cpu").unwrap();
    let place = (&device, Precision::BF16);
    let refused = UnClip::new(Bundle::shapes().unwrap(), place, Residency::OneByOne);
    let message = refused.err().unwrap().to_string();
    assert!(message.contains("precision") && message.contains("bf16"), "{message}");
}

/// Some ten times what Mesa's software Vulkan gives: 5e-7 for CLIP, 9e-7 for the prior, 1e-6 for
/// single calls, and for pictures a median of 4e-7 with 99 % below 3e-5.
const TOLERANCE: Tolerance =
    Tolerance { clip: 1e-5, prior: 1e-5, latent: 1e-5, call: 1e-5, picture: [1e-5, 1e-3] };

#[test]
fn wgpu_gives_the_numbers_of_diffusers() {
    calls_agree_with_diffusers("wgpu:cpu", TOLERANCE);
    agrees_with_diffusers("wgpu:cpu", TOLERANCE);
}

#[test]
fn wgpu_gives_the_numbers_of_diffusers_stable() {
    stable::calls_agree_with_diffusers("wgpu:cpu", TOLERANCE);
    // other runs have no kernels of their own
    stable::agrees_with_diffusers("wgpu:cpu", &["text"], TOLERANCE);
}

#[test]
fn wgpu_gives_the_numbers_of_diffusers_kandinsky21() {
    let picture = [1e-4, 1e-1];
    // other runs have no kernels of their own
    let tolerance = Tolerance { picture, ..TOLERANCE };
    kandinsky21::agrees_with_diffusers("wgpu:cpu", &["text"], tolerance);
}

#[test]
fn wgpu_gives_the_numbers_of_diffusers_kandinsky() {
    let picture = [1e-4, 1e-1];
    kandinsky::calls_agree_with_diffusers("wgpu:cpu", TOLERANCE);
    kandinsky::agrees_with_diffusers("wgpu:cpu", Tolerance { picture, ..TOLERANCE });
}

#[test]
fn wgpu_gives_the_numbers_of_glide_adm_and_laion() {
    // pictures have no kernels of their own
    laion::calls_agree_with_the_reference("wgpu:cpu", TOLERANCE);
    glide::calls_agree_with_the_reference("wgpu:cpu", TOLERANCE);
    adm::calls_agree_with_the_reference("wgpu:cpu", TOLERANCE);
}
