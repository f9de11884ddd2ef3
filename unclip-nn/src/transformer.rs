//! Pre-norm transformer blocks, shared by CLIP's towers and the prior.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Bool, Device, Tensor};
use serde::{Deserialize, Serialize};
use unclip_core::InvalidSetting;

use crate::checkpoint::Layers;
use crate::ops::{gelu, linear, quick_gelu, silu};
use crate::{Attention, KeysValues, LayerNorm, check};

/// The nonlinearity between a block's two linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Exact (erf) GELU.
    Gelu,
    /// x·σ(1.702·x): the cheap GELU of OpenAI's CLIP. Its weights do not work with the exact one.
    QuickGelu,
    /// The first half, times the SiLU of the second: a gate, so that the layer before it is twice as
    /// wide (DALLE2-pytorch).
    Swiglu,
}

impl Activation {
    /// How many times wider its input is than its output.
    pub fn inputs(self) -> usize {
        match self {
            Self::Swiglu => 2,
            Self::Gelu | Self::QuickGelu => 1,
        }
    }

    /// Applies the nonlinearity to every value, or to both halves of every row.
    ///
    /// # Shapes
    /// - `x`: `[.., width · inputs]`
    /// - result: `[.., width]`
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Swiglu => {
                let half = x.dims()[D - 1] / 2;
                x.clone().narrow(D - 1, 0, half) * silu(x.narrow(D - 1, half, half))
            }
            Self::Gelu => gelu(x),
            Self::QuickGelu => quick_gelu(x),
        }
    }
}

/// Sizes of a stack of transformer blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
    /// Width of a token.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Attention heads of each block.
    pub n_heads: usize,
    /// Width between a block's two linear layers.
    pub d_hidden: usize,
    /// Nonlinearity between them.
    pub activation: Activation,
    /// What every norm adds to a variance.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
}

fn default_norm_eps() -> f64 {
    LayerNorm::EPSILON
}

impl TransformerConfig {
    /// How many layers the configuration asks for.
    pub fn layers(&self) -> Layers {
        Layers { field: "n_layers".into(), each: self.n_layers, levels: 1 }
    }

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        self.validate_sizes()?;
        if self.activation == Activation::Swiglu {
            let expected = "gelu or quick_gelu: these blocks have no gate";
            return Err(InvalidSetting::new("activation", "swiglu", expected));
        }
        check::multiple("d_model", self.d_model, "n_heads", self.n_heads)
    }

    /// Checks that the sizes can be used, of blocks whose heads have a width of their own.
    ///
    /// # Errors
    /// Names the first field that cannot.
    pub fn validate_sizes(&self) -> Result<(), InvalidSetting> {
        check::size("d_model", self.d_model)?;
        check::layers("n_layers", self.n_layers)?;
        check::size("n_heads", self.n_heads)?;
        check::size("d_hidden", self.d_hidden)?;
        check::epsilon("norm_eps", self.norm_eps)
    }

    /// A norm like those of the blocks.
    pub fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::new(self.d_model, self.norm_eps, device)
    }

    /// The blocks, with fresh weights.
    pub fn init(&self, device: &Device) -> Transformer {
        Transformer {
            layers: (0..self.n_layers).map(|_| TransformerBlock::new(self, device)).collect(),
        }
    }
}

/// x + attention(norm(x)), then x + mlp(norm(x)).
#[derive(Module, Debug)]
pub struct TransformerBlock {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    c_fc: Linear,
    c_proj: Linear,
    #[module(skip)]
    activation: Activation,
}

impl TransformerBlock {
    /// A block of the given sizes.
    pub fn new(config: &TransformerConfig, device: &Device) -> Self {
        Self {
            norm1: config.norm(device),
            attn: Attention::new(config.d_model, config.n_heads, device),
            norm2: config.norm(device),
            c_fc: LinearConfig::new(config.d_model, config.d_hidden).init(device),
            c_proj: LinearConfig::new(config.d_hidden, config.d_model).init(device),
            activation: config.activation,
        }
    }

    /// Runs attention, then the hidden layer, each added to its input.
    ///
    /// # Shapes
    /// - `x`, result: `[batch, seq, d_model]`
    /// - `hidden`: see [`attend`](crate::attend)
    pub fn forward(&self, x: Tensor<3>, hidden: Option<Tensor<4, Bool>>) -> Tensor<3> {
        let (normed, seen) = self.begin(&x);
        self.finish(x, normed, seen, hidden)
    }

    /// The tokens as attention takes them, and what it lets others see of them.
    fn begin(&self, x: &Tensor<3>) -> (Tensor<3>, KeysValues) {
        let normed = self.norm1.forward(x.clone());
        let seen = self.attn.keys_values(normed.clone());
        (normed, seen)
    }

    /// The rest of the block, once it is known what the tokens see.
    fn finish(
        &self,
        x: Tensor<3>,
        normed: Tensor<3>,
        seen: KeysValues,
        hidden: Option<Tensor<4, Bool>>,
    ) -> Tensor<3> {
        let h = self.attn.forward(normed, seen, hidden);
        let x = x.cast(h.dtype()) + h;
        let h = self.activation.forward(linear(&self.c_fc, self.norm2.forward(x.clone())));
        x + linear(&self.c_proj, h)
    }
}

/// A stack of [`TransformerBlock`]s.
#[derive(Module, Debug)]
pub struct Transformer {
    layers: Vec<TransformerBlock>,
}

/// Keys and values of a sequence's first tokens for later ones, block by block.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<KeysValues>,
}

impl Transformer {
    /// Runs all blocks in order.
    ///
    /// # Shapes
    /// - `x`, result: `[batch, seq, d_model]`
    /// - `hidden`: see [`attend`](crate::attend)
    pub fn forward(&self, x: Tensor<3>, hidden: Option<Tensor<4, Bool>>) -> Tensor<3> {
        self.layers.iter().fold(x, |x, layer| layer.forward(x, hidden.clone()))
    }

    /// Reads the first tokens of a sequence, once for all that may follow. Under a causal mask,
    /// nothing here depends on what follows.
    ///
    /// # Shapes
    /// - `x`: `[batch, first, d_model]`
    /// - `hidden`: see [`attend`](crate::attend)
    pub fn prefill(&self, mut x: Tensor<3>, hidden: Option<Tensor<4, Bool>>) -> KvCache {
        let mut layers = Vec::with_capacity(self.layers.len());
        for (place, layer) in self.layers.iter().enumerate() {
            let (normed, seen) = layer.begin(&x);
            layers.push(seen.clone());
            // nobody reads what the last block would give
            if place + 1 < self.layers.len() {
                x = layer.finish(x, normed, seen, hidden.clone());
            }
        }
        KvCache { layers }
    }

    /// Runs all blocks on the tokens that follow those in `cache`.
    ///
    /// # Shapes
    /// - `x`, result: `[batch, later, d_model]`
    /// - `hidden`: `[batch or 1, 1, later or 1, first + later]`, see [`attend`](crate::attend)
    pub fn forward_cached(
        &self,
        cache: &KvCache,
        x: Tensor<3>,
        hidden: Option<Tensor<4, Bool>>,
    ) -> Tensor<3> {
        self.extend(&mut cache.clone(), x, hidden)
    }

    /// As [`forward_cached`](Self::forward_cached), and remembers the tokens for those that follow
    /// them.
    pub fn extend(
        &self,
        cache: &mut KvCache,
        x: Tensor<3>,
        hidden: Option<Tensor<4, Bool>>,
    ) -> Tensor<3> {
        self.layers.iter().zip(&mut cache.layers).fold(x, |x, (layer, known)| {
            let (normed, seen) = layer.begin(&x);
            *known = known.followed_by(seen);
            layer.finish(x, normed, known.clone(), hidden.clone())
        })
    }
}
