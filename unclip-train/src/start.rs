//! What a network starts from: the statistics of what it reads, branches that add nothing yet, or
//! weights that are there already.

use burn::linalg::svd;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use unclip_nn::Whitening;

/// Sweeps for each singular value after which the decomposition would be given up.
const SWEEPS: usize = 10_000;

/// Whitening of some embeddings that puts each as close to its place in `places` as turning can
/// (the orthogonal Procrustes problem): a network that knew those places has less to learn anew.
///
/// # Shapes
/// - `places`: `[n, d_embedding]`, where another CLIP's embeddings of the same pictures lie when
///   they are whitened
/// - `embeddings`: `[n, d_embedding]`
pub fn whitening_towards(places: Tensor<2>, embeddings: Tensor<2>) -> Whitening {
    let whitening = Whitening::of(embeddings.clone());
    let products = whitening.forward(embeddings).transpose().matmul(places);
    let (left, _, right) = svd::<2, 1>(products, SWEEPS);
    whitening.turned(left.matmul(right))
}

/// The last layer of each residual branch and of a whole U-Net.
const LAST: [&str; 3] = ["conv2", "to_out", "conv_out"];

/// The same U-Net with every residual branch and the output silent: it starts as if it were not
/// there, and each block learns what to add (Dhariwal & Nichol 2021).
pub fn silenced<M: Module>(network: M) -> M {
    network.map(&mut Silence { path: Vec::new() })
}

struct Silence {
    path: Vec<String>,
}

impl ModuleMapper for Silence {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.path.iter().any(|name| LAST.contains(&name.as_str())) {
            param.map(|weight| weight.zeros_like())
        } else {
            param
        }
    }
}

/// The same network with all its weights ready to be trained, but for the statistics of a
/// [`Whitening`]: a network that was loaded takes no gradients.
pub fn trainable<M: Module>(network: M) -> M {
    network.map(&mut Wake { fixed: 0 })
}

/// How deep the current parameter lies in what is not trained.
struct Wake {
    fixed: usize,
}

impl Wake {
    fn is_fixed(container: &str) -> bool {
        ["Struct:Whitening", "Struct:Codebook"].contains(&container)
    }
}

impl ModuleMapper for Wake {
    fn enter_module(&mut self, _: &str, container: &str) {
        self.fixed += usize::from(Self::is_fixed(container));
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.fixed -= usize::from(Self::is_fixed(container));
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.set_require_grad(self.fixed == 0)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::ModuleVisitor;
    use burn::tensor::Device;
    use unclip_nn::checkpoint::{StageFiles, save_stage};
    use unclip_nn::{Precision, UNetConfig};
    use unclip_prior::DiffusionPriorConfig;

    use super::*;
    use crate::draws::Draws;
    use crate::recipe;

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    #[test]
    fn whitened_embeddings_have_no_favorite_direction() {
        let device = Device::flex();
        let (n, d) = (2000, 6);
        let mut draws = Draws::new(1, 1);
        // correlated, of very different size, not around zero
        let mix = Tensor::<2>::from_data(draws.normal([d, d]), &device) * 0.3;
        let mix = mix + Tensor::eye(d, &device);
        let scale = Tensor::<2>::from_floats([[5.0, 1.0, 1.0, 0.5, 0.5, 0.4]], &device);
        let cloud = Tensor::<2>::from_data(draws.normal([n, d]), &device);
        let cloud = (cloud * scale).matmul(mix) + 3.0;
        let whitening = Whitening::of(cloud.clone());
        let white = whitening.forward(cloud.clone());
        let covariance = white.clone().transpose().matmul(white.clone()) / n as f64;
        for (at, value) in values(covariance).into_iter().enumerate() {
            let (row, column) = (at / d, at % d);
            if row == column {
                assert!((0.5..1.001).contains(&value), "{at}: {value}")
            } else {
                assert!(value.abs() < 1e-3, "{at}: {value}")
            }
        }
        let back = values(whitening.inverse(white));
        assert!(back.iter().zip(values(cloud)).all(|(a, b)| (a - b).abs() < 1e-3));
    }

    #[test]
    fn another_view_of_the_same_pictures_falls_where_the_first_fell() {
        let device = Device::flex();
        let (n, d) = (2000, 6);
        let mut draws = Draws::new(1, 2);
        let mut noise = |shape| Tensor::<2>::from_data(draws.normal(shape), &device);
        let first = noise([n, d]);
        let other = first.clone().matmul(noise([d, d])) - 2.0;
        let places = Whitening::of(first.clone()).forward(first);
        let before = Whitening::of(other.clone()).forward(other.clone());
        let after = whitening_towards(places.clone(), other.clone()).forward(other);
        let far = |a: Tensor<2>| (a - places.clone()).powf_scalar(2.0).mean().into_scalar::<f32>();
        assert!(far(before) > 0.5);
        assert!(far(after.clone()) < 0.01, "{}", far(after));
    }

    /// Counts the weights that take gradients, and those that do not.
    #[derive(Default)]
    struct Count([usize; 2]);

    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0[usize::from(!param.is_require_grad())] += 1;
        }
    }

    fn count<M: Module>(network: &M) -> [usize; 2] {
        let mut count = Count::default();
        network.visit(&mut count);
        count.0
    }

    #[test]
    fn a_loaded_network_can_be_trained_but_for_its_statistics() {
        let (device, folder) = (Device::flex(), tempfile::tempdir().expect("a folder"));
        let config = recipe::prior();
        let fresh = config.init(&device);
        let expected = count(&fresh.clone().train());
        assert_eq!(expected[1], 3, "mean, deviation and basis");
        save_stage(folder.path(), "", &config, &fresh, Precision::F16).expect("it can be saved");
        let files = StageFiles::<DiffusionPriorConfig>::open(folder.path()).expect("it is there");
        let loaded = files.load(&device).expect("it can be loaded");
        assert_eq!(count(&loaded.clone().train())[0], 0);
        assert_eq!(count(&trainable(loaded).train()), expected);
    }

    #[test]
    fn a_silenced_network_answers_nothing_and_learns_all_the_same() {
        let device = Device::flex();
        let decoder = recipe::decoder();
        let own = decoder.unet.adm().unwrap().clone();
        let config = UNetConfig { block_out_channels: vec![8, 16], ..own };
        let config = UNetConfig { d_context: None, attention_resolutions: vec![], ..config };
        let unet = silenced(config.init(&device)).train();
        let x = Draws::new(1, 1).normal([1, config.in_channels, 32, 32]);
        let x = Tensor::from_data(x, &unet.devices()[0]);
        let emb = unet.embed_time(Tensor::from_floats([500.0], &unet.devices()[0]));
        let output = unet.forward(x, emb, &[]);
        assert!(output.clone().into_data().iter::<f32>().all(|v| v == 0.0));
        let gradients = (output - 1.0).powf_scalar(2.0).mean().backward();
        let gradients = burn::optim::GradientsParams::from_grads(gradients, &unet);
        let norm = crate::gradients::global_norm(&unet, &gradients).unwrap();
        assert!(norm.into_scalar::<f32>() > 0.0);
    }
}
