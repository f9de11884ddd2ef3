//! A condition of a caption alone (GLIDE).

use burn::module::Module;
use unclip_nn::Context;

use crate::condition::{Bound, Condition};

/// The condition of a decoder that reads captions by a text tower of its own, and nothing else: the
/// caption's embedding is added to the timestep embedding, and its tokens are the context, padding
/// included, just as the tower gives them.
#[derive(Module, Debug, Default)]
pub struct CaptionAlone {}

impl CaptionAlone {
    pub(crate) fn forward(&self, condition: &Condition) -> Bound {
        let text = condition.text();
        Bound {
            emb: Some(text.pooled.clone()),
            context: Some(Context { tokens: text.tokens.clone(), mask: None }),
            layout: condition.control.clone(),
            middle: None,
        }
    }
}
