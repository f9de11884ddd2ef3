//! One step of the cascade: a small picture to one that is several times larger.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Device, Tensor};
use unclip_core::resize::{bicubic, bilinear, nearest};
use unclip_core::{
    Branched, ByStep, Denoiser, DiffusionConfig, InvalidSetting, Network, Stage, Steering,
    clamp_keeping_nan,
};
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::{AnyUNet, Context, LaionContext, embed_classes};

use crate::low_res::{LowRes, known_of};
use crate::{Resize, Rounding, UpsamplerConfig};

/// Predicts a large picture from a noised one and the small one. The paper's have no
/// attention: trained on crops, they work at any size (paper, section 2.3).
#[derive(Module, Debug)]
pub struct Upsampler {
    unet: AnyUNet,
    last_step: Option<AnyUNet>,
    factor: usize,
    residual: bool,
    #[module(skip)]
    resize: Resize,
    #[module(skip)]
    rounding: Option<Rounding>,
    kept: bool,
    reads_captions: bool,
    label_emb: Option<Embedding>,
}

/// What a network reads beside the noised picture, the same in every step.
#[derive(Clone)]
struct Read {
    /// The small picture at the large one's size.
    resized: Tensor<4>,
    /// Channels that are concatenated to the noised picture.
    channels: Tensor<4>,
    /// Addition to the timestep embedding: a caption's embedding, or that of a class.
    emb: Option<Tensor<2>>,
    /// A caption's tokens.
    context: Option<Context>,
}

impl UpsamplerConfig {
    /// The upsampler, with fresh weights.
    pub fn init(&self, device: &Device) -> Upsampler {
        let last_step = self.last_step_network.then(|| self.unet.init(device));
        Upsampler {
            residual: self.residual,
            resize: self.resize,
            rounding: self.rounding,
            kept: self.kept,
            reads_captions: self.d_text.is_some(),
            label_emb: self
                .classes
                .map(|classes| EmbeddingConfig::new(classes, self.unet.d_embedding()).init(device)),
            ..Upsampler::new(self.unet.init(device), last_step, self.factor)
        }
    }
}

impl StageConfig for UpsamplerConfig {
    const STAGE: &'static str = "upsampler";
    const KEYS: KeyMap = KeyMap::new(&[(".Adm.", "."), (".Laion.", ".")]).then(AnyUNet::NAMES);
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
    type Condition = LowRes;
    /// It has no guidance.
    type Null = ();
    type Output = Tensor<4>;

    fn diffusion(&self) -> &DiffusionConfig {
        &self.diffusion
    }

    fn sample_shape(&self, low_res: &LowRes) -> [usize; 4] {
        let [batch, _, height, width] = low_res.picture.dims();
        [batch, Self::CHANNELS, height * self.factor, width * self.factor]
    }

    fn row_bytes(&self, [_, _, height, width]: [usize; 4]) -> usize {
        self.unet.row_bytes([height, width])
    }

    fn bind(&self, upsampler: &Upsampler, low_res: &LowRes) -> Box<dyn Network<4>> {
        upsampler.bind(low_res)
    }

    fn bind_pair(&self, _: &Upsampler, _: &LowRes, (): &()) -> Branched<Box<dyn Network<4>>> {
        panic!("an upsampler has no null condition that guidance could lead away from")
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

    fn known(&self, low_res: &LowRes) -> Option<(Tensor<4>, Tensor<4>)> {
        low_res.kept.as_ref().filter(|_| self.kept).map(known_of)
    }

    /// With the second network for the last step where there is one.
    fn unconstrained(
        &self,
        upsampler: &Upsampler,
        low_res: &LowRes,
        steering: Steering<'_, ()>,
    ) -> Box<dyn Denoiser<4>> {
        assert!(steering.guide.is_none(), "an upsampler has no guidance");
        let read = upsampler.read(low_res);
        let denoiser = |unet: &AnyUNet| {
            let denoiser = self.diffusion.denoiser(upsampler.bind_network(unet, read.clone()));
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
    pub fn new(unet: impl Into<AnyUNet>, last_step: Option<AnyUNet>, factor: usize) -> Self {
        Self {
            unet: unet.into(),
            last_step,
            factor,
            residual: false,
            resize: Resize::Bicubic,
            rounding: None,
            kept: false,
            reads_captions: false,
            label_emb: None,
        }
    }

    /// The small picture at the large one's size, as the network sees it.
    pub fn resize(&self, low_res: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = low_res.dims();
        let [height, width] = [height, width].map(|side| side * self.factor);
        let mut low_res = clamp_keeping_nan(low_res, 1.0);
        if let Some(rounding) = self.rounding {
            let values = (low_res + 1.0) * 127.5;
            let values = match rounding {
                Rounding::Nearest => values.round(),
                Rounding::Down => values.floor(),
            };
            low_res = values / 127.5 - 1.0;
        }
        match self.resize {
            Resize::Bicubic => bicubic(low_res, height, width),
            Resize::Bilinear => bilinear(low_res, height, width),
            Resize::Nearest => nearest(low_res, self.factor),
        }
    }

    /// Fixes the small picture, and what else there is.
    ///
    /// # Panics
    /// Without a caption or a class, if the upsampler reads such.
    pub fn bind(&self, low_res: &LowRes) -> Box<dyn Network<4>> {
        self.bind_network(&self.unet, self.read(low_res))
    }

    fn read(&self, low_res: &LowRes) -> Read {
        let resized = self.resize(low_res.picture.clone());
        let [batch, channels, height, width] = resized.dims();
        let kept = self.kept.then(|| match &low_res.kept {
            Some(kept) => {
                let (known, mask) = known_of(kept);
                Tensor::cat(vec![known * mask.clone(), mask], 1)
            }
            None => Tensor::zeros([batch, channels + 1, height, width], &resized.device()),
        });
        let channels = kept.into_iter().chain([resized.clone()]).collect();
        let text = low_res.text.as_ref().filter(|_| self.reads_captions);
        let context = text.map(|text| Context { tokens: text.tokens.clone(), mask: None });
        let embedded = |table: &Embedding| {
            let classes = low_res.classes.as_ref().expect("a class, which this upsampler reads");
            embed_classes(table, classes)
        };
        let pooled = text.map(|text| text.pooled.clone());
        let emb = self.label_emb.as_ref().map(embedded).or(pooled);
        Read { resized, channels: Tensor::cat(channels, 1), emb, context }
    }

    fn bind_network(&self, unet: &AnyUNet, read: Read) -> Box<dyn Network<4>> {
        let residual = self.residual;
        let Read { resized, channels, emb: added, context } = read;
        let with_channels = move |x_t| Tensor::cat(vec![x_t, channels.clone()], 1);
        let whole = move |answer: Tensor<4>| {
            if residual { answer + resized.clone() } else { answer }
        };
        match unet.clone() {
            AnyUNet::Laion(unet) => Box::new(move |x_t: Tensor<4>, timesteps: Tensor<1>| {
                whole(unet.forward(with_channels(x_t), timesteps, &LaionContext::default()))
            }),
            AnyUNet::Adm(unet) => {
                let contexts = context.map_or(Vec::new(), |context| unet.read(&context));
                Box::new(move |x_t: Tensor<4>, timesteps: Tensor<1>| {
                    let mut emb = unet.embed_time(timesteps);
                    if let Some(added) = &added {
                        emb = emb.clone() + added.clone().cast(emb.dtype());
                    }
                    whole(unet.forward(with_channels(x_t), emb, &contexts))
                })
            }
        }
    }
}
