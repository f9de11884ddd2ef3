//! What the decoder is told of every pixel, the noise of its embeddings, the size of what it samples.

use burn::tensor::Tensor;
use image::RgbImage;
use unclip_core::image::to_tensor;
use unclip_core::resize::bicubic_8bit;
use unclip_core::{Draw, InvalidSetting, NoiseSource, SeededNoise};
use unclip_decoder::{Condition, Control, ImageNoise};

use crate::square::{check_pictures, middle};
use crate::stage_id::AUGMENTATION_STREAM;
use crate::{Bundle, Error, Run};

/// Largest side that may be asked for, in pixels.
const MAX_ASKED: usize = 4096;

/// How many times larger than the sample a hint is: that many its network divides it by.
const HINT_FACTOR: usize = 8;

impl Bundle {
    /// What the decoder is told of every pixel, if anything.
    pub fn control(&self) -> Option<Control> {
        self.decoder.config().control
    }

    /// What both sides of a picture have to be multiples of, in pixels. `None` of a model that makes
    /// pictures of one size: one with upsamplers, or that was trained for one.
    pub fn size_multiple(&self) -> Option<usize> {
        let decoder = self.decoder.config();
        let autoencoder = self.autoencoder.as_ref()?.config();
        let is_free = self.upsamplers.is_empty() && decoder.layout.is_none();
        (is_free && !decoder.unet.knows_places())
            .then(|| decoder.unet.size_multiple() * autoencoder.factor())
    }

    /// Refuses a size that the model cannot make, a level of noise that its decoder does not know, and
    /// a hint that it does not read or lacks.
    pub(crate) fn check_control(
        &self,
        size: Option<[u32; 2]>,
        noise_level: Option<usize>,
        hint: Option<&RgbImage>,
    ) -> Result<(), InvalidSetting> {
        size.map_or(Ok(()), |size| self.check_size(size))?;
        noise_level.map_or(Ok(()), |level| self.check_noise_level(level))?;
        match (hint, self.control()) {
            (None, Some(Control::Hint)) => {
                let expected = "a picture such as a depth map, which the decoder of this model \
                                follows";
                Err(InvalidSetting::new("hint", "absent", expected))
            }
            (Some(hint), found) if found != Some(Control::Hint) => {
                let (width, height) = hint.dimensions();
                let found = format!("a picture of {width} × {height}");
                let expected = "absent: the decoder of this model follows none; \
                                kandinsky-2-2-controlnet-depth does";
                Err(InvalidSetting::new("hint", found, expected))
            }
            (Some(hint), _) => check_pictures(std::slice::from_ref(hint))
                .map_err(|error| InvalidSetting { name: "hint".into(), ..error }),
            _ => Ok(()),
        }
    }

    fn check_noise_level(&self, level: usize) -> Result<(), InvalidSetting> {
        let levels = self.decoder.config().augmentation.map(|it| it.num_train_timesteps);
        match levels {
            Some(levels) if level < levels => Ok(()),
            Some(levels) => {
                let expected = format!("0 to {}", levels - 1);
                Err(InvalidSetting::new("noise level", level, expected))
            }
            None => {
                let expected = "absent: the decoder of this model reads embeddings as they are";
                Err(InvalidSetting::new("noise level", level, expected))
            }
        }
    }

    fn check_size(&self, size: [u32; 2]) -> Result<(), InvalidSetting> {
        let found = format!("{} × {}", size[0], size[1]);
        let own = self.image_size();
        let Some(multiple) = self.size_multiple() else {
            let expected = format!("absent: this model makes pictures of {own} × {own} pixels");
            return Err(InvalidSetting::new("size", found, expected));
        };
        let is_fine = |side: u32| {
            (multiple..=MAX_ASKED).contains(&(side as usize))
                && (side as usize).is_multiple_of(multiple)
        };
        if size.into_iter().all(is_fine) {
            return Ok(());
        }
        let expected = format!("sides that are multiples of {multiple}, up to {MAX_ASKED}");
        Err(InvalidSetting::new("size", found, expected))
    }

    /// Height and width of the decoder's sample for a picture of this width and height.
    pub(crate) fn sides_of(&self, size: Option<[u32; 2]>) -> [usize; 2] {
        let factor = self.autoencoder.as_ref().map_or(1, |it| it.config().factor());
        match size {
            Some([width, height]) => [height, width].map(|side| side as usize / factor),
            None => [self.decoder.config().unet.image_size(); 2],
        }
    }
}

impl Run<'_> {
    /// A condition with what the decoder is told of every pixel, and the noise of its embedding. Where
    /// nothing is said of what is kept, nothing is.
    pub(crate) fn controlled(&self, condition: &Condition) -> Result<Condition, Error> {
        let has_own = condition.control.is_some();
        if !has_own || self.hint.is_some() {
            // nothing says a level where none was asked for
            let level = self.noise_level.filter(|&level| level > 0);
            self.bundle.check_control(self.size, level, self.hint)?;
        }
        let mut condition = condition.clone();
        let sides = *condition.sides.get_or_insert(self.bundle.sides_of(self.size));
        let (rows, device) = (self.seeds.len(), &self.placement.device);
        let control = match (self.bundle.control(), condition.control.take()) {
            (None, _) => None,
            (Some(_), Some(given)) => Some(given),
            (Some(Control::Kept), None) => {
                let channels = self.bundle.decoder.config().channels + 1;
                Some(Tensor::zeros([rows, channels, sides[0], sides[1]], device))
            }
            // there is one: that was checked
            (Some(Control::Hint), None) => self.hint.map(|hint| {
                let [height, width] = sides.map(|side| (side * HINT_FACTOR) as u32);
                let hint: RgbImage = bicubic_8bit(&middle(hint, [width, height]), width, height);
                to_tensor(&[hint], device) * 0.5 + 0.5
            }),
        };
        condition.control = control;
        if condition.image_noise.is_none() && self.bundle.decoder.config().augmentation.is_some() {
            condition.image_noise = self.image_noise()?;
        }
        Ok(condition)
    }

    /// The noise of image embeddings, one row for each seed.
    fn image_noise(&self) -> Result<Option<ImageNoise>, Error> {
        let Some(level) = self.noise_level else { return Ok(None) };
        let shape = [self.seeds.len(), self.bundle.d_embedding()];
        let noise = match self.noise {
            Some(recorded) => recorded.augmentation(&shape)?,
            None => {
                let mut noise = SeededNoise::new(&self.seeds, AUGMENTATION_STREAM);
                noise.draw(Draw::Initial, &shape)
            }
        };
        Ok(Some(ImageNoise { level, noise: Tensor::from_data(noise, &self.placement.device) }))
    }
}
