//! An upsampler.

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use rayon::prelude::*;
use unclip_core::image::to_rgb;
use unclip_core::loss::training_loss;
use unclip_core::resize::bicubic_8bit;
use unclip_core::{InvalidSetting, NoiseSchedule, Weighting};
use unclip_shapes::Region;
use unclip_upsample::degrade::gaussian_blur;
use unclip_upsample::{Upsampler, UpsamplerConfig};

use super::batch::Batch;
use super::contract::Objective;
use super::source::{Noise, Source};
use crate::bsr::Planes;
use crate::data::{kept, pictures};
use crate::draws::Draws;
use crate::evaluation::{Evaluation, HeldOut, Levels, drawn, loss_of, stacked};
use crate::shown::Lesson;
use crate::{Degradation, TrainError};

/// Largest side of the small pictures that are shown.
const SHOWN: u32 = 64;

/// Standard deviation of the strongest grain of the small pictures.
const GRAIN: f32 = 0.06;

/// Training of an upsampler on crops that are degraded (paper, section 2.3): what comes out is sharp and
/// clean.
#[derive(Debug)]
pub struct UpsamplerObjective {
    source: Source,
    config: UpsamplerConfig,
    schedule: NoiseSchedule,
    low_side: u32,
    low_crop: u32,
    degrade: Degradation,
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
    /// Whether an upsampler of these sizes can be trained.
    pub(crate) fn check(config: &UpsamplerConfig) -> Result<(), InvalidSetting> {
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
        Ok(())
    }

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
        (degrade, weighting): (Degradation, Weighting),
    ) -> Result<Self, InvalidSetting> {
        if low_crop < 2 || low_crop > low_side {
            return Err(InvalidSetting::new("crop", low_crop, format!("2 to {low_side}")));
        }
        Self::check(&config)?;
        let schedule = config.diffusion.training_schedule()?;
        Ok(Self { source, config, schedule, low_side, low_crop, degrade, weighting })
    }

    /// Large crops as small ones, as a degradation of large pictures makes them.
    fn degraded(&self, images: &TensorData, draws: &mut Draws) -> Option<TensorData> {
        let (n, side) = (images.shape()[0], images.shape()[3]);
        let values: Vec<f32> = images.iter::<f32>().collect();
        let large: Vec<_> = values.chunks(values.len() / n).zip(draws.split(n)).collect();
        let small = large.into_par_iter().map(|(values, mut draws)| {
            let large = Planes::of([side, side], values.to_vec());
            self.degrade.of(large, self.config.factor, &mut draws)
        });
        let small: Option<Vec<Planes>> = small.collect();
        let low = self.low_crop as usize;
        let values = small?.iter().flat_map(Planes::values).copied().collect::<Vec<f32>>();
        Some(TensorData::new(values, [n, 3, low, low]))
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
        let blurred = draws.chances(n, 0.5);
        let loudness: Vec<f32> =
            (0..n).map(|_| draws.within(-GRAIN / 3.0..GRAIN).max(0.0)).collect();
        let images = crops(self.config.factor as u32);
        let (low_res, blurred, loudness) = match self.degraded(&images, &mut draws) {
            Some(low_res) => (low_res, vec![false; n], vec![0.0; n]),
            None => (crops(1), blurred, loudness),
        };
        Ok(UpsamplerBatch {
            images,
            low_res,
            sharp: kept(&blurred),
            loudness: TensorData::new(loudness, [n, 1]),
            grain: draws.normal(shape(low)),
            noise: Noise::draw(shape(high), self.schedule.len(), &mut draws),
        })
    }

    fn loss(&self, upsampler: &Upsampler, batch: UpsamplerBatch) -> Tensor<1> {
        self.levels(upsampler, batch).losses.mean()
    }

    fn evaluate(
        &self,
        upsampler: &Upsampler,
        held_out: &HeldOut,
    ) -> Result<Evaluation, TrainError> {
        let own = self.with(held_out.source.clone());
        let evaluation = loss_of(&own, upsampler, held_out, Self::levels)?;
        Ok(Evaluation { pictures: self.shown(upsampler, held_out)?, ..evaluation })
    }

    fn on(&self, device: &Device) -> Self {
        self.with(self.source.on(device))
    }
}

impl UpsamplerObjective {
    fn with(&self, source: Source) -> Self {
        Self { source, config: self.config.clone(), schedule: self.schedule.clone(), ..*self }
    }

    /// Small pictures that are held out, enlarged by rule, enlarged by the network, and as they are.
    fn shown(
        &self,
        upsampler: &Upsampler,
        held_out: &HeldOut,
    ) -> Result<Option<RgbImage>, TrainError> {
        if held_out.shown == 0 {
            return Ok(None);
        }
        let factor = self.config.factor as u32;
        let (side, low) = (self.low_side * factor, self.low_side.min(SHOWN));
        let items = held_out.shown(side)?;
        let middle = |scale: u32| {
            let (whole, part) = (self.low_side * scale, low * scale);
            let corner = (self.low_side - low) / 2 * scale;
            let region = Region { side: whole, x: corner, y: corner, width: part, height: part };
            let parts: Vec<_> = items.iter().map(|item| (item.as_ref(), region)).collect();
            self.source.tensor::<4>(pictures(&parts))
        };
        let (small, large) = (middle(1), middle(factor));
        let device = &self.source.device;
        let made = drawn(&self.config, upsampler, &small.clone().into(), (None, device))?;
        let plain = to_rgb(small).into_iter();
        let plain = plain.map(|it| bicubic_8bit(&it, low * factor, low * factor)).collect();
        Ok(stacked(&[plain, to_rgb(made), to_rgb(large)]))
    }

    fn levels(&self, upsampler: &Upsampler, batch: UpsamplerBatch) -> Levels {
        let (source, schedule) = (&self.source, &self.schedule);
        let rows = |values| source.tensor::<2>(values).unsqueeze_dims::<4>(&[-1, -1]);
        let sharp: Tensor<4> = source.tensor(batch.low_res);
        let blurred = gaussian_blur(sharp.clone(), 3, 0.6);
        let low_res = blurred.clone() + (sharp - blurred) * rows(batch.sharp);
        let low_res = low_res + source.tensor::<4>(batch.grain) * rows(batch.loudness);
        let noised = batch.noise.mixed(schedule, source.tensor::<4>(batch.images));
        let (low_res, weighting) = (low_res.into(), self.weighting);
        let losses = training_loss(&self.config, upsampler, &low_res, schedule, &noised, weighting);
        Levels { losses, indices: noised.indices, timesteps: schedule.len() }
    }
}
