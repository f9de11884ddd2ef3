//! Group normalization fused with a per-image scale and shift and with SiLU.

use super::moments::{Moments, MomentsOf, moments};
use super::simd::{
    First, JOB_VALUES, Map, Map2, Product, RunMap, arch, map, map2, sigmoid, silu_slope, sum2,
    update,
};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Sizes of a group normalization of `x`, `[n, c, pixels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupShape {
    /// Number of images, `n`.
    pub batch: usize,
    /// Channels, `c`.
    pub channels: usize,
    /// Pixels of one channel, `h * w`.
    pub pixels: usize,
    /// Groups of consecutive channels that share their statistics; divides `c`.
    pub groups: usize,
}

impl GroupShape {
    /// Values of the tensor, `[n, c, pixels]`.
    pub fn values(&self) -> usize {
        self.batch * self.channels * self.pixels
    }

    /// Values of the statistics, `[n, groups]`.
    pub fn statistics(&self) -> usize {
        self.batch * self.groups
    }

    /// Channels of one group.
    fn width(&self) -> usize {
        self.channels / self.groups
    }

    /// Groups per parallel job.
    fn job(&self) -> usize {
        (JOB_VALUES / (self.width() * self.pixels).max(1)).max(1)
    }

    fn check(&self, affine: Affine<'_>, tensors: &[usize], statistics: &[usize]) {
        assert!(self.groups > 0 && self.channels.is_multiple_of(self.groups), "groups");
        assert!(tensors.iter().all(|len| *len == self.values()), "tensor length");
        assert!(statistics.iter().all(|len| *len == self.statistics()), "statistics length");
        assert_eq!(affine.gamma.len(), self.channels, "gamma length");
        assert_eq!(affine.beta.len(), self.channels, "beta length");
        if let Some((scale, shift)) = affine.modulation {
            assert_eq!(scale.len(), self.batch * self.channels, "scale length");
            assert_eq!(shift.len(), self.batch * self.channels, "shift length");
        }
    }
}

/// What follows the normalization: `act((xhat * gamma + beta) * (1 + scale) + shift)`.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// Factor per channel, `[c]`.
    pub gamma: &'a [f32],
    /// Offset per channel, `[c]`.
    pub beta: &'a [f32],
    /// `scale` and `shift` per image and channel, `[n, c]` each.
    pub modulation: Option<(&'a [f32], &'a [f32])>,
    /// Whether `act` is SiLU; otherwise there is none.
    pub silu: bool,
}

impl Affine<'_> {
    /// `1 + scale` and `shift` of plane `i`, counted through images and channels.
    fn modulation(&self, i: usize) -> (f32, f32) {
        self.modulation.map_or((1.0, 0.0), |(scale, shift)| (1.0 + scale[i], shift[i]))
    }
}

/// Group normalization, an affine map and optionally SiLU, in one go.
///
/// `x` is `[n, c, pixels]`; `y` of the same shape and `mean` and `rstd`, `[n, groups]`,
/// are overwritten:
/// `xhat = (x - mean) * rstd` with the mean and `rstd = 1 / sqrt(variance + eps)` of the
/// group (biased variance), `y = act((xhat * gamma + beta) * (1 + scale) + shift)`.
///
/// # Panics
/// If a length does not fit `shape`, or if `groups` does not divide `c`.
pub fn group_norm(
    shape: GroupShape,
    x: &[f32],
    affine: Affine<'_>,
    eps: f32,
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    shape.check(affine, &[x.len(), y.len()], &[mean.len(), rstd.len()]);
    if x.is_empty() {
        return;
    }
    let (arch, len) = (arch(), shape.width() * shape.pixels);
    if len >= LARGE_GROUP {
        // one after the other, each by all threads
        let groups = x.chunks_exact(len).zip(y.chunks_exact_mut(len));
        let statistics = mean.iter_mut().zip(rstd);
        for (group, ((x, y), (mean, rstd))) in groups.zip(statistics).enumerate() {
            let first = group * shape.width();
            (*mean, *rstd) = Forward { shape, first, affine, eps, x, y }.by_all_threads();
        }
        return;
    }
    (x.par_chunks_exact(len), y.par_chunks_exact_mut(len), mean, rstd)
        .into_par_iter()
        .with_min_len(shape.job())
        .enumerate()
        .for_each(|(group, (x, y, mean, rstd))| {
            let first = group * shape.width();
            (*mean, *rstd) = arch.dispatch(Forward { shape, first, affine, eps, x, y });
        });
}

/// Values of a group that does not fit into the second-level cache.
const LARGE_GROUP: usize = 1 << 19;

/// One group of the forward pass.
struct Forward<'a> {
    shape: GroupShape,
    /// The group's first plane, counted through images and channels.
    first: usize,
    affine: Affine<'a>,
    eps: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, f32) {
        let (mean, rstd) = statistics(moments(simd, self.x), self.eps);
        let pixels = self.shape.pixels;
        let planes = self.x.chunks_exact(pixels).zip(self.y.chunks_exact_mut(pixels));
        for (i, (x, y)) in planes.enumerate() {
            let line = Line::new(self.shape, self.affine, self.first + i, mean, rstd);
            if self.affine.silu { map(simd, LineSilu(line), x, y) } else { map(simd, line, x, y) }
        }
        (mean, rstd)
    }
}

impl Forward<'_> {
    /// As alone, but for the order in which the moments of pieces are merged.
    fn by_all_threads(self) -> (f32, f32) {
        let arch = arch();
        let pieces = self.x.par_chunks(JOB_VALUES).map(|x| arch.dispatch(MomentsOf(x)));
        let pieces: Vec<Moments> = pieces.collect();
        let all = pieces.into_iter().fold(Moments::default(), Moments::merged);
        let (mean, rstd) = statistics(all, self.eps);
        let pixels = self.shape.pixels;
        let planes = (self.x.par_chunks_exact(pixels), self.y.par_chunks_exact_mut(pixels));
        planes.into_par_iter().enumerate().for_each(|(i, (x, y))| {
            let line = Line::new(self.shape, self.affine, self.first + i, mean, rstd);
            let pieces = (x.par_chunks(JOB_VALUES), y.par_chunks_mut(JOB_VALUES));
            pieces.into_par_iter().for_each(|(x, y)| {
                if self.affine.silu {
                    arch.dispatch(RunMap(LineSilu(line), x, y))
                } else {
                    arch.dispatch(RunMap(line, x, y))
                }
            });
        });
        (mean, rstd)
    }
}

/// Mean, and one over the standard deviation.
#[inline(always)]
fn statistics(Moments { count, mean, m2 }: Moments, eps: f32) -> (f32, f32) {
    (mean as f32, (1.0 / (m2 / count + f64::from(eps)).sqrt()) as f32)
}

/// The straight line a plane goes through before the activation:
/// `(x - mean) * slope + offset`. The mean is subtracted first because folding it into
/// the offset would cancel when it is large.
#[derive(Clone, Copy)]
struct Line {
    mean: f32,
    slope: f32,
    offset: f32,
}

impl Line {
    #[inline(always)]
    fn new(shape: GroupShape, affine: Affine<'_>, plane: usize, mean: f32, rstd: f32) -> Self {
        let channel = plane % shape.channels;
        let (factor, shift) = affine.modulation(plane);
        Self {
            mean,
            slope: rstd * affine.gamma[channel] * factor,
            offset: affine.beta[channel] * factor + shift,
        }
    }
}

impl Map for Line {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        let x = simd.sub_f32s(x, simd.splat_f32s(self.mean));
        simd.mul_add_e_f32s(x, simd.splat_f32s(self.slope), simd.splat_f32s(self.offset))
    }
}

#[derive(Clone, Copy)]
struct LineSilu(Line);

impl Map for LineSilu {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        let z = self.0.apply(simd, x);
        simd.mul_f32s(z, sigmoid(simd, z))
    }
}

/// Where [`group_norm_backward`] puts its results; everything is overwritten.
#[derive(Debug)]
pub struct GroupNormGrads<'a> {
    /// Gradient of `x`, `[n, c, pixels]`.
    pub dx: &'a mut [f32],
    /// Gradient of `gamma`, `[c]`.
    pub dgamma: &'a mut [f32],
    /// Gradient of `beta`, `[c]`.
    pub dbeta: &'a mut [f32],
    /// Gradients of `scale` and `shift`, `[n, c]` each.
    pub dmodulation: Option<(&'a mut [f32], &'a mut [f32])>,
}

/// Gradients of [`group_norm`], from the gradient `dy` of its output, its input and the
/// statistics it returned.
///
/// With `dz = dy * act'(z)`, sums over the pixels of a plane `A = sum dz` and
/// `B = sum dz * xhat`, `k = gamma * (1 + scale)` and means over a group:
/// `dshift = A`, `dscale = gamma * B + beta * A`, `dbeta = sum over n of (1 + scale) * A`,
/// `dgamma = sum over n of (1 + scale) * B` and
/// `dx = rstd * (k dz - mean(k dz) - xhat * mean(k dz * xhat))`.
///
/// # Panics
/// If a length does not fit `shape`, or if `groups` does not divide `c`.
pub fn group_norm_backward(
    shape: GroupShape,
    x: &[f32],
    dy: &[f32],
    affine: Affine<'_>,
    (mean, rstd): (&[f32], &[f32]),
    grads: GroupNormGrads<'_>,
) {
    let GroupNormGrads { dx, dgamma, dbeta, dmodulation } = grads;
    shape.check(affine, &[x.len(), dy.len(), dx.len()], &[mean.len(), rstd.len()]);
    assert!(dgamma.len() == shape.channels && dbeta.len() == shape.channels, "gradient length");
    let mut sums = vec![(0.0, 0.0); shape.batch * shape.channels];
    let (arch, len) = (arch(), shape.width() * shape.pixels);
    if !x.is_empty() {
        (
            (x.par_chunks_exact(len), dy.par_chunks_exact(len), dx.par_chunks_exact_mut(len)),
            sums.par_chunks_exact_mut(shape.width()),
            (mean, rstd),
        )
            .into_par_iter()
            .with_min_len(shape.job())
            .enumerate()
            .for_each(|(group, ((x, dy, dx), sums, (mean, rstd)))| {
                let (first, mean, rstd) = (group * shape.width(), *mean, *rstd);
                arch.dispatch(Backward { shape, first, affine, mean, rstd, x, dy, dx, sums });
            });
    }
    collect(shape, affine, &sums, dgamma, dbeta, dmodulation);
}

/// Turns the sums `(A, B)` of all planes into the gradients of the parameters.
fn collect(
    shape: GroupShape,
    affine: Affine<'_>,
    sums: &[(f32, f32)],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    dmodulation: Option<(&mut [f32], &mut [f32])>,
) {
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    for (i, (a, b)) in sums.iter().enumerate() {
        let (c, (factor, _)) = (i % shape.channels, affine.modulation(i));
        dgamma[c] += factor * b;
        dbeta[c] += factor * a;
    }
    let Some((dscale, dshift)) = dmodulation else {
        return;
    };
    assert!(dscale.len() == sums.len() && dshift.len() == sums.len(), "modulation length");
    for (i, (a, b)) in sums.iter().enumerate() {
        let c = i % shape.channels;
        (dscale[i], dshift[i]) = (affine.gamma[c] * b + affine.beta[c] * a, *a);
    }
}

/// One group of the backward pass.
struct Backward<'a> {
    shape: GroupShape,
    first: usize,
    affine: Affine<'a>,
    mean: f32,
    rstd: f32,
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    sums: &'a mut [(f32, f32)],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (pixels, mean, rstd) = (self.shape.pixels, self.mean, self.rstd);
        let (mut total, mut product) = (0.0, 0.0);
        for (i, sums) in self.sums.iter_mut().enumerate() {
            let at = i * pixels..(i + 1) * pixels;
            let (x, dy, dz) = (&self.x[at.clone()], &self.dy[at.clone()], &mut self.dx[at]);
            let line = Line::new(self.shape, self.affine, self.first + i, mean, rstd);
            if self.affine.silu {
                // Kept in `dx` so that the second pass need not compute it again.
                map2(simd, LineSiluSlope(line), x, dy, dz);
            } else {
                dz.copy_from_slice(dy);
            }
            let a = sum2(simd, First, dz, dz);
            let b = f64::from(rstd) * (sum2(simd, Centered(mean), dz, x));
            *sums = (a as f32, b as f32);
            total += a * f64::from(line.slope);
            product += b * f64::from(line.slope);
        }
        let count = self.x.len() as f64;
        // `slope` is `rstd * k` already, which leaves one `rstd` for the last factor.
        let (total, product) = ((total / count) as f32, (product / count) as f32);
        for i in 0..self.sums.len() {
            let line = Line::new(self.shape, self.affine, self.first + i, mean, rstd);
            let f = InputGrad { mean, slope: line.slope, total, product: product * rstd };
            let at = i * pixels..(i + 1) * pixels;
            update(simd, f, &self.x[at.clone()], &mut self.dx[at]);
        }
    }
}

/// `dz = dy * silu'(line(x))`.
#[derive(Clone, Copy)]
struct LineSiluSlope(Line);

impl Map2 for LineSiluSlope {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s, dy: S::f32s) -> S::f32s {
        simd.mul_f32s(dy, silu_slope(simd, self.0.apply(simd, x)))
    }
}

/// `dz * (x - mean)`.
#[derive(Clone, Copy)]
struct Centered(f32);

impl Map2 for Centered {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, dz: S::f32s, x: S::f32s) -> S::f32s {
        Product.apply(simd, dz, simd.sub_f32s(x, simd.splat_f32s(self.0)))
    }
}

/// `dz * slope - total - (x - mean) * product`.
#[derive(Clone, Copy)]
struct InputGrad {
    mean: f32,
    slope: f32,
    total: f32,
    product: f32,
}

impl Map2 for InputGrad {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s, dz: S::f32s) -> S::f32s {
        let x = simd.sub_f32s(x, simd.splat_f32s(self.mean));
        let rest =
            simd.mul_add_e_f32s(x, simd.splat_f32s(-self.product), simd.splat_f32s(-self.total));
        simd.mul_add_e_f32s(dz, simd.splat_f32s(self.slope), rest)
    }
}

#[cfg(test)]
#[path = "norm_tests.rs"]
mod tests;
