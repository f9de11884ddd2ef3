//! A condition of an image embedding alone (Kandinsky 2.2).

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor};
use unclip_core::image::PICTURE_CHANNELS;
use unclip_nn::ops::{conv, linear, silu};
use unclip_nn::{Context, LayerNorm};

use crate::condition::{Bound, Condition};
use crate::{Control, DecoderConfig};

/// The condition of a decoder that reads no captions: its embedding as an addition to the timestep
/// embedding and as context tokens, both normalized.
#[derive(Module, Debug)]
pub struct ImageAlone {
    image_proj: Linear,
    image_norm: LayerNorm,
    tokens_proj: Linear,
    tokens_norm: LayerNorm,
    hint: Option<Hint>,
    image_tokens: usize,
}

/// Convolutions, with SiLU between them, that make a coarse picture of channels of a picture that
/// the result follows.
#[derive(Module, Debug)]
struct Hint {
    convs: Vec<Conv2d>,
}

impl Hint {
    /// Channels after each but the last convolution, and how far each steps.
    const CHANNELS: [(usize, usize); 7] =
        [(16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2)];

    fn new(channels: usize, device: &Device) -> Self {
        let mut channels_in = PICTURE_CHANNELS;
        let layers = Self::CHANNELS.into_iter().chain([(channels, 1)]);
        let layer = |(channels_out, stride): (usize, usize)| {
            let sides = [std::mem::replace(&mut channels_in, channels_out), channels_out];
            Conv2dConfig::new(sides, [3, 3])
                .with_stride([stride, stride])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        Self { convs: layers.map(layer).collect() }
    }

    /// From `[batch, 3, 8 height, 8 width]` to `[batch, channels, height, width]`.
    fn forward(&self, picture: Tensor<4>) -> Tensor<4> {
        let mut convs = self.convs.iter();
        let first = convs.next().map_or(picture.clone(), |first| conv(first, picture));
        convs.fold(first, |x, layer| conv(layer, silu(x))).cast(DType::F32)
    }
}

impl ImageAlone {
    pub(crate) fn new(config: &DecoderConfig, device: &Device) -> Self {
        let (d_time, d_context) = (config.unet.d_embedding(), config.unet.d_context().unwrap_or(1));
        let from_clip = |d_out| LinearConfig::new(config.d_embedding, d_out).init(device);
        let norm = |width| LayerNorm::new(width, LayerNorm::EPSILON, device);
        Self {
            image_proj: from_clip(d_time),
            image_norm: norm(d_time),
            tokens_proj: from_clip(d_context * config.image_tokens),
            tokens_norm: norm(d_context),
            hint: (config.control == Some(Control::Hint))
                .then(|| Hint::new(config.channels, device)),
            image_tokens: config.image_tokens,
        }
    }

    pub(crate) fn forward(&self, condition: &Condition) -> Bound {
        let image = condition.image();
        let emb = self.image_norm.forward(linear(&self.image_proj, image.0.clone()));
        let tokens = linear(&self.tokens_proj, image.0.clone());
        let [batch, width] = tokens.dims();
        // here, other than in Karlo, one token follows the other
        let tokens = tokens.reshape([batch, self.image_tokens, width / self.image_tokens]);
        let context = Context { tokens: self.tokens_norm.forward(tokens), mask: None };
        let control = condition.control.clone();
        let layout = match &self.hint {
            Some(network) => {
                let read = network.forward(control.expect("a hint"));
                // one picture is a hint for all
                Some(if read.dims()[0] == 1 { read.repeat_dim(0, batch) } else { read })
            }
            None => control,
        };
        Bound { emb: Some(emb), context: Some(context), layout, ..Bound::default() }
    }
}
