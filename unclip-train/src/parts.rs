//! A batch in parts: one after another on a device, and on several devices at once.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Device;
use unclip_core::InvalidSetting;

use unclip_nn::{Precision, is_cpu};

use crate::mixed::viewed;
use crate::objective::{Among, Batch, Objective, Pairs};
use crate::{Learned, all_reduce};

/// An objective on each of some devices, and how many parts each of them gets of a batch.
pub(crate) struct Parts<O> {
    objectives: Vec<(Device, O)>,
    accumulate: usize,
    /// Items of a part.
    len: usize,
    /// In which format products work.
    precision: Precision,
    /// Whether the devices sum among themselves.
    all_reduce: bool,
}

impl<O: Objective> Parts<O> {
    /// An objective that is on the first of the devices already.
    ///
    /// # Errors
    /// A batch that cannot be cut into so many parts of one size.
    pub(crate) fn new(
        objective: O,
        devices: &[Device],
        (batch, accumulate): (usize, usize),
    ) -> Result<Self, InvalidSetting> {
        let parts = devices.len() * accumulate;
        if parts == 0 || !batch.is_multiple_of(parts) {
            let expected = format!(
                "a multiple of {parts}: {} devices, {accumulate} parts each",
                devices.len()
            );
            return Err(InvalidSetting::new("batch", batch, expected));
        }
        let mut objectives: Vec<(Device, O)> = Vec::new();
        for device in &devices[1..] {
            objectives.push((device.clone(), objective.on(device)));
        }
        objectives.insert(0, (devices[0].clone(), objective));
        let (len, precision) = (batch / parts, Precision::F32);
        Ok(Self { objectives, accumulate, len, precision, all_reduce: false })
    }

    /// The same with products in a format, and weights in theirs.
    pub(crate) fn in_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The same with gradients that the devices sum among themselves, or that the first one sums.
    ///
    /// # Errors
    /// Devices that cannot do so.
    pub(crate) fn with_all_reduce(self, all_reduce: bool) -> Result<Self, InvalidSetting> {
        if all_reduce {
            all_reduce::check(&self.devices())?;
        }
        Ok(Self { all_reduce, ..self })
    }

    fn devices(&self) -> Vec<Device> {
        self.objectives.iter().map(|(device, _)| device.clone()).collect()
    }

    /// The objective on the first device.
    pub(crate) fn first(&self) -> &O {
        &self.objectives[0].1
    }

    /// What a batch has to teach. The gradients are where the network is.
    pub(crate) fn learn(&self, network: &O::Network, batch: O::Batch) -> Learned {
        if let ([(_, only)], 1) = (self.objectives.as_slice(), self.accumulate) {
            return Learned::of(network, only.loss(&viewed(network, self.precision), batch));
        }
        let device = &self.objectives[0].0;
        let learned = self.learn_apart(network, &batch).into_iter();
        let sum = learned.map(|it| it.on(device, network)).reduce(|sum, it| sum.plus(network, it));
        sum.unwrap_or_else(|| unreachable!("there is a part"))
    }

    /// What the parts of each device have to teach; of devices that sum among themselves, the sum.
    fn learn_apart(&self, network: &O::Network, batch: &O::Batch) -> Vec<Learned> {
        let pairs = O::CONTRASTS.then(|| self.pairs(network, batch));
        let share = 1.0 / (self.objectives.len() * self.accumulate) as f64;
        let learned = self.on_devices(network, |at, (device, objective), network| {
            let learn = |place: usize| {
                let part = batch.narrow(place * self.len, self.len);
                let view = viewed(network, self.precision);
                let loss = match &pairs {
                    None => objective.loss(&view, part) * share,
                    Some(pairs) => {
                        let among = Among::seen_from(pairs, place, device);
                        objective.loss_among(&view, part, &among)
                    }
                };
                Learned::of(network, loss)
            };
            // one after another, so that no more than two parts' gradients are in memory
            let parts = self.places(at).map(learn);
            let own = parts.reduce(|sum, part| sum.plus(network, part))?;
            if !self.all_reduce {
                return Some(own);
            }
            let sum = all_reduce::summed(network, own, &self.devices());
            // it is the same everywhere
            (at == 0).then_some(sum)
        });
        learned.into_iter().flatten().collect()
    }

    /// What every part says.
    fn pairs(&self, network: &O::Network, batch: &O::Batch) -> Vec<Pairs> {
        let said = self.on_devices(&network.valid(), |at, (_, objective), network| {
            let view = viewed(network, self.precision);
            let part = |place: usize| batch.narrow(place * self.len, self.len);
            let said = self.places(at).map(|place| objective.pairs(&view, part(place)));
            said.collect::<Vec<_>>()
        });
        said.into_iter().flatten().flatten().collect()
    }

    /// The parts of a device.
    fn places(&self, device: usize) -> Range<usize> {
        device * self.accumulate..(device + 1) * self.accumulate
    }

    /// Does something on every device at once, each with the network there; the answers come in the order
    /// of the devices.
    fn on_devices<T: Send>(
        &self,
        network: &O::Network,
        each: impl Fn(usize, &(Device, O), &O::Network) -> T + Sync,
    ) -> Vec<T> {
        if let [only] = self.objectives.as_slice() {
            return vec![each(0, only, network)];
        }
        if self.objectives.iter().all(|(device, _)| is_cpu(device)) {
            // all of them are the same pool of threads, one of which waits here
            let own = |(at, objective): (usize, &(Device, O))| {
                each(at, objective, &network.clone().fork(&objective.0))
            };
            return self.objectives.iter().enumerate().map(own).collect();
        }
        std::thread::scope(|scope| {
            let started = self.objectives.iter().enumerate().map(|(at, objective)| {
                let network = network.clone().fork(&objective.0);
                let each = &each;
                scope.spawn(move || each(at, objective, &network))
            });
            let started: Vec<_> = started.collect();
            let joined = started.into_iter().map(|thread| match thread.join() {
                Ok(answer) => answer,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::module::{ModuleVisitor, Param, ParamId};
    use burn::tensor::Tensor;
    use unclip_core::Weighting;
    use unclip_nn::UNetConfig;
    use unclip_shapes::ShapesWorld;

    use super::*;
    use crate::objective::{
        ClipObjective, ClipTowers, NoisedObjective, Source, UpsamplerObjective,
    };
    use crate::{Degradation, TrainSettings, recipe, train_vocabulary};

    fn source() -> Source {
        let data = Arc::new(ShapesWorld::new(1));
        Source { data, batch: 12, seed: 3, device: Device::flex() }
    }

    struct Values<'a>(&'a Learned, Vec<f32>);

    impl ModuleVisitor for Values<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.gradients.get::<D>(param.id) {
                self.1.extend(gradient.into_data().iter::<f32>());
            }
        }
    }

    /// Loss, and every gradient.
    fn learned<O: Objective>(
        objective: O,
        network: &O::Network,
        devices: usize,
        accumulate: usize,
    ) -> (f32, Vec<f32>) {
        let batch = objective.batch(5).expect("a batch");
        let devices = vec![Device::flex(); devices];
        let parts = Parts::new(objective, &devices, (12, accumulate)).expect("12 can be cut");
        let learned = parts.learn(network, batch);
        let mut values = Values(&learned, Vec::new());
        network.visit(&mut values);
        (learned.loss.clone().into_scalar::<f32>(), values.1)
    }

    fn compare<O: Objective>(make: impl Fn() -> O, network: O::Network) {
        let network = network.train();
        let (loss, whole) = learned(make(), &network, 1, 1);
        let scale = whole.iter().fold(0f32, |most, it| most.max(it.abs()));
        assert!(scale > 0.0);
        for (devices, accumulate) in [(1, 3), (2, 1), (3, 2)] {
            let (found, parts) = learned(make(), &network, devices, accumulate);
            assert!((found - loss).abs() < 1e-5 * loss.abs(), "{found} and {loss}");
            assert_eq!(parts.len(), whole.len());
            let far = parts.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(far < 2e-5 * scale, "{devices} x {accumulate}: {far} of {scale}");
        }
        same_weights_learn_everywhere(make(), &network);
    }

    struct Ids<'a>(&'a Learned, Vec<ParamId>);

    impl ModuleVisitor for Ids<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.0.gradients.get::<D>(param.id).is_some() {
                self.1.push(param.id);
            }
        }
    }

    /// Devices that sum among themselves wait for each other at every weight.
    fn same_weights_learn_everywhere<O: Objective>(objective: O, network: &O::Network) {
        let batch = objective.batch(5).expect("a batch");
        let devices = vec![Device::flex(); 3];
        let parts = Parts::new(objective, &devices, (12, 1)).expect("12 can be cut");
        let learned = parts.learn_apart(network, &batch);
        let ids = learned.iter().map(|own| {
            let mut ids = Ids(own, Vec::new());
            network.visit(&mut ids);
            ids.1
        });
        let ids: Vec<_> = ids.collect();
        assert!(ids.len() == 3 && ids.iter().all(|own| *own == ids[0] && !own.is_empty()));
    }

    fn tokenizer() -> unclip_clip::Tokenizer {
        let folder = tempfile::tempdir().expect("a folder");
        let captions = ["a red circle", "two large blue squares"].map(String::from);
        train_vocabulary(folder.path(), 20, captions.into_iter()).expect("a vocabulary");
        let options = unclip_clip::TokenizerOptions {
            context_length: recipe::text_encoder(0).context_length,
            ..Default::default()
        };
        unclip_clip::Tokenizer::from_folder(folder.path(), options).expect("a tokenizer")
    }

    /// CLIP's objective, and towers for it.
    fn contrast() -> (impl Fn() -> ClipObjective, ClipTowers) {
        let (tokenizer, image) = (tokenizer(), recipe::image_encoder());
        let text = recipe::text_encoder(tokenizer.vocab_size());
        let towers = ClipTowers::new(&text, &image, &Device::flex());
        let make = move || {
            let (tokenizer, image) = (tokenizer.clone(), image.clone());
            ClipObjective { source: source(), tokenizer, image, worn: 0.5 }
        };
        (make, towers)
    }

    #[test]
    fn the_parts_of_a_batch_teach_what_the_whole_teaches() {
        let config = small(vec![4, 4]);
        let make = || {
            let even = (Degradation::Bsr, Weighting::MinSnr(5.0));
            UpsamplerObjective::new(source(), config.clone(), [32, 8], even).expect("an objective")
        };
        compare(make, config.init(&Device::flex()));
    }

    #[test]
    fn items_that_are_held_against_all_others_learn_from_all_others() {
        let (make, towers) = contrast();
        compare(&make, towers.clone());
        let ClipObjective { tokenizer, image: image_config, .. } = make();
        let (text, image, device) = (towers.text, towers.image, Device::flex());
        let clip = crate::objective::FrozenClip {
            tokenizer,
            text,
            image,
            image_config,
            device: device.clone(),
            kept: None,
        };
        let noised = recipe::noised_image_encoder();
        let schedule = recipe::decoder().diffusion.training_schedule().expect("a schedule");
        let make = || NoisedObjective {
            source: source(),
            clip: clip.clone(),
            schedule: schedule.clone(),
            side: noised.image_size,
        };
        compare(make, noised.init(&device));
    }

    /// An upsampler of these channels.
    fn small(block_out_channels: Vec<usize>) -> unclip_upsample::UpsamplerConfig {
        let mut config = recipe::upsamplers()[0].clone();
        let own = config.unet.adm().expect("ADM's").clone();
        config.unet = UNetConfig { block_out_channels, ..own }.into();
        config
    }

    fn upsampling(config: &unclip_upsample::UpsamplerConfig) -> UpsamplerObjective {
        let plain = (Degradation::Blur, Weighting::Even);
        UpsamplerObjective::new(source(), config.clone(), [32, 8], plain).expect("an objective")
    }

    /// The gradients of products in 16 bits lead where those in 32 lead, and are of weights in 32.
    #[test]
    fn sixteen_bits_teach_nearly_the_same() {
        let config = small(vec![8, 16]);
        let network = config.init(&Device::flex()).train();
        let gradients = |precision| {
            let objective = upsampling(&config);
            let batch = objective.batch(1).expect("a batch");
            let parts = Parts::new(objective, &[Device::flex()], (12, 1)).expect("one part");
            let learned = parts.in_precision(precision).learn(&network, batch);
            let mut values = Values(&learned, Vec::new());
            network.visit(&mut values);
            values.1
        };
        let (exact, mixed) = (gradients(Precision::F32), gradients(Precision::BF16));
        assert_eq!(exact.len(), mixed.len());
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let cosine = dot(&exact, &mixed) / (dot(&exact, &exact) * dot(&mixed, &mixed)).sqrt();
        assert!(cosine > 0.999 && cosine < 0.999_999_9, "{cosine}");
    }

    #[test]
    fn what_is_computed_again_is_the_same() {
        let config = small(vec![8, 16]);
        let fresh = config.init(&Device::flex());
        // drawn now, so that both have the same
        let _ = fresh.num_params();
        let plain = learned(upsampling(&config), &fresh.clone().train(), 1, 1);
        let again = learned(upsampling(&config), &crate::mixed::checkpointed(fresh), 1, 1);
        assert_eq!(plain.0, again.0);
        let far = plain.1.iter().zip(&again.1).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(plain.1.len() == again.1.len() && far < 1e-6, "{far}");
    }

    /// Of CLIP, whose temperature is brought back into its bounds between two steps.
    #[test]
    fn contrast_is_computed_again_as_well() {
        let (make, towers) = contrast();
        let _ = towers.num_params();
        let again = crate::mixed::checkpointed(towers.clone()).within_bounds();
        let strategy = again.logit_scale.val().gradient_checkpointing_strategy();
        let usual = towers.clone().train().logit_scale.val().gradient_checkpointing_strategy();
        assert!(strategy.is_some() && strategy != usual, "it is on");
        let plain = learned(make(), &towers.train().within_bounds(), 1, 1);
        for (devices, accumulate) in [(1, 1), (1, 3), (2, 2)] {
            let found = learned(make(), &again, devices, accumulate);
            assert!((found.0 - plain.0).abs() < 1e-5 * plain.0, "{} and {}", found.0, plain.0);
        }
    }

    #[test]
    fn a_batch_that_cannot_be_cut_is_refused() {
        let config = recipe::upsamplers()[0].clone();
        let objective = UpsamplerObjective::new(
            source(),
            config,
            [32, 8],
            (Degradation::Blur, Weighting::Even),
        );
        let devices = vec![Device::flex(); 5];
        let refused = Parts::new(objective.expect("an objective"), &devices, (12, 2));
        let error = refused.err().expect("12 by 10").to_string();
        assert!(error.contains("batch is 12, expected a multiple of 10: 5 devices"), "{error}");
        assert!(
            TrainSettings { batch: 12, accumulate: 5, ..TrainSettings::default() }
                .validate()
                .is_err()
        );
    }
}
