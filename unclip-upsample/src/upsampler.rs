//! One step of the cascade: a small picture to one that is several times larger.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use unclip_core::resize::bicubic;
use unclip_core::{Denoiser, Network};
use unclip_nn::UNet;

use crate::{LastStep, UpsamplerConfig};

/// Predicts a large picture from a noised one and the small one. Fully convolutional: trained on
/// crops, it works at any size (paper, section 2.3).
#[derive(Module, Debug)]
pub struct Upsampler {
    unet: UNet,
    last_step: Option<UNet>,
    factor: usize,
    residual: bool,
}

impl UpsamplerConfig {
    /// The upsampler, with fresh weights.
    pub fn init(&self, device: &Device) -> Upsampler {
        let last_step = self.last_step_network.then(|| self.unet.init(device));
        Upsampler {
            residual: self.residual,
            ..Upsampler::new(self.unet.init(device), last_step, self.factor)
        }
    }
}

impl Upsampler {
    /// Puts together parts that were loaded one by one.
    pub fn new(unet: UNet, last_step: Option<UNet>, factor: usize) -> Self {
        Self { unet, last_step, factor, residual: false }
    }

    /// Shape of the large pictures for small ones of this shape.
    pub fn output_shape(&self, [batch, channels, height, width]: [usize; 4]) -> [usize; 4] {
        [batch, channels, height * self.factor, width * self.factor]
    }

    /// The small picture at the large one's size, as the network sees it.
    pub fn resize(&self, low_res: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = self.output_shape(low_res.dims());
        bicubic(low_res.clamp(-1.0, 1.0), height, width)
    }

    /// Fixes the small picture, `[batch, 3, height, width]` in [−1, 1].
    pub fn bind(&self, low_res: Tensor<4>) -> impl Network<4> + use<> {
        self.bind_network(&self.unet, self.resize(low_res))
    }

    /// Fixes the small picture and gives the networks' outputs their meaning, with the second
    /// network for the last step where there is one.
    pub fn denoiser(&self, config: &UpsamplerConfig, low_res: Tensor<4>) -> Box<dyn Denoiser<4>> {
        let resized = self.resize(low_res);
        let first = config.diffusion.denoiser(self.bind_network(&self.unet, resized.clone()));
        match &self.last_step {
            None => Box::new(first),
            Some(last) => Box::new(LastStep {
                first,
                last: config.diffusion.denoiser(self.bind_network(last, resized)),
            }),
        }
    }

    fn bind_network(&self, unet: &UNet, resized: Tensor<4>) -> impl Network<4> + use<> {
        let (unet, residual) = (unet.clone(), self.residual);
        move |x_t: Tensor<4>, timesteps: Tensor<1>| {
            let emb = unet.embed_time(timesteps);
            let answer = unet.forward(Tensor::cat(vec![x_t, resized.clone()], 1), emb, &[]);
            if residual { answer + resized.clone() } else { answer }
        }
    }
}
