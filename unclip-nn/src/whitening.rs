//! Embeddings in coordinates in which every direction has the same variance.

use burn::linalg::svd;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

/// A direction that carries less than this share of the mean variance is not made louder any
/// further.
const FLOOR: f64 = 1e-3;

/// The least variance that is told from none.
const LEAST: f64 = 1e-12;

/// Sweeps for each singular value after which the decomposition would be given up.
const SWEEPS: usize = 10_000;

/// Subtracts a mean, rotates, and divides by standard deviations, all of them fixed.
///
/// Without a basis, each coordinate is whitened separately, as in published priors. In the basis of
/// principal components, all directions of the embeddings get the same weight, even those that no
/// coordinate shows: what a CLIP knows about positions is a small part of its variance.
///
/// Tensors in files: `mean` and `std`, `[1, d_embedding]`; `basis`, `[d_embedding, d_embedding]`
/// with one direction in each column.
#[derive(Module, Debug)]
pub struct Whitening {
    mean: Param<Tensor<2>>,
    std: Param<Tensor<2>>,
    basis: Option<Param<Tensor<2>>>,
}

impl Whitening {
    /// A whitening that leaves embeddings unchanged, with or without a basis.
    pub fn identity(d_embedding: usize, has_basis: bool, device: &Device) -> Self {
        let row = |value: f32| fixed(Tensor::full([1, d_embedding], value, device));
        let basis = || fixed(Tensor::eye(d_embedding, device));
        Self { mean: row(0.0), std: row(1.0), basis: has_basis.then(basis) }
    }

    /// Whitening along the principal components of some embeddings, the loudest direction first.
    ///
    /// # Shapes
    /// - `embeddings`: `[n, d_embedding]`, many more than there are directions
    pub fn of(embeddings: Tensor<2>) -> Self {
        let [n, d] = embeddings.dims();
        let device = embeddings.device();
        let mean = embeddings.clone().mean_dim(0);
        let centered = embeddings - mean.clone();
        // above 0 where embeddings do not differ at all
        let scale = centered.clone().square().mean().clamp_min(LEAST).unsqueeze::<2>();
        let covariance = centered.clone().transpose().matmul(centered) / n as f64;
        // with the floor already: it turns no direction, and the decomposition of directions without any
        // variance would not come to an end
        let conditioned = covariance / scale.clone() + Tensor::eye(d, &device) * FLOOR;
        let (basis, variances, _) = svd::<2, 1>(conditioned, SWEEPS);
        let std = (variances.unsqueeze::<2>() * scale).sqrt();
        Self::new(mean, std, Some(basis))
    }

    /// A whitening with these statistics, none of which is trained.
    ///
    /// # Shapes
    /// - `mean`, `std`: `[1, d_embedding]`, `std` above 0
    /// - `basis`: `[d_embedding, d_embedding]`, with orthonormal columns if
    ///   [`inverse`](Self::inverse) is to undo it
    pub fn new(mean: Tensor<2>, std: Tensor<2>, basis: Option<Tensor<2>>) -> Self {
        Self { mean: fixed(mean), std: fixed(std), basis: basis.map(fixed) }
    }

    /// The same whitening, followed by a rotation or reflection. [`inverse`](Self::inverse) cannot
    /// undo it.
    ///
    /// # Shapes
    /// - `rotation`: `[d_embedding, d_embedding]`, orthonormal
    ///
    /// # Panics
    /// Without a basis.
    #[must_use]
    pub fn turned(self, rotation: Tensor<2>) -> Self {
        let basis = self.basis.expect("a whitening with a basis").val();
        let basis = (basis / self.std.val()).matmul(rotation);
        Self::new(self.mean.val(), self.std.val().ones_like(), Some(basis))
    }

    /// From embeddings to whitened ones: `[batch, d_embedding]`.
    pub fn forward(&self, embedding: Tensor<2>) -> Tensor<2> {
        let centered = embedding - self.mean.val();
        let turned = match &self.basis {
            Some(basis) => centered.matmul(basis.val()),
            None => centered,
        };
        turned / self.std.val()
    }

    /// From whitened embeddings back: `[batch, d_embedding]`.
    pub fn inverse(&self, whitened: Tensor<2>) -> Tensor<2> {
        let scaled = whitened * self.std.val();
        let turned = match &self.basis {
            // copied: products with a transposed view round differently for different numbers of
            // rows, and an embedding must not depend on its batch
            Some(basis) => {
                let [rows, columns] = basis.dims();
                let turned_back = basis.val().transpose().reshape([rows * columns]);
                scaled.matmul(turned_back.reshape([columns, rows]))
            }
            None => scaled,
        };
        turned + self.mean.val()
    }

    /// The embeddings with nothing but their first `k` coordinates, the mean in place of the
    /// others: `[batch, d_embedding]`.
    pub fn keep(&self, embedding: Tensor<2>, k: usize) -> Tensor<2> {
        let whitened = self.forward(embedding);
        let [batch, width] = whitened.dims();
        let place = Tensor::arange(0..width as i64, &whitened.device());
        let beyond = place.greater_equal_elem(k as i64).unsqueeze::<2>().expand([batch, width]);
        self.inverse(whitened.mask_fill(beyond, 0.0))
    }

    /// How many coordinates, from the first on, hold this share of the variance.
    pub fn coordinates_holding(&self, share: f64) -> usize {
        let variances = self.std.val().into_data();
        let variances: Vec<f64> = variances.iter::<f64>().map(|std| std * std).collect();
        let wanted = share * variances.iter().sum::<f64>();
        let mut held = 0.0;
        let before = variances.iter().take_while(|variance| {
            held += **variance;
            held < wanted
        });
        (before.count() + 1).min(variances.len())
    }

    /// The mean of the embeddings: `[1, d_embedding]`.
    pub fn mean(&self) -> Tensor<2> {
        self.mean.val()
    }
}

/// A parameter that takes no gradients.
fn fixed(value: Tensor<2>) -> Param<Tensor<2>> {
    Param::from_tensor(value).set_require_grad(false)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    #[test]
    fn a_turned_cloud_is_whitened_and_comes_back() {
        let device = Device::flex();
        let tensor = |rows: [[f32; 2]; 4]| Tensor::<2>::from_floats(rows, &device);
        // along (3, 4)/5 with deviation 2, across it with deviation 0.5, around (1, -1)
        let at =
            |a: f32, b: f32| [1.0 + (3.0 * a - 4.0 * b) / 5.0, -1.0 + (4.0 * a + 3.0 * b) / 5.0];
        let cloud = tensor([at(2.0, 0.5), at(-2.0, 0.5), at(2.0, -0.5), at(-2.0, -0.5)]);
        let whitening = Whitening::new(
            Tensor::from_floats([[1.0, -1.0]], &device),
            Tensor::from_floats([[2.0, 0.5]], &device),
            Some(Tensor::from_floats([[0.6, -0.8], [0.8, 0.6]], &device)),
        );
        let white = whitening.forward(cloud.clone());
        let expected = [1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0];
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&values(white.clone()), &expected), "{white}");
        assert!(close(&values(whitening.inverse(white)), &values(cloud)));
    }

    /// Embeddings that hardly differ, in few directions, or at two places alone.
    #[test]
    fn clouds_of_every_kind_have_a_basis() {
        let device = Device::flex();
        for d in [8, 64, 128] {
            for (rows, places) in [(2, 2), (12, 2), (12, 3), (20, 20), (200, 7)] {
                for spread in [1.0, 1e-2, 1e-4, 1e-6, 1e-8, 0.0] {
                    let values = (0..rows * d).map(|at| {
                        let (row, column) = (at / d % places, at % d);
                        let base = (column * 7919 % 2003) as f32 / 1001.0 - 1.0;
                        base + spread
                            * (((row * d + column) * 104_729 % 4001) as f32 / 2000.0 - 1.0)
                    });
                    let values: Vec<f32> = values.collect();
                    let cloud = Tensor::<1>::from_floats(values.as_slice(), &device);
                    let cloud = cloud.reshape([rows, d]);
                    let whitening = Whitening::of(cloud.clone());
                    let back = whitening.inverse(whitening.forward(cloud.clone()));
                    let far = (back - cloud).abs().max().into_scalar::<f32>();
                    assert!(far < 1e-4, "{rows} rows at {places} places, spread {spread}: {far}");
                }
            }
        }
    }

    #[test]
    fn an_embedding_does_not_depend_on_its_batch() {
        let (device, d) = (Device::flex(), 96);
        let noise = |rows: usize| {
            let values = (0..rows * d).map(|i| ((i * 7919 % 2003) as f32 - 1001.0) / 1001.0);
            let values: Vec<f32> = values.collect();
            Tensor::<1>::from_floats(values.as_slice(), &device).reshape([rows, d])
        };
        let mean = noise(1);
        let whitening = Whitening::new(mean.clone(), mean + 2.0, Some(noise(d)));
        let batch = noise(7);
        let whole = [whitening.forward(batch.clone()), whitening.inverse(batch.clone())];
        for row in 0..7 {
            let alone = batch.clone().narrow(0, row, 1);
            let alone = [whitening.forward(alone.clone()), whitening.inverse(alone)];
            for (whole, alone) in whole.iter().zip(alone) {
                assert_eq!(values(whole.clone().narrow(0, row, 1)), values(alone));
            }
        }
    }

    #[test]
    fn some_coordinates_are_kept() {
        let device = Device::flex();
        let row = |row: [f32; 3]| Tensor::from_floats([row], &device);
        let whitening = Whitening::new(row([1.0, 2.0, 3.0]), row([2.0, 4.0, 5.0]), None);
        let embedding = row([7.0, 8.0, 9.0]);
        for (k, expected) in [
            (0, [1.0, 2.0, 3.0]),
            (1, [7.0, 2.0, 3.0]),
            (2, [7.0, 8.0, 3.0]),
            (3, [7.0, 8.0, 9.0]),
            (9, [7.0, 8.0, 9.0]),
        ] {
            assert_eq!(values(whitening.keep(embedding.clone(), k)), expected, "{k}");
        }
    }

    #[test]
    fn variance_is_held_by_the_loudest() {
        let row = |row: [f32; 4]| Tensor::from_floats([row], &Device::flex());
        let whitening = Whitening::new(row([0.0; 4]), row([3.0, 2.0, 1.0, 0.5]), None);
        // of 14.25: 9, 13, 14, 14.25
        for (share, expected) in
            [(0.0, 1), (0.6, 1), (0.7, 2), (0.91, 2), (0.92, 3), (0.99, 4), (1.0, 4)]
        {
            assert_eq!(whitening.coordinates_holding(share), expected, "{share}");
        }
    }

    #[test]
    fn the_identity_changes_nothing() {
        let device = Device::flex();
        let x = Tensor::<2>::from_floats([[0.5, -3.0, 2.0]], &device);
        for has_basis in [false, true] {
            let whitening = Whitening::identity(3, has_basis, &device);
            assert_eq!(values(whitening.forward(x.clone())), values(x.clone()));
            assert_eq!(values(whitening.inverse(x.clone())), values(x.clone()));
        }
    }
}
