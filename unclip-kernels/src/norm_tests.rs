//! Group normalization against its definition in double precision.

use super::super::test_util::{assert_close, random, slope, wide};
use super::*;

/// All inputs of one call.
struct Case {
    shape: GroupShape,
    x: Vec<f32>,
    dy: Vec<f32>,
    /// `gamma` and `beta`, then `scale` and `shift`.
    params: [Vec<f32>; 4],
    modulated: bool,
    silu: bool,
}

impl Case {
    fn affine(&self) -> Affine<'_> {
        let [gamma, beta, scale, shift] = &self.params;
        let modulation = self.modulated.then_some((&scale[..], &shift[..]));
        Affine { gamma, beta, modulation, silu: self.silu }
    }

    /// The definition.
    fn naive(&self, x: &[f64], p: &[Vec<f64>; 4]) -> Vec<f64> {
        let s = self.shape;
        let len = s.channels / s.groups * s.pixels;
        let mut y = Vec::new();
        for (g, group) in x.chunks(len).enumerate() {
            let mean = group.iter().sum::<f64>() / len as f64;
            let var = group.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / len as f64;
            for (i, v) in group.iter().enumerate() {
                let plane = g * (s.channels / s.groups) + i / s.pixels;
                let c = plane % s.channels;
                let mut z = (v - mean) / (var + 1e-5).sqrt() * p[0][c] + p[1][c];
                if self.modulated {
                    z = z * (1.0 + p[2][plane]) + p[3][plane];
                }
                y.push(if self.silu { z / (1.0 + (-z).exp()) } else { z });
            }
        }
        y
    }

    /// `sum(y * dy)`, whose derivatives are the gradients.
    fn loss(&self, x: &[f64], p: &[Vec<f64>; 4]) -> f64 {
        self.naive(x, p).iter().zip(&self.dy).map(|(y, dy)| y * f64::from(*dy)).sum()
    }
}

fn cases_of(shapes: &[[usize; 4]]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &[batch, channels, pixels, groups] in shapes {
        for (modulated, silu) in [(false, false), (true, false), (false, true), (true, true)] {
            let shape = GroupShape { batch, channels, pixels, groups };
            let x = random(shape.values(), 1).iter().map(|v| v * 2.0 + 0.5).collect();
            let [c, nc] = [channels, batch * channels];
            let params = [random(c, 3), random(c, 4), random(nc, 5), random(nc, 6)];
            cases.push(Case { shape, x, dy: random(shape.values(), 2), params, modulated, silu });
        }
    }
    cases
}

fn cases() -> Vec<Case> {
    let large = [1, 6, 5000, 2];
    cases_of(&[[1, 1, 3, 1], [2, 6, 1, 2], [1, 4, 35, 2], [3, 8, 64, 8], [2, 5, 17, 1], large])
}

fn forward(case: &Case) -> [Vec<f32>; 3] {
    let s = case.shape;
    let mut out = [s.values(), s.statistics(), s.statistics()].map(|n| vec![f32::NAN; n]);
    let [y, mean, rstd] = &mut out;
    group_norm(s, &case.x, case.affine(), 1e-5, y, mean, rstd);
    out
}

#[test]
fn forward_matches_the_definition() {
    for case in cases() {
        let p = case.params.clone().map(|p| wide(&p));
        assert_close(&forward(&case)[0], &case.naive(&wide(&case.x), &p), 2e-6, "y");
    }
}

/// Groups that all threads share.
#[test]
fn large_groups_match_the_definition() {
    for case in cases_of(&[[2, 3, 200_003, 1], [1, 2, LARGE_GROUP, 2]]) {
        let p = case.params.clone().map(|p| wide(&p));
        assert_close(&forward(&case)[0], &case.naive(&wide(&case.x), &p), 2e-6, "y");
    }
}

#[test]
fn backward_matches_finite_differences() {
    for case in cases() {
        let s = case.shape;
        let [_, mean, rstd] = forward(&case);
        let mut dx = vec![f32::NAN; s.values()];
        let mut dp = case.params.clone().map(|p| vec![f32::NAN; p.len()]);
        let [dgamma, dbeta, dscale, dshift] = &mut dp;
        let dmodulation = case.modulated.then_some((&mut dscale[..], &mut dshift[..]));
        let grads = GroupNormGrads { dx: &mut dx, dgamma, dbeta, dmodulation };
        group_norm_backward(s, &case.x, &case.dy, case.affine(), (&mean, &rstd), grads);

        let (mut x, mut p) = (wide(&case.x), case.params.clone().map(|p| wide(&p)));
        // Every value of small tensors, a few of large ones.
        let step = s.values().div_ceil(100);
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for i in (0..s.values()).step_by(step) {
            want.push(slope(&mut x, i, |x| case.loss(x, &p)));
            got.push(dx[i]);
        }
        assert_close(&got, &want, 2e-5, &format!("dx {s:?}"));
        for k in 0..if case.modulated { 4 } else { 2 } {
            let want: Vec<f64> = (0..dp[k].len())
                .map(|i| {
                    let mut values = p[k].clone();
                    slope(&mut values, i, |v| {
                        p[k] = v.to_vec();
                        case.loss(&x, &p)
                    })
                })
                .collect();
            p[k] = wide(&case.params[k]);
            assert_close(&dp[k], &want, 2e-5, &format!("parameter {k} {s:?}"));
        }
    }
}
