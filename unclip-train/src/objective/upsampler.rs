//! An upsampler.

use burn::tensor::{Device, Tensor, TensorData};
use unclip_core::loss::training_loss;
use unclip_core::{InvalidSetting, NoiseSchedule, Weighting};
use unclip_shapes::Region;
use unclip_upsample::degrade::gaussian_blur;
use unclip_upsample::{Upsampler, UpsamplerConfig};

use super::source::{Batch, Noise, Objective, Source};
use crate::TrainError;
use crate::data::{kept, pictures};
use crate::shown::Lesson;

/// Standard deviation of the strongest grain of the small pictures.
const GRAIN: f32 = 0.06;

/// Training of an upsampler on crops, of which half are blurred (paper, section 2.3) and most have a grain: what comes out is sharp and clean.
#[derive(Debug)]
pub struct UpsamplerObjective {
    source: Source,
    config: UpsamplerConfig,
    schedule: NoiseSchedule,
    low_side: u32,
    low_crop: u32,
    weighting: Weighting,
}

/// Crops of small pictures as a decoder makes them, and the same crops large.
#[derive(Debug)]
pub struct UpsamplerBatch {
    images: TensorData,
    low_res: TensorData,
    /// 0 in the rows that are blurred.
    sharp: TensorData,
    /// How loud each row's grain is, `[batch, 1]`.
    loudness: TensorData,
    grain: TensorData,
    noise: Noise,
}

impl Batch for UpsamplerBatch {
    fn narrow(&self, start: usize, len: usize) -> Self {
        let rows = |data: &TensorData| Batch::narrow(data, start, len);
        Self {
            images: rows(&self.images),
            low_res: rows(&self.low_res),
            sharp: rows(&self.sharp),
            loudness: rows(&self.loudness),
            grain: rows(&self.grain),
            noise: self.noise.narrow(start, len),
        }
    }
}

impl UpsamplerObjective {
    /// `low_side` is the side of whole small pictures, `low_crop` that of the crops.
    ///
    /// # Errors
    /// A schedule that cannot be built, a crop larger than the picture, an upsampler that reads more
    /// than small pictures, or a second network for the last step: it learns from a discriminator,
    /// which is not here.
    pub fn new(
        source: Source,
        config: UpsamplerConfig,
        [low_side, low_crop]: [u32; 2],
        weighting: Weighting,
    ) -> Result<Self, InvalidSetting> {
        if low_crop < 2 || low_crop > low_side {
            return Err(InvalidSetting::new("crop", low_crop, format!("2 to {low_side}")));
        }
        if config.last_step_network {
            let expected = "false: the network of the last step is trained with an adversarial \
                            loss, which is not here; train an upsampler without one";
            return Err(InvalidSetting::new("last_step_network", true, expected));
        }
        if config.d_text.is_some() || config.classes.is_some() || config.kept {
            let expected = "absent: crops have no captions here, and nothing is kept of them; train \
                            an upsampler of small pictures alone";
            return Err(InvalidSetting::new("d_text, classes or kept", "given", expected));
        }
        let schedule = config.diffusion.training_schedule()?;
        Ok(Self { source, config, schedule, low_side, low_crop, weighting })
    }

    fn region(&self, [x, y]: [u32; 2], scale: u32) -> Region {
        Region {
            side: self.low_side * scale,
            x: x * scale,
            y: y * scale,
            width: self.low_crop * scale,
            height: self.low_crop * scale,
        }
    }
}

impl Objective for UpsamplerObjective {
    type Network = Upsampler;
    type Batch = UpsamplerBatch;

    fn batch(&self, step: u64) -> Result<UpsamplerBatch, TrainError> {
        let (side, crop) = (self.low_side, self.low_crop);
        let largest = side * self.config.factor as u32;
        let (items, mut draws) = self.source.step(step, largest, Lesson::Mixed)?;
        let n = items.len();
        let corners: Vec<[u32; 2]> =
            items.iter().map(|item| item.corner(side, crop, &mut draws)).collect();
        let crops = |scale: u32| {
            let parts = items.iter().zip(&corners);
            let parts = parts.map(|(item, &corner)| (item.as_ref(), self.region(corner, scale)));
            pictures(&parts.collect::<Vec<_>>())
        };
        let shape = |side: usize| [n, UpsamplerConfig::CHANNELS, side, side];
        let (low, high) = (self.low_crop as usize, self.low_crop as usize * self.config.factor);
        let sharp = kept(&draws.chances(n, 0.5));
        let loudness: Vec<f32> =
            (0..n).map(|_| draws.within(-GRAIN / 3.0..GRAIN).max(0.0)).collect();
        Ok(UpsamplerBatch {
            images: crops(self.config.factor as u32),
            low_res: crops(1),
            sharp,
            loudness: TensorData::new(loudness, [n, 1]),
            grain: draws.normal(shape(low)),
            noise: Noise::draw(shape(high), self.schedule.len(), &mut draws),
        })
    }

    fn loss(&self, upsampler: &Upsampler, batch: UpsamplerBatch) -> Tensor<1> {
        let (source, schedule) = (&self.source, &self.schedule);
        let rows = |values| source.tensor::<2>(values).unsqueeze_dims::<4>(&[-1, -1]);
        let sharp: Tensor<4> = source.tensor(batch.low_res);
        let blurred = gaussian_blur(sharp.clone(), 3, 0.6);
        let low_res = blurred.clone() + (sharp - blurred) * rows(batch.sharp);
        let low_res = low_res + source.tensor::<4>(batch.grain) * rows(batch.loudness);
        let noised = batch.noise.mixed(schedule, source.tensor::<4>(batch.images));
        let low_res = low_res.into();
        training_loss(&self.config, upsampler, &low_res, schedule, &noised, self.weighting).mean()
    }

    fn on(&self, device: &Device) -> Self {
        let (config, schedule) = (self.config.clone(), self.schedule.clone());
        Self { source: self.source.on(device), config, schedule, ..*self }
    }
}
