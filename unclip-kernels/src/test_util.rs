//! Random data and comparisons for the kernels' tests.

/// `len` values in `-1..1`, the same for the same seed (a linear congruential
/// generator: tests need variety, not statistics).
pub(super) fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Fails unless `got` is within `tolerance` of `want`, relative to the largest
/// wanted value (sums that cancel have no small relative error of their own).
pub(super) fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let scale = want.iter().fold(1e-2_f64, |a, b| a.max(b.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs() / scale;
        assert!(error <= tolerance, "{what}: value {i} is {g}, not {w}");
    }
}

/// The same values in double precision.
pub(super) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

/// The derivative of `f` with respect to value `i`, by central differences.
pub(super) fn slope(x: &mut [f64], i: usize, mut f: impl FnMut(&[f64]) -> f64) -> f64 {
    const STEP: f64 = 1e-5;
    let old = x[i];
    let mut at = |v: f64| {
        x[i] = v;
        f(x)
    };
    let slope = (at(old + STEP) - at(old - STEP)) / (2.0 * STEP);
    x[i] = old;
    slope
}
