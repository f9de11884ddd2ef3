//! What a diffusion stage is, whatever it samples.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::{
    Branched, ByStep, ClassifierFree, Denoiser, DiffusionConfig, InParts, Known, NarrowRows,
    Network, TimestepRange, split_rows,
};

/// A diffusion stage of unCLIP: under a condition it turns noise into a sample, and the sample into
/// the input of the next stage. A stage's configuration implements it.
///
/// What a stage samples and what it hands on may differ: the prior samples whitened embeddings and
/// hands on CLIP's.
///
/// `D` is the rank of the sample: 2 for embeddings, 4 for pictures and latents.
pub trait Stage<const D: usize> {
    /// The network.
    type Network;
    /// What it is conditioned on, one row for each sample.
    type Condition: NarrowRows;
    /// What guidance leads away from, one row for each sample; `()` for a stage without guidance.
    type Null: NarrowRows;
    /// What it hands to the next stage.
    type Output;

    /// How the stage denoises.
    fn diffusion(&self) -> &DiffusionConfig;

    /// The sample's shape, `[batch, ..]`.
    fn sample_shape(&self, condition: &Self::Condition) -> [usize; D];

    /// What one sample of this shape holds in memory at once while the network runs on it, in bytes of
    /// f32: an upper estimate. Guidance takes that for each of its conditions.
    fn row_bytes(&self, shape: [usize; D]) -> usize;

    /// Fixes a condition, and computes here what is the same in every step.
    fn bind(&self, network: &Self::Network, condition: &Self::Condition) -> Box<dyn Network<D>>;

    /// Fixes the conditions of a guided call: the B given ones, then B null ones.
    ///
    /// # Panics
    /// If the two batches differ in size, or if the stage has no guidance.
    fn bind_pair(
        &self,
        network: &Self::Network,
        condition: &Self::Condition,
        null: &Self::Null,
    ) -> Branched<Box<dyn Network<D>>>;

    /// Turns a clean sample into the output.
    fn output(&self, network: &Self::Network, x_0: Tensor<D>) -> Self::Output;

    /// The clean sample that [`output`](Self::output) would turn into this: its inverse, for
    /// inversion.
    fn sample_of(&self, network: &Self::Network, output: &Self::Output) -> Tensor<D>;

    /// Fixes the conditions of a call that is guided by each of two conditions apart: the B given
    /// ones, then B without the caption, then B null ones.
    ///
    /// # Panics
    /// As [`bind_pair`](Self::bind_pair), and if the stage does not have a caption and a picture.
    fn bind_three(
        &self,
        _: &Self::Network,
        _: &Self::Condition,
        _: &Self::Null,
    ) -> Branched<Box<dyn Network<D>>> {
        panic!("a stage with conditions of two kinds")
    }

    /// What the condition tells of the clean sample that [`Known`] puts in the place of its
    /// prediction: the sample, and 1 where it is known. Most stages are told nothing of the kind.
    fn known(&self, _: &Self::Condition) -> Option<(Tensor<D>, Tensor<D>)> {
        None
    }

    /// A cheap preview of a clean sample as pictures, `[batch, 3, height, width]` in [−1, 1];
    /// `None` if it is not a picture.
    fn preview(&self, x_0: &Tensor<D>) -> Option<Tensor<4>>;

    /// Fixes a condition and gives the network's output its meaning.
    fn denoiser(
        &self,
        network: &Self::Network,
        condition: &Self::Condition,
        steering: Steering<'_, Self::Null>,
    ) -> Box<dyn Denoiser<D>> {
        let denoiser = self.unconstrained(network, condition, steering);
        match self.known(condition) {
            Some((x_0, mask)) => Box::new(Known { inner: denoiser, x_0, mask }),
            None => denoiser,
        }
    }

    /// As [`denoiser`](Self::denoiser), which calls the network for `most` samples at once at most.
    fn denoiser_in_parts(
        &self,
        network: &Self::Network,
        condition: &Self::Condition,
        steering: Steering<'_, Self::Null>,
        most: usize,
    ) -> Box<dyn Denoiser<D>> {
        let parts = split_rows(self.sample_shape(condition)[0], most);
        if parts.len() <= 1 {
            return self.denoiser(network, condition, steering);
        }
        let part = |rows: Range<usize>| {
            let condition = condition.narrow(rows.start, rows.len());
            let null = steering.guide.map(|guide| guide.null.narrow(rows.start, rows.len()));
            let guide = steering.guide.zip(null.as_ref());
            let guide = guide.map(|(guide, null)| Guide { null, ..guide });
            let steering = Steering { guide, ..steering };
            (rows, self.denoiser(network, &condition, steering))
        };
        Box::new(InParts(parts.into_iter().map(part).collect()))
    }

    /// As [`denoiser`](Self::denoiser), without what is known of the sample.
    fn unconstrained(
        &self,
        network: &Self::Network,
        condition: &Self::Condition,
        steering: Steering<'_, Self::Null>,
    ) -> Box<dyn Denoiser<D>> {
        let (config, quantile) = (self.diffusion(), steering.dynamic_threshold);
        let plain = || config.denoiser(self.bind(network, condition)).with_quantile(quantile);
        let Some(guide) = steering.guide else { return Box::new(plain()) };
        let Guide { null, scale, image_scale, within } = guide;
        let (branched, scales) = match image_scale {
            // of equal scales the branch between falls out
            Some(image) if image != scale => {
                (self.bind_three(network, condition, null), vec![scale, image])
            }
            _ => (self.bind_pair(network, condition, null), vec![scale]),
        };
        let guided = ClassifierFree::new(branched, scales).of_variance(config.guided_variance);
        let guided = config.denoiser(guided).with_quantile(quantile);
        let Some(range) = within else { return Box::new(guided) };
        let is_second = Box::new(move |step: &crate::Step| !range.contains(step.timestep));
        Box::new(ByStep { first: guided, second: plain(), is_second })
    }
}

/// What a stage's predictions are steered by, beside its condition.
#[derive(Debug)]
pub struct Steering<'a, N> {
    /// How it is guided, if it is.
    pub guide: Option<Guide<'a, N>>,
    /// Share of a sample's values that stay within the range, for dynamic thresholding; see
    /// [`Clamped`](crate::Clamped).
    pub dynamic_threshold: Option<f64>,
}

// derived, it would ask that `N` have a default
impl<N> Default for Steering<'_, N> {
    fn default() -> Self {
        Self { guide: None, dynamic_threshold: None }
    }
}

/// How a stage is guided.
#[derive(Debug)]
pub struct Guide<'a, N> {
    /// What guidance leads away from.
    pub null: &'a N,
    /// The guidance scale; see [`ClassifierFree`].
    pub scale: f64,
    /// The scale of the picture, of a stage with a caption and a picture; `scale` is then that of
    /// the caption alone.
    pub image_scale: Option<f64>,
    /// The noise levels at which it acts; all of them if absent. Elsewhere the network is called
    /// with the condition alone, which takes half the time.
    pub within: Option<TimestepRange>,
}

// derived, it would ask that `N` be `Copy`
impl<N> Clone for Guide<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N> Copy for Guide<'_, N> {}
