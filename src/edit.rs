//! Pictures of which a part is drawn anew, or all of it from a noisy version.

use burn::tensor::Tensor;
use image::{GrayImage, RgbImage, imageops};
use unclip_core::image::{to_rgb, to_tensor};
use unclip_core::resize::bicubic_8bit;
use unclip_core::{InvalidSetting, Kept, Resampling};
use unclip_decoder::Condition;

use crate::bundle::missing;
use crate::pipeline::finish;
use crate::recipe::MadeBy;
use crate::square::check_pictures;
use crate::{
    Error, GenerateOptions, Generated, Observed, Picture, Recipe, Run, Settings, StageId, Start,
    UnClip,
};

/// What an edited picture shows.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// What a caption says, by way of the prior.
    Caption(&'a str),
    /// What a picture shows.
    Picture(&'a RgbImage),
    /// What a picture shows, with a caption beside it.
    Both(&'a str, &'a RgbImage),
}

impl UnClip {
    /// Draws a part of a picture anew: where `mask` is white (128 and more). All other pixels of
    /// the result are the picture's own, at its own size; they guide what is drawn, by RePaint's
    /// resampling (Lugmayr et al. 2022).
    ///
    /// The decoder sees the square in the middle, in which the mask has to lie. A mask without
    /// white gives the picture back, and one that is all white a new one. `n` results, each with
    /// its seed.
    ///
    /// # Errors
    /// As [`text_to_image`](Self::text_to_image) and [`image_variation`](Self::image_variation), as
    /// far as the subject asks for it; a mask of another size than the picture, or with white
    /// beyond the square; a decoder's sampler that may remember steps; recorded noise.
    pub fn inpaint(
        &self,
        (picture, mask): (&RgbImage, &GrayImage),
        subject: Subject<'_>,
        resampling: Resampling,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        self.quietly().inpaint((picture, mask), subject, resampling, options)
    }

    /// Draws a picture again from a noisy version of it. A `strength` of 1 starts from pure noise,
    /// and one near 0 changes little: that share of the decoder's steps is taken, at least one.
    ///
    /// # Errors
    /// As [`inpaint`](Self::inpaint), apart from masks and samplers; a strength outside (0, 1].
    pub fn image_to_image(
        &self,
        picture: &RgbImage,
        strength: f64,
        subject: Subject<'_>,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        self.quietly().image_to_image(picture, strength, subject, options)
    }
}

impl Observed<'_> {
    /// See [`UnClip::inpaint`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn inpaint(
        self,
        (picture, mask): (&RgbImage, &GrayImage),
        subject: Subject<'_>,
        resampling: Resampling,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        check_pictures(std::slice::from_ref(picture))?;
        resampling.validate()?;
        let square = Square::of(picture);
        square.check(picture, mask)?;
        let unclip = self.unclip;
        let side = unclip.bundle.small_size();
        let seeds = options.seeds(1)?;
        let settings = subject.settings(options, unclip)?;
        let steps = settings.steps() - settings.decoder.steps;
        let steps = steps + resampling.calls(settings.decoder.steps);
        let made_by = subject.made_by(unclip, (options, &settings))?;
        let mut run = self.start(&seeds, options, steps);
        let condition = subject.condition(&mut run, unclip, &settings)?;
        let device = unclip.device();
        let cut = square.without_hole(picture, mask, side);
        let small = bicubic_8bit(&cut, side as u32, side as u32);
        // of a latent, all is drawn on which some of the hole lies
        let small = run.samples_of(to_tensor(&[small], &device))?.repeat_dim(0, seeds.len());
        let side = unclip.bundle.decoder.config().unet.image_size;
        let small_mask = square.small_mask(mask, side, &device).expand(small.dims());
        let bound = run.bind_decoder(&condition, &settings.decoder)?;
        let kept = Kept { x_0: small, mask: small_mask };
        let sample = run.inpaint(&bound, &kept, resampling)?;
        drop(bound);
        let pictures = run.pictures(sample)?;
        let pictures = run.upsample(pictures, &settings.upsamplers)?;
        let recipe = |(row, &seed): (usize, &u64)| {
            let recipe = Recipe::new(&made_by, options, &settings, subject.caption(), (seed, row));
            Recipe { incomplete: true, ..recipe }
        };
        let recipes = run.seeds.iter().enumerate().map(recipe);
        let pictures = to_rgb(pictures).into_iter().zip(recipes).map(|(drawn, recipe)| Picture {
            image: square.put_into(picture, mask, &drawn),
            recipe,
        });
        Ok(Generated::of(pictures.collect(), run))
    }

    /// See [`UnClip::image_to_image`].
    ///
    /// # Errors
    /// As there, and [`Error::Stopped`].
    pub fn image_to_image(
        self,
        picture: &RgbImage,
        strength: f64,
        subject: Subject<'_>,
        options: &GenerateOptions,
    ) -> Result<Generated, Error> {
        if !(strength > 0.0 && strength <= 1.0) {
            let expected = "a number above 0, up to 1";
            return Err(InvalidSetting::new("strength", strength, expected).into());
        }
        check_pictures(std::slice::from_ref(picture))?;
        let unclip = self.unclip;
        let seeds = options.seeds(1)?;
        let settings = subject.settings(options, unclip)?;
        let steps = ((strength * settings.decoder.steps as f64).round() as usize).max(1);
        let made_by = subject.made_by(unclip, (options, &settings))?;
        let total = settings.steps() - settings.decoder.steps + steps;
        let side = unclip.bundle.small_size() as u32;
        let small = bicubic_8bit(&Square::of(picture).cut(picture), side, side);
        let mut run = self.start(&seeds, options, total);
        let x_0 = run.samples_of(to_tensor(&[small], &unclip.device()))?;
        let condition = subject.condition(&mut run, unclip, &settings)?;
        let x_0 = Some(x_0.repeat_dim(0, seeds.len()));
        let start = Start { x_0, steps: Some(steps), ..Start::default() };
        let captions = std::iter::repeat(subject.caption());
        let made = (&made_by, options, &settings);
        let mut made = finish(run, (&condition, start), made, captions)?;
        made.pictures.iter_mut().for_each(|picture| picture.recipe.incomplete = true);
        Ok(made)
    }
}

impl Subject<'_> {
    fn caption(&self) -> &str {
        match self {
            Self::Caption(caption) | Self::Both(caption, _) => caption,
            Self::Picture(_) => "",
        }
    }

    /// Whether the prior has a part in it.
    fn has_caption(&self) -> bool {
        matches!(self, Self::Caption(_))
    }

    fn made_by(
        &self,
        unclip: &UnClip,
        (options, settings): (&GenerateOptions, &Settings),
    ) -> Result<MadeBy, Error> {
        let precision = unclip.placement.precision;
        let sees = !self.has_caption() || settings.leads_from_blank(options, &unclip.bundle);
        MadeBy::of(&unclip.bundle, precision, sees, settings)
    }

    /// The settings, without those of stages that have no part in it.
    fn settings(&self, options: &GenerateOptions, unclip: &UnClip) -> Result<Settings, Error> {
        let mut settings = options.resolve(&unclip.bundle)?;
        if !self.has_caption() {
            options.expect_no_prior("only a caption alone has a prior")?;
            settings = settings.without_prior();
        }
        settings.check_negatives(options, &unclip.bundle)?;
        settings.check_clip(self.caption())?;
        if !self.has_caption() {
            unclip.bundle.check_caption(self.caption())?;
        }
        Ok(settings)
    }

    /// The decoder's condition, one row for each seed.
    fn condition(
        &self,
        run: &mut Run<'_>,
        unclip: &UnClip,
        settings: &Settings,
    ) -> Result<Condition, Error> {
        let rows = run.seeds.len();
        run.wants_negative = settings.decoder.is_guided();
        let text = if self.has_caption() {
            run.encode(&[self.caption()])?.repeat_rows(rows)
        } else {
            run.decoder_caption(self.caption())?
        };
        let image = match (self, &settings.prior) {
            (Self::Picture(picture) | Self::Both(_, picture), _) => {
                check_pictures(std::slice::from_ref(picture))?;
                unclip.embed(std::slice::from_ref(picture))?.image.repeat_rows(rows)
            }
            (Self::Caption(_), Some(prior)) => run.best_prior(&text, prior, settings.candidates)?,
            (Self::Caption(_), None) => {
                return Err(missing(&unclip.bundle.origin, StageId::Prior));
            }
        };
        Ok(Condition { image, text })
    }
}

/// The square in the middle of a picture.
struct Square {
    left: u32,
    top: u32,
    side: u32,
}

impl Square {
    fn of(picture: &RgbImage) -> Self {
        let (width, height) = picture.dimensions();
        let side = width.min(height);
        Self { left: (width - side) / 2, top: (height - side) / 2, side }
    }

    fn cut(&self, picture: &RgbImage) -> RgbImage {
        imageops::crop_imm(picture, self.left, self.top, self.side, self.side).to_image()
    }

    /// The square with what is kept nearby in the place of what is not: shrinking mixes neighbors,
    /// and what lies in a hole must not show beside it. Near is within two pixels of a picture of
    /// `side`.
    fn without_hole(&self, picture: &RgbImage, mask: &GrayImage, side: usize) -> RgbImage {
        let mut cut = self.cut(picture);
        let mask = imageops::crop_imm(mask, self.left, self.top, self.side, self.side).to_image();
        let cell = |at: u32| (at as usize * side / self.side as usize).min(side - 1);
        let mut sums = vec![[0u64; 4]; side * side];
        for (x, y, pixel) in cut.enumerate_pixels() {
            if !is_white(mask.get_pixel(x, y)) {
                let sum = &mut sums[cell(y) * side + cell(x)];
                (0..3).for_each(|channel| sum[channel] += u64::from(pixel[channel]));
                sum[3] += 1;
            }
        }
        let mean = |cells: &mut dyn Iterator<Item = usize>| {
            let mut all = [0; 4];
            cells.for_each(|at| (0..4).for_each(|k| all[k] += sums[at][k]));
            let [r, g, b, n] = all;
            (n > 0).then(|| image::Rgb([r, g, b].map(|sum| (sum / n) as u8)))
        };
        let everywhere = mean(&mut (0..side * side)).unwrap_or(image::Rgb([128; 3]));
        let around = |at: usize| at.saturating_sub(2)..(at + 3).min(side);
        let near: Vec<image::Rgb<u8>> = (0..side * side)
            .map(|at| {
                let rows = around(at / side).flat_map(|y| around(at % side).map(move |x| (y, x)));
                mean(&mut rows.map(|(y, x)| y * side + x)).unwrap_or(everywhere)
            })
            .collect();
        for (x, y, pixel) in cut.enumerate_pixels_mut() {
            if is_white(mask.get_pixel(x, y)) {
                *pixel = near[cell(y) * side + cell(x)];
            }
        }
        cut
    }

    fn contains(&self, x: u32, y: u32) -> bool {
        let within = |at: u32, start: u32| (start..start + self.side).contains(&at);
        within(x, self.left) && within(y, self.top)
    }

    /// Refuses a mask of another size, or one that asks for what is not seen.
    fn check(&self, picture: &RgbImage, mask: &GrayImage) -> Result<(), InvalidSetting> {
        if mask.dimensions() != picture.dimensions() {
            let [found, expected] = [mask.dimensions(), picture.dimensions()]
                .map(|(width, height)| format!("{width} × {height} pixels"));
            return Err(InvalidSetting::new("mask", found, format!("{expected}, as the picture")));
        }
        let outside =
            |(x, y, pixel): (u32, u32, &image::Luma<u8>)| is_white(pixel) && !self.contains(x, y);
        if mask.enumerate_pixels().any(outside) {
            let Self { side, .. } = self;
            let found = "white beyond the square in the middle";
            let expected = format!("only within its {side} × {side} pixels, which are seen");
            return Err(InvalidSetting::new("mask", found, expected));
        }
        Ok(())
    }

    /// 1 where all of a small pixel is kept: `[1, 1, side, side]`.
    fn small_mask(&self, mask: &GrayImage, side: usize, device: &crate::Device) -> Tensor<4> {
        let mut kept = vec![1.0f32; side * side];
        for (x, y, _) in mask.enumerate_pixels().filter(|(.., pixel)| is_white(pixel)) {
            // every small pixel on which some of this one lies
            let small = |at: u32, start: u32| {
                let (at, old, new) = ((at - start) as usize, self.side as usize, side);
                at * new / old..((at + 1) * new).div_ceil(old)
            };
            for row in small(y, self.top) {
                small(x, self.left).for_each(|column| kept[row * side + column] = 0.0);
            }
        }
        Tensor::from_data(burn::tensor::TensorData::new(kept, [1, 1, side, side]), device)
    }

    /// The picture with what was drawn where the mask is white.
    fn put_into(&self, picture: &RgbImage, mask: &GrayImage, drawn: &RgbImage) -> RgbImage {
        let drawn = bicubic_8bit(drawn, self.side, self.side);
        let mut result = picture.clone();
        for (x, y, _) in mask.enumerate_pixels().filter(|(.., pixel)| is_white(pixel)) {
            result.put_pixel(x, y, *drawn.get_pixel(x - self.left, y - self.top));
        }
        result
    }
}

fn is_white(pixel: &image::Luma<u8>) -> bool {
    pixel[0] >= 128
}
