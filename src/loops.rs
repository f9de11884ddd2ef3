//! The loops of a bound stage, forward and back: noise, steps, costs, and who hears of them.

use std::time::Instant;

use burn::tensor::Tensor;
use unclip_core::{Draw, Guide, Interrupted, NoiseSource, SeededNoise, StepEvent, invert, sample};

use crate::bound::Diffuses;
use crate::finite::finite;
use crate::{Bound, Error, Event, Run, Slot, StageCost, StageSettings, Start};

impl<'a> Run<'a> {
    pub(crate) fn bind<T: Diffuses<D>, const D: usize>(
        &mut self,
        slot: &'a Slot<T>,
        condition: &T::Condition,
        settings: &StageSettings,
        null: Option<&T::Null>,
    ) -> Result<Bound<'a, T, D>, Error> {
        let config = slot.config();
        let (network, loading) = slot.network(self.placement)?;
        let start = Instant::now();
        let (scale, within) = (settings.guidance_scale, settings.guidance_range);
        let guide = null.map(|null| Guide { null, scale, within });
        let denoiser = config.denoiser(&network, condition, guide);
        self.costs.push(StageCost::new(slot.id(), loading, start, &network));
        Ok(Bound {
            stage: slot.id(),
            config,
            diffusion: config.diffusion(),
            network,
            denoiser,
            settings: settings.clone(),
            shape: config.sample_shape(condition),
            cost: self.costs.len() - 1,
        })
    }

    /// The reverse loop of a stage, and what it gives to the next.
    ///
    /// # Errors
    /// A stop; values that are not finite; recorded noise of another shape; more steps than there
    /// are.
    ///
    /// # Panics
    /// If there is not one row for each seed, or if the start has another shape than the sample.
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
        let mut sampler = bound.settings.sampler.start(bound.diffusion.variance);
        // there is none for the last step
        let draws = if bound.settings.sampler.draws_noise() { schedule.len() - 1 } else { 0 };
        let mut noise: Box<dyn NoiseSource> = match self.noise {
            None => Box::new(SeededNoise::new(self.seeds, bound.stage.noise_stream())),
            Some(recorded) => Box::new(recorded.stage(bound.stage, draws, &bound.shape)?),
        };
        // drawn even if another start is given, so that the steps' noise stays the same
        let initial = noise.tensor(Draw::Initial, bound.shape, &self.placement.device);
        let x_t = start.x_t.unwrap_or(initial);
        assert_eq!(x_t.dims(), bound.shape, "the start is of the sample's shape");
        let denoiser = bound.denoiser();
        let x_0 = self.listen(bound, |listen| {
            sample(denoiser, &mut *sampler, &schedule, x_t, &mut *noise, listen)
        })?;
        Ok(bound.config.output(&bound.network, x_0))
    }

    /// The way back: the noise from which deterministic DDIM with the same condition gives this
    /// output again, the better the more steps there are.
    ///
    /// # Errors
    /// A stop; values that are not finite.
    #[expect(private_bounds, reason = "the two public traits in one word")]
    pub fn invert<T: Diffuses<D>, const D: usize>(
        &mut self,
        bound: &Bound<'_, T, D>,
        output: &T::Output,
    ) -> Result<Tensor<D>, Error> {
        let x_0 = bound.config.sample_of(&bound.network, output);
        let schedule = bound.schedule()?;
        self.listen(bound, |listen| invert(bound.denoiser(), &schedule, x_0, listen))
    }

    /// Runs a loop, whose steps are counted, timed and told.
    fn listen<T: Diffuses<D>, const D: usize>(
        &mut self,
        bound: &Bound<'_, T, D>,
        work: impl FnOnce(&mut dyn unclip_core::Observer<D>) -> Result<Tensor<D>, Interrupted>,
    ) -> Result<Tensor<D>, Error> {
        let stage = bound.stage;
        let cost = self.costs.get_mut(bound.cost).filter(|cost| cost.stage == stage);
        // costs can be taken away, and a bound stage can be given to another run
        let mut apart = Vec::new();
        let calls = cost.map_or(&mut apart, |cost| &mut cost.calls);
        let (done, call_total) = &mut self.progress;
        let observer = &mut self.observer;
        let mut last = Instant::now();
        let mut listen = |event: StepEvent<'_, D>| {
            let elapsed = last.elapsed();
            calls.push(elapsed);
            let preview = bound.config.preview(event.x_0);
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
            let proceed = std::ops::ControlFlow::Continue(());
            let flow = observer.as_mut().map_or(proceed, |observer| observer(&event));
            last = Instant::now();
            flow
        };
        let stopped = |e: Interrupted| Error::Stopped { stage, done: e.done, total: e.total };
        finite(stage, work(&mut listen).map_err(stopped)?)
    }
}
