//! What the predictions of a prior leave open, measured over typical pictures.

use burn::tensor::Tensor;
use unclip_core::{
    ImageEmbedding, InvalidSetting, NoiseSchedule, Stage, Steering, TextEmbedding, Uncertainty,
};
use unclip_prior::{DiffusionPrior, DiffusionPriorConfig};

use crate::draws::Draws;

/// Places of the table.
const PLACES: usize = 41;

/// Pairs that are read at once.
const CHUNK: usize = 256;

/// The table of a prior, from pictures' embeddings and those of their captions, with one noise for
/// each picture and level.
///
/// # Errors
/// Squared errors that are no numbers.
pub(crate) fn uncertainty(
    config: &DiffusionPriorConfig,
    prior: &DiffusionPrior,
    (images, texts): (&ImageEmbedding, &TextEmbedding),
) -> Result<Uncertainty, InvalidSetting> {
    let schedule = config.diffusion.training_schedule()?;
    let places: Vec<usize> = Uncertainty::timesteps(PLACES, schedule.len()).collect();
    let mut variances = vec![0.0; PLACES];
    let n = images.batch();
    for first in (0..n).step_by(CHUNK) {
        let chunk = first..n.min(first + CHUNK);
        let pair = (images.narrow(first, chunk.len()), texts.narrow(first, chunk.len()));
        let errors = errors(config, prior, &pair, &schedule, &places, first as u64);
        let part = chunk.len() as f64 / n as f64;
        variances.iter_mut().zip(errors).for_each(|(variance, error)| *variance += error * part);
    }
    // chance is larger than what is cut off
    Uncertainty::new(variances.into_iter().map(|variance| (variance * 1e5).round() / 1e5).collect())
}

/// Mean squared errors at some places of a schedule.
fn errors(
    config: &DiffusionPriorConfig,
    prior: &DiffusionPrior,
    (images, texts): &(ImageEmbedding, TextEmbedding),
    schedule: &NoiseSchedule,
    places: &[usize],
    seed: u64,
) -> Vec<f64> {
    let x_0 = prior.whiten(images);
    let device = x_0.device();
    let denoiser = config.denoiser(prior, texts, Steering::default());
    let error = |&place: &usize| {
        let step = schedule.step(place);
        let noise = Draws::new(seed, place as u64).normal(x_0.dims());
        let noise = Tensor::from_data(noise, &device);
        let x_t = schedule.add_noise(x_0.clone(), noise, &vec![place; x_0.dims()[0]]);
        let difference = denoiser.denoise(x_t, &step).x_0 - x_0.clone();
        f64::from((difference.clone() * difference).mean().into_scalar::<f32>())
    };
    places.iter().map(error).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Bool, Device};

    use super::*;
    use crate::recipe;

    /// A prior that is not allowed to predict anything leaves the data's whole variance open.
    #[test]
    fn what_is_not_predicted_is_left_open() {
        let device = Device::flex();
        let mut config = recipe::prior();
        config.principal_components = false;
        config.diffusion.clamp = Some(1e-6);
        let prior = config.init(&device);
        let (n, d, length) = (CHUNK + 3, config.d_embedding, config.context_length);
        let values = Draws::new(3, 1).normal([n, d]);
        let expected = values.iter::<f64>().map(|value| value * value).sum::<f64>();
        let images = ImageEmbedding(Tensor::from_data(values, &device));
        let texts = TextEmbedding {
            pooled: Tensor::zeros([n, config.d_text], &device),
            tokens: Tensor::zeros([n, length, config.d_text], &device),
            mask: Tensor::<2, Bool>::full([n, length], true, &device),
        };
        let table = uncertainty(&config, &prior, (&images, &texts)).unwrap();
        let expected = expected / (n * d) as f64;
        let schedule = config.diffusion.training_schedule().unwrap();
        for timestep in [0, 300, 999] {
            let found = table.variance(&schedule.step(timestep), 1000);
            assert!((found - expected).abs() < 1e-4, "{timestep}: {found}, expected {expected}");
        }
    }
}
