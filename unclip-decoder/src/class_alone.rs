//! A condition of a class, or of nothing (ADM).

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::Device;
use unclip_nn::embed_classes;

use crate::condition::{Bound, Condition};

/// The condition of a decoder that draws things of classes: a learned embedding of the class is added
/// to the timestep embedding. One that draws things of one kind reads nothing.
#[derive(Module, Debug)]
pub struct ClassAlone {
    label_emb: Option<Embedding>,
}

impl ClassAlone {
    /// For so many classes, 0 of a decoder that reads nothing.
    pub(crate) fn new(classes: usize, d_time: usize, device: &Device) -> Self {
        let table = || EmbeddingConfig::new(classes, d_time).init(device);
        Self { label_emb: (classes > 0).then(table) }
    }

    /// Looks the class up.
    ///
    /// # Panics
    /// Without a class, or with one that there is not, if it reads classes.
    pub(crate) fn forward(&self, condition: &Condition) -> Bound {
        let embed = |table: &Embedding| {
            let classes = condition.classes.as_ref().expect("a class, which this decoder reads");
            embed_classes(table, classes)
        };
        Bound { emb: self.label_emb.as_ref().map(embed), ..Bound::default() }
    }
}
