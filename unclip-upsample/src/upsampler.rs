//! One step of the cascade: a small picture to one that is several times larger.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use unclip_core::resize::bicubic;
use unclip_core::{
    Branched, ByStep, Denoiser, DiffusionConfig, InvalidSetting, Network, Stage, Steering,
};
use unclip_nn::UNet;
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};

use crate::UpsamplerConfig;

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

impl StageConfig for UpsamplerConfig {
    const STAGE: &'static str = "upsampler";
    const KEYS: KeyMap = KeyMap::NONE.then(UNet::NAMES);
    type Network = Upsampler;

    fn validate(&self) -> Result<(), InvalidSetting> {
        self.validate()
    }

    fn layers(&self) -> Layers {
        self.unet.layers().within("unet")
    }

    fn init(&self, device: &Device) -> Upsampler {
        self.init(device)
    }
}

impl Stage<4> for UpsamplerConfig {
    type Network = Upsampler;
    /// The small pictures, `[batch, 3, height, width]` in [−1, 1].
    type Condition = Tensor<4>;
    /// It has no guidance.
    type Null = ();
    type Output = Tensor<4>;

    fn diffusion(&self) -> &DiffusionConfig {
        &self.diffusion
    }

    fn sample_shape(&self, low_res: &Tensor<4>) -> [usize; 4] {
        let [batch, _, height, width] = low_res.dims();
        [batch, Self::CHANNELS, height * self.factor, width * self.factor]
    }

    fn bind(&self, upsampler: &Upsampler, low_res: &Tensor<4>) -> Box<dyn Network<4>> {
        Box::new(upsampler.bind(low_res.clone()))
    }

    fn bind_pair(&self, _: &Upsampler, _: &Tensor<4>, (): &()) -> Branched<Box<dyn Network<4>>> {
        panic!("an upsampler has no condition that guidance could lead away from")
    }

    fn output(&self, _: &Upsampler, x_0: Tensor<4>) -> Tensor<4> {
        x_0
    }

    fn sample_of(&self, _: &Upsampler, picture: &Tensor<4>) -> Tensor<4> {
        picture.clone()
    }

    fn preview(&self, x_0: &Tensor<4>) -> Option<Tensor<4>> {
        Some(x_0.clone())
    }

    /// With the second network for the last step where there is one.
    fn denoiser(
        &self,
        upsampler: &Upsampler,
        low_res: &Tensor<4>,
        steering: Steering<'_, ()>,
    ) -> Box<dyn Denoiser<4>> {
        assert!(steering.guide.is_none(), "an upsampler has no guidance");
        let resized = upsampler.resize(low_res.clone());
        let denoiser = |unet: &UNet| {
            let denoiser = self.diffusion.denoiser(upsampler.bind_network(unet, resized.clone()));
            denoiser.with_quantile(steering.dynamic_threshold)
        };
        let first = denoiser(&upsampler.unet);
        match &upsampler.last_step {
            None => Box::new(first),
            Some(last) => {
                let second = denoiser(last);
                Box::new(ByStep { first, second, is_second: Box::new(|step| step.is_last()) })
            }
        }
    }
}

impl Upsampler {
    /// Assembles parts that were loaded separately.
    pub fn new(unet: UNet, last_step: Option<UNet>, factor: usize) -> Self {
        Self { unet, last_step, factor, residual: false }
    }

    /// The small picture at the large one's size, as the network sees it.
    pub fn resize(&self, low_res: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = low_res.dims();
        bicubic(low_res.clamp(-1.0, 1.0), height * self.factor, width * self.factor)
    }

    /// Fixes the small picture, `[batch, 3, height, width]` in [−1, 1].
    pub fn bind(&self, low_res: Tensor<4>) -> impl Network<4> + use<> {
        self.bind_network(&self.unet, self.resize(low_res))
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
