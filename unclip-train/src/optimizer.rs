//! AdamW, with weight decay for some weights only.

use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::Tensor;
use unclip_nn::is_product;

use crate::TrainSettings;

/// The optimizer of a model. Weight decay is for the matrices and kernels of products alone: norms,
/// biases and embeddings say how large or where something is.
pub(crate) fn optimizer<M: Module>(settings: &TrainSettings, model: &M) -> ModuleOptimizer {
    let adam = settings.adam;
    let config = AdamWConfig::new()
        .with_beta_1(adam.beta_1 as f32)
        .with_beta_2(adam.beta_2 as f32)
        .with_epsilon(adam.epsilon as f32);
    let free = ParamGroup::from_ids(without_decay(model));
    let decaying = config.clone().with_weight_decay(settings.weight_decay as f32).init();
    decaying.with_group(free, config.with_weight_decay(0.0).build(), None)
}

/// The parameters that do not decay.
fn without_decay<M: Module>(model: &M) -> Vec<ParamId> {
    let mut visitor = Free::default();
    model.visit(&mut visitor);
    visitor.found
}

#[derive(Default)]
struct Free {
    containers: Vec<bool>,
    name: Vec<String>,
    found: Vec<ParamId>,
}

impl ModuleVisitor for Free {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.containers.push(is_product(container));
        self.name.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.containers.pop();
        self.name.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let is_product = self.containers.last().is_some_and(|it| *it);
        let is_weight = self.name.last().is_some_and(|name| name == "weight");
        if !(is_product && is_weight) {
            self.found.push(param.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::recipe;

    /// Names of the parameters that decay, and of those that do not, with their numbers of dimensions.
    #[derive(Default)]
    struct Names {
        free: Vec<ParamId>,
        path: Vec<String>,
        of: [Vec<(String, usize)>; 2],
    }

    impl ModuleVisitor for Names {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let decays = usize::from(!self.free.contains(&param.id));
            self.of[decays].push((self.path.join("."), D));
        }
    }

    fn names<M: Module>(model: &M) -> [Vec<(String, usize)>; 2] {
        let mut names = Names { free: without_decay(model), ..Names::default() };
        model.visit(&mut names);
        names.of
    }

    #[test]
    fn norms_biases_and_embeddings_do_not_decay() {
        let device = Device::flex();
        let models = [
            names(&recipe::text_encoder(20).init(&device)),
            names(&recipe::image_encoder().init(&device)),
            names(&recipe::prior().init(&device)),
            names(&recipe::ar_prior().init(&device)),
            names(&recipe::decoder().init(&device)),
            names(&recipe::upsamplers()[0].init(&device)),
        ];
        for [free, decaying] in models {
            assert!(!free.is_empty() && !decaying.is_empty());
            for (name, dims) in decaying {
                assert!(dims >= 2 && name.ends_with("weight"), "{name} decays");
                assert!(!name.contains("norm"), "{name} decays");
            }
            for (name, dims) in free {
                let is_place = ["embedding", "codebook", "whitening.", ".clip."];
                let known = dims == 1 || is_place.iter().any(|it| name.contains(it));
                assert!(known, "{name} of {dims} dimensions does not decay");
            }
        }
    }
}
