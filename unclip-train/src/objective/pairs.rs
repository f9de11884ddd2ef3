//! Losses that hold each item of a batch against all others, where the batch is cut into parts.
//!
//! The gradient of such a loss is the sum over the parts of its gradients through each of them alone, the
//! others held fixed: the embeddings of all parts are computed first, without gradients, and then each
//! part once more among them (as gradient caching does; Gao et al. 2021).

use burn::tensor::{Device, Tensor};

/// What a part says: embeddings of captions and of pictures, `[items, d_embedding]`, without autodiff.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// Of the captions.
    pub text: Tensor<2>,
    /// Of the pictures.
    pub image: Tensor<2>,
}

/// All parts of a batch, and which of them is meant.
#[derive(Debug, Clone)]
pub struct Among {
    /// Which part.
    pub place: usize,
    /// What each of them says.
    pub all: Vec<Pairs>,
}

impl Among {
    /// The same parts, seen from one of them.
    pub(crate) fn seen_from(all: &[Pairs], place: usize, device: &Device) -> Self {
        let moved = |it: &Pairs| Pairs {
            text: it.text.clone().to_device(device),
            image: it.image.clone().to_device(device),
        };
        Self { place, all: all.iter().map(moved).collect() }
    }

    /// Whether it is the part that speaks for what all parts have in common.
    pub(super) fn is_first(&self) -> bool {
        self.place == 0
    }

    /// The embeddings of the whole batch, texts and images, with a part's own in its place.
    pub(super) fn joined(&self, text: Tensor<2>, image: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let whole = |own: Tensor<2>, of: fn(&Pairs) -> &Tensor<2>| {
            // tensors of other strategies do not go together
            let strategy = own.gradient_checkpointing_strategy();
            let other = |it: Tensor<2>| match strategy {
                Some(own) => Tensor::from_inner(it).with_gradient_checkpointing_strategy(own),
                None => it,
            };
            let parts = self.all.iter().enumerate().map(|(place, it)| {
                if place == self.place { own.clone() } else { other(of(it).clone()) }
            });
            Tensor::cat(parts.collect(), 0)
        };
        (whole(text, |it| &it.text), whole(image, |it| &it.image))
    }

    /// A part's share of the loss of the whole batch: all shares together are the loss, and their
    /// gradients its gradient.
    pub(super) fn share(&self, whole: Tensor<1>) -> Tensor<1> {
        if self.is_first() { whole } else { whole.clone() - whole.detach() }
    }
}
