//! Drawing by a stage in training.

use burn::tensor::Device;
use image::{RgbImage, imageops};
use unclip_core::sampler::sample;
use unclip_core::{Draw, Guide, InvalidSetting, NoiseSource, SeededNoise, Stage, Steering};

/// What a stage makes of a condition by its own settings, guided away from `null` if there is one, from the
/// noise of the seeds 0, 1 and so on.
///
/// # Errors
/// A schedule that cannot be built.
pub(crate) fn drawn<S: Stage<D>, const D: usize>(
    stage: &S,
    network: &S::Network,
    condition: &S::Condition,
    (null, device): (Option<&S::Null>, &Device),
) -> Result<S::Output, InvalidSetting> {
    let config = stage.diffusion();
    let schedule = config.schedule(config.steps, &config.spacing)?;
    let shape = stage.sample_shape(condition);
    let seeds: Vec<u64> = (0..shape[0] as u64).collect();
    let mut noise = SeededNoise::new(&seeds, 0);
    let noise: &mut dyn NoiseSource = &mut noise;
    let x_t = noise.tensor(Draw::Initial, shape, device);
    let guide = null.filter(|_| config.guidance_scale != 1.0).map(|null| Guide {
        null,
        scale: config.guidance_scale,
        image_scale: None,
        within: None,
    });
    let denoiser = stage.denoiser(network, condition, Steering { guide, dynamic_threshold: None });
    let mut sampler = config.sampler.start(&config.variances());
    let x_0 = sample(&*denoiser, &mut *sampler, &schedule, x_t, noise, &mut ())
        .unwrap_or_else(|_| unreachable!("nobody interrupts it"));
    Ok(stage.output(network, x_0))
}

/// Rows of pictures below each other, all as large as the first.
pub(crate) fn stacked(rows: &[Vec<RgbImage>]) -> Option<RgbImage> {
    const LINE: u32 = 2;
    let columns = rows.iter().map(Vec::len).max()? as u32;
    let (width, height) = rows.first()?.first()?.dimensions();
    let (step_x, step_y) = (width + LINE, height + LINE);
    let size = (columns * step_x - LINE, rows.len() as u32 * step_y - LINE);
    let mut sheet = RgbImage::from_pixel(size.0, size.1, image::Rgb([128; 3]));
    for (y, row) in rows.iter().enumerate() {
        for (x, picture) in row.iter().enumerate() {
            let place = (i64::from(x as u32 * step_x), i64::from(y as u32 * step_y));
            imageops::replace(&mut sheet, picture, place.0, place.1);
        }
    }
    Some(sheet)
}
