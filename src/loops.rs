//! The loops of a bound stage, forward and back: noise, steps, costs and observers.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Tensor;
use unclip_core::{
    Draw, ExactStart, Guide, Interrupted, InvalidSetting, Kept, NoiseSource, Resampling,
    SeededNoise, Steering, StepEvent, inpaint, invert, invert_exactly, sample,
};
use unclip_nn::is_cpu;

use crate::bound::{Diffuses, Listened};
use crate::estimate::rows_at_once;
use crate::finite::{finite, is_finite};
use crate::{
    Bound, Error, Event, RecordedNoise, Run, SamplerKind, Slot, StageCost, StageId, StageSettings,
    Start,
};

impl<'a> Run<'a> {
    pub(crate) fn bind<T: Diffuses<D>, const D: usize>(
        &mut self,
        slot: &'a Slot<T>,
        condition: &T::Condition,
        settings: &StageSettings,
        null: Option<&T::Null>,
    ) -> Result<Bound<'a, T, D>, Error> {
        let config = slot.config();
        settings.sampler.suits(&config.diffusion().variances())?;
        let (network, loading) = slot.network(self.placement)?;
        let start = Instant::now();
        let StageSettings { guidance_scale: scale, image_guidance: image_scale, .. } = *settings;
        let within = settings.guidance_range;
        let guide = null.map(|null| Guide { null, scale, image_scale, within });
        let steering = Steering { guide, dynamic_threshold: settings.dynamic_threshold };
        let conditions = if null.is_some() { settings.conditions() } else { 1 };
        let shape = config.sample_shape(condition);
        let most = rows_at_once(config, shape, conditions);
        let denoiser = config.denoiser_in_parts(&network, condition, steering, most);
        self.costs.push(StageCost::new(slot.id(), loading, start, &network).of_rows(shape[0]));
        Ok(Bound {
            stage: slot.id(),
            config,
            diffusion: config.diffusion(),
            network,
            denoiser,
            settings: settings.clone(),
            shape,
            cost: self.costs.len() - 1,
            has_preview: slot.id() != StageId::Decoder || self.bundle.autoencoder.is_none(),
        })
    }

    /// Runs the reverse loop of a stage, and returns what it hands to the next stage.
    ///
    /// # Errors
    /// The observer stopped the work; values are not finite; recorded noise has another shape;
    /// `start` asks for more steps than there are.
    ///
    /// # Panics
    /// If there is not one row for each seed, or if the start's shape differs from the sample's.
    #[expect(private_bounds, reason = "the two public traits in one word")]
    pub fn sample<T: Diffuses<D>, const D: usize>(
        &mut self,
        bound: &Bound<'_, T, D>,
        start: Start<D>,
    ) -> Result<T::Output, Error> {
        let mut schedule = bound.schedule()?;
        if let Some(steps) = start.steps {
            schedule = schedule.cleanest(steps)?;
        }
        let (kind, x_prev) = (&bound.settings.sampler, start.x_prev);
        // there is none for the last step
        let draws = if kind.draws_noise() && x_prev.is_none() { schedule.len() - 1 } else { 0 };
        let mut noise = self.noise_of(bound, draws)?;
        // drawn even if another start is given, so that the steps' noise stays the same
        let initial = noise.tensor(Draw::Initial, bound.shape, &self.placement.device);
        let x_t = match (start.x_t, start.x_0) {
            (Some(x_t), _) => x_t,
            (None, Some(x_0)) => {
                let noisiest = vec![schedule.len() - 1; bound.shape[0]];
                schedule.add_noise(x_0, initial, &noisiest)
            }
            (None, None) => heated(initial, bound.diffusion.temperature),
        };
        assert_eq!(x_t.dims(), bound.shape, "the start is of the sample's shape");
        let mut sampler = match x_prev {
            Some(x_prev) => ExactStart { x_t: x_t.clone(), x_prev }.sampler(),
            None => kind.start(&bound.diffusion.variances()),
        };
        let denoiser = bound.denoiser();
        let x_0 = self.listen(bound.listened(), |listen| {
            sample(denoiser, &mut *sampler, &schedule, x_t, &mut *noise, listen)
        })?;
        Ok(bound.config.output(&bound.network, x_0))
    }

    /// What a stage draws: its start, and as many steps, if it is recorded.
    fn noise_of<T: Diffuses<D>, const D: usize>(
        &self,
        bound: &Bound<'_, T, D>,
        draws: usize,
    ) -> Result<Box<dyn NoiseSource>, Error> {
        Ok(match self.noise {
            None => Box::new(SeededNoise::new(&self.seeds, bound.stage.noise_stream())),
            Some(recorded) => {
                Box::new(recorded.stage(bound.stage, draws, (&bound.shape, self.is_doubled))?)
            }
        })
    }

    /// Runs a stage backward: returns the noise from which deterministic DDIM with the same
    /// condition reproduces this output. More steps make it more accurate.
    ///
    /// # Errors
    /// The observer stopped the work; values are not finite.
    #[expect(private_bounds, reason = "the two public traits in one word")]
    pub fn invert<T: Diffuses<D>, const D: usize>(
        &mut self,
        bound: &Bound<'_, T, D>,
        output: &T::Output,
    ) -> Result<Tensor<D>, Error> {
        let x_0 = bound.config.sample_of(&bound.network, output);
        let schedule = bound.schedule()?;
        self.listen(bound.listened(), |listen| invert(bound.denoiser(), &schedule, x_0, listen))
    }

    /// The exact way back: the start from which the same steps, except for the noisiest, give this
    /// output again to the last digits ([`invert_exactly`]).
    ///
    /// # Errors
    /// Fewer than three steps; a stop; values that are not finite.
    #[expect(private_bounds, reason = "the two public traits in one word")]
    pub fn invert_exactly<T: Diffuses<D>, const D: usize>(
        &mut self,
        bound: &Bound<'_, T, D>,
        output: &T::Output,
    ) -> Result<Start<D>, Error> {
        let x_0 = bound.config.sample_of(&bound.network, output);
        let schedule = bound.schedule()?;
        if schedule.len() < 3 {
            let name = format!("steps of the {} for an exact inversion", bound.stage);
            return Err(InvalidSetting::new(name, schedule.len(), "at least 3").into());
        }
        let steps = schedule.len() - 1;
        let schedule = schedule.cleanest(steps)?;
        let mut x_prev = None;
        let x_t = self.listen(bound.listened(), |listen| {
            let start = invert_exactly(bound.denoiser(), &schedule, x_0, listen)?;
            x_prev = Some(start.x_prev);
            Ok(start.x_t)
        })?;
        Ok(Start { x_t: Some(x_t), x_prev, steps: Some(steps), ..Start::default() })
    }

    /// As [`sample`](Self::sample), with a part that stays as it is ([`inpaint`]). Without
    /// resampling, one way down: what is kept has the noise of the start at every level.
    ///
    /// # Errors
    /// A sampler that may remember steps, which are undone here (any but DDPM, Analytic-DPM, DDIM and
    /// Heun); recorded noise of a resampling; one that cannot be walked; a stop; values that are not
    /// finite.
    ///
    /// # Panics
    /// If there is not one row for each seed, or if what is kept has another shape than the sample.
    #[expect(private_bounds, reason = "the two public traits in one word")]
    pub fn inpaint<T: Diffuses<D>, const D: usize>(
        &mut self,
        bound: &Bound<'_, T, D>,
        kept: &Kept<D>,
        resampling: Option<Resampling>,
    ) -> Result<T::Output, Error> {
        let kind = &bound.settings.sampler;
        check_walk(kind, self.noise, resampling)?;
        assert_eq!(kept.x_0.dims(), bound.shape, "what is kept is of the sample's shape");
        assert_eq!(kept.mask.dims(), bound.shape, "a mask for every value");
        let schedule = bound.schedule()?;
        let draws = if kind.draws_noise() { schedule.len() - 1 } else { 0 };
        let mut noise = self.noise_of(bound, draws)?;
        let x_t = noise.tensor(Draw::Initial, bound.shape, &self.placement.device);
        let x_t = heated(x_t, bound.diffusion.temperature);
        let own = resampling.is_none().then(|| x_t.clone());
        let kept = Kept { noise: kept.noise.clone().or(own), ..kept.clone() };
        let mut sampler = kind.start(&bound.diffusion.variances());
        let plan = (&schedule, resampling.unwrap_or(Resampling::NONE));
        let denoiser = bound.denoiser();
        let x_0 = self.listen(bound.listened(), |listen| {
            inpaint(denoiser, &mut *sampler, plan, x_t, &kept, &mut *noise, listen)
        })?;
        Ok(bound.config.output(&bound.network, x_0))
    }

    /// Runs a loop, whose steps are counted, timed and told.
    pub(crate) fn listen<const D: usize>(
        &mut self,
        Listened { stage, cost, preview }: Listened<'_, D>,
        work: impl FnOnce(&mut dyn unclip_core::Observer<D>) -> Result<Tensor<D>, Interrupted>,
    ) -> Result<Tensor<D>, Error> {
        let cost = self.costs.get_mut(cost).filter(|cost| cost.stage == stage);
        // costs can be taken away, and a bound stage can be given to another run
        let mut apart = Vec::new();
        let calls = cost.map_or(&mut apart, |cost| &mut cost.calls);
        let (done, call_total) = &mut self.progress;
        let observer = &mut self.observer;
        let mut last = Instant::now();
        let mut broken = None;
        // reading from a GPU waits for it
        let each = if is_cpu(&self.placement.device) { 1 } else { 16 };
        let mut listen = |event: StepEvent<'_, D>| {
            let elapsed = last.elapsed();
            calls.push(elapsed);
            if (event.index + 1).is_multiple_of(each) && !is_finite(event.x_0) {
                broken = Some(event.index + 1);
                return ControlFlow::Break(());
            }
            let preview = preview(event.x_0);
            let event = Event {
                stage,
                index: event.index,
                total: event.total,
                call_index: *done,
                call_total: *call_total,
                timestep: event.timestep,
                elapsed,
                preview: preview.as_ref(),
            };
            *done += 1;
            let proceed = ControlFlow::Continue(());
            let flow = observer.as_mut().map_or(proceed, |observer| observer(&event));
            last = Instant::now();
            flow
        };
        let worked = work(&mut listen);
        match (broken, worked) {
            (Some(step), _) => Err(Error::NonFinite { stage, step: Some(step) }),
            (None, Err(Interrupted { done, total })) => Err(Error::Stopped { stage, done, total }),
            (None, Ok(x_0)) => finite(stage, x_0),
        }
    }
}

/// Noise of a standard deviation.
fn heated<const D: usize>(noise: Tensor<D>, temperature: f64) -> Tensor<D> {
    if temperature == 1.0 { noise } else { noise * temperature }
}

/// Refuses what an inpainting cannot walk by.
pub(crate) fn check_walk(
    sampler: &SamplerKind,
    noise: Option<&RecordedNoise>,
    resampling: Option<Resampling>,
) -> Result<(), InvalidSetting> {
    if sampler.remembers_steps() {
        let expected =
            "ddpm, analytic_dpm, ddim or heun: others remember steps, which are undone here";
        return Err(InvalidSetting::new("sampler of an inpainting", sampler, expected));
    }
    resampling.map_or(Ok(()), |it| it.validate())?;
    if let (Some(recorded), Some(_)) = (noise, resampling) {
        let expected = "absent: a resampling draws more than a file of noise holds";
        return Err(InvalidSetting::new("recorded noise", recorded.name(), expected));
    }
    Ok(())
}
