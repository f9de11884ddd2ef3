//! Small helpers shared by the vectorized kernels.
//!
//! Everything generic over [`Simd`] is `inline(always)` and free of closures: code
//! that is not inlined into the dispatched function is compiled for the baseline
//! instruction set and runs some fifty times slower.

use pulp::{Arch, Simd, WithSimd};

/// The instruction set to use, detected once per process.
///
/// Tests can force a weaker one with `UNCLIP_TEST_ARCH=scalar` or `v3`.
pub(super) fn arch() -> Arch {
    #[cfg(all(test, target_arch = "x86_64"))]
    match std::env::var("UNCLIP_TEST_ARCH").as_deref() {
        Ok("scalar") => return Arch::Scalar,
        Ok("v3") => return pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
        _ => {}
    }
    Arch::new()
}

/// Values per parallel job of a memory-bound kernel: about ten microseconds of work,
/// so that handing the job to another thread costs little in comparison.
pub(super) const JOB_VALUES: usize = 1 << 15;

/// The first vector of `slice`, which must hold at least one.
#[inline(always)]
pub(super) fn load<S: Simd>(slice: &[f32]) -> S::f32s {
    S::as_simd_f32s(slice).0[0]
}

/// Overwrites the first vector of `slice`, which must hold at least one.
#[inline(always)]
pub(super) fn store<S: Simd>(slice: &mut [f32], value: S::f32s) {
    S::as_mut_simd_f32s(slice).0[0] = value;
}

/// `len` values of `buffer`, which grows as needed; they hold whatever was there.
///
/// They start at a cache line, because a vector that straddles two takes two loads.
pub(super) fn aligned(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    const LINE: usize = 16;
    if buffer.len() < len + LINE {
        buffer.resize(len + LINE, 0.0);
    }
    let start = buffer.as_ptr().align_offset(64).min(LINE);
    &mut buffer[start..start + len]
}

/// Copies one image row.
///
/// Rows of a U-Net are often 8 or 16 pixels, where the call into `memcpy` that
/// `copy_from_slice` makes costs more than the copy itself.
#[inline(always)]
pub(super) fn copy_row(dst: &mut [f32], src: &[f32]) {
    assert_eq!(dst.len(), src.len(), "rows of different width");
    if src.len() > 64 {
        return dst.copy_from_slice(src);
    }
    let (d, d_tail) = dst.as_chunks_mut::<8>();
    let (s, s_tail) = src.as_chunks::<8>();
    for (d, s) in d.iter_mut().zip(s) {
        *d = *s;
    }
    for (d, s) in d_tail.iter_mut().zip(s_tail) {
        *d = *s;
    }
}

/// `exp(x)` with a relative error below `2e-7`.
///
/// Results are clamped to the normal range (`1.2e-38` to `2.4e38`), so it neither
/// becomes zero nor infinite; not-a-number stays what it is.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let x = clamp(simd, x, -87.33, 88.37);
    let round = simd.splat_f32s(ROUND);
    let shifted = simd.mul_add_e_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), round);
    let n = simd.sub_f32s(shifted, round);
    // x - n ln 2, with ln 2 in two parts so that the product is exact.
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-0.693_359_4), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(2.121_944_4e-4), r);
    let p = polynomial(
        simd,
        r,
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5],
    );
    let one_plus_r = simd.add_f32s(simd.splat_f32s(1.0), r);
    let e = simd.mul_add_e_f32s(simd.mul_f32s(r, r), p, one_plus_r);
    // Multiply by 2^n by adding n to the exponent; the shift drops the rounding bits.
    let n = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(e), n))
}

/// `x` within `low..=high`. Unlike with minima and maxima, a not-a-number remains one
/// on every instruction set.
#[inline(always)]
pub(super) fn clamp<S: Simd>(simd: S, x: S::f32s, low: f32, high: f32) -> S::f32s {
    let (low, high) = (simd.splat_f32s(low), simd.splat_f32s(high));
    let x = simd.select_f32s(simd.less_than_f32s(x, low), low, x);
    simd.select_f32s(simd.less_than_f32s(high, x), high, x)
}

/// A polynomial in `x`, highest coefficient first, by Horner's rule.
#[inline(always)]
pub(super) fn polynomial<S: Simd, const N: usize>(simd: S, x: S::f32s, c: [f32; N]) -> S::f32s {
    let mut sum = simd.splat_f32s(c[0]);
    for &c in &c[1..] {
        sum = simd.mul_add_e_f32s(sum, x, simd.splat_f32s(c));
    }
    sum
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(super) fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    simd.div_f32s(one, simd.add_f32s(one, exp(simd, simd.neg_f32s(x))))
}

/// `d silu(x) / dx = s (1 + x (1 - s))` with `s = sigmoid(x)`.
#[inline(always)]
pub(super) fn silu_slope<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let (one, s) = (simd.splat_f32s(1.0), sigmoid(simd, x));
    simd.mul_f32s(s, simd.mul_add_e_f32s(x, simd.sub_f32s(one, s), one))
}

/// An elementwise function of one tensor.
pub(super) trait Map: Copy + Sync {
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s;
}

/// An elementwise function of two tensors.
pub(super) trait Map2: Copy + Sync {
    fn apply<S: Simd>(self, simd: S, a: S::f32s, b: S::f32s) -> S::f32s;
}

/// `y = f(x)` elementwise.
#[inline(always)]
pub(super) fn map<S: Simd>(simd: S, f: impl Map, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    let (x, x_tail) = S::as_simd_f32s(x);
    let (y, y_tail) = S::as_mut_simd_f32s(y);
    for (x, y) in x.iter().zip(y) {
        *y = f.apply(simd, *x);
    }
    if !x_tail.is_empty() {
        let y = f.apply(simd, simd.partial_load_f32s(x_tail));
        simd.partial_store_f32s(y_tail, y);
    }
}

/// `y = f(a, b)` elementwise.
#[inline(always)]
pub(super) fn map2<S: Simd>(simd: S, f: impl Map2, a: &[f32], b: &[f32], y: &mut [f32]) {
    assert!(a.len() == y.len() && b.len() == y.len(), "lengths differ");
    let (a, a_tail) = S::as_simd_f32s(a);
    let (b, b_tail) = S::as_simd_f32s(b);
    let (y, y_tail) = S::as_mut_simd_f32s(y);
    for ((a, b), y) in a.iter().zip(b).zip(y) {
        *y = f.apply(simd, *a, *b);
    }
    if !y_tail.is_empty() {
        let (a, b) = (simd.partial_load_f32s(a_tail), simd.partial_load_f32s(b_tail));
        simd.partial_store_f32s(y_tail, f.apply(simd, a, b));
    }
}

/// `b = f(a, b)` elementwise, in place.
#[inline(always)]
pub(super) fn update<S: Simd>(simd: S, f: impl Map2, a: &[f32], b: &mut [f32]) {
    assert_eq!(a.len(), b.len(), "lengths differ");
    let (a, a_tail) = S::as_simd_f32s(a);
    let (b, b_tail) = S::as_mut_simd_f32s(b);
    for (a, b) in a.iter().zip(b) {
        *b = f.apply(simd, *a, *b);
    }
    if !b_tail.is_empty() {
        let (a, b) = (simd.partial_load_f32s(a_tail), simd.partial_load_f32s(b_tail));
        simd.partial_store_f32s(b_tail, f.apply(simd, a, b));
    }
}

/// Values summed in single precision before the sum continues in double precision.
pub(super) const SUM_VALUES: usize = 4096;

/// The sum of `f(a, b)` over all elements; `f(0, 0)` must be zero.
#[inline(always)]
pub(super) fn sum2<S: Simd>(simd: S, f: impl Map2, a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths differ");
    let mut total = 0.0;
    for (a, b) in a.chunks(SUM_VALUES).zip(b.chunks(SUM_VALUES)) {
        // Four independent sums hide the latency of the addition.
        let mut acc = [simd.splat_f32s(0.0); 4];
        let (a, a_tail) = S::as_simd_f32s(a);
        let (b, b_tail) = S::as_simd_f32s(b);
        let ((a4, a), (b4, b)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
        for (a, b) in a4.iter().zip(b4) {
            for i in 0..4 {
                acc[i] = simd.add_f32s(acc[i], f.apply(simd, a[i], b[i]));
            }
        }
        for (a, b) in a.iter().zip(b) {
            acc[0] = simd.add_f32s(acc[0], f.apply(simd, *a, *b));
        }
        if !a_tail.is_empty() {
            let (a, b) = (simd.partial_load_f32s(a_tail), simd.partial_load_f32s(b_tail));
            acc[1] = simd.add_f32s(acc[1], f.apply(simd, a, b));
        }
        let (even, odd) = (simd.add_f32s(acc[0], acc[2]), simd.add_f32s(acc[1], acc[3]));
        total += f64::from(simd.reduce_sum_f32s(simd.add_f32s(even, odd)));
    }
    total
}

/// `a`, for sums of one tensor.
#[derive(Clone, Copy)]
pub(super) struct First;

impl Map2 for First {
    #[inline(always)]
    fn apply<S: Simd>(self, _: S, a: S::f32s, _: S::f32s) -> S::f32s {
        a
    }
}

/// `a * b`.
#[derive(Clone, Copy)]
pub(super) struct Product;

impl Map2 for Product {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.mul_f32s(a, b)
    }
}

/// Runs a [`Map`] over a slice, for [`Arch::dispatch`].
pub(super) struct RunMap<'a, F>(pub F, pub &'a [f32], pub &'a mut [f32]);

impl<F: Map> WithSimd for RunMap<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        map(simd, self.0, self.1, self.2);
    }
}

/// Runs a [`Map2`] over two slices, for [`Arch::dispatch`].
pub(super) struct RunMap2<'a, F>(pub F, pub &'a [f32], pub &'a [f32], pub &'a mut [f32]);

impl<F: Map2> WithSimd for RunMap2<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        map2(simd, self.0, self.1, self.2, self.3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    struct Exp;
    impl Map for Exp {
        #[inline(always)]
        fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
            exp(simd, x)
        }
    }

    fn exp_of(x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        arch().dispatch(RunMap(Exp, x, &mut y));
        y
    }

    #[test]
    fn exp_is_accurate() {
        let x: Vec<f32> = (0..400_001).map(|i| (i as f32 - 200_000.0) * 87.3 / 200_000.0).collect();
        let worst = exp_of(&x).iter().zip(&x).fold(0.0_f64, |worst, (y, x)| {
            worst.max((f64::from(*y) / f64::from(*x).exp() - 1.0).abs())
        });
        assert!(worst < 2e-7, "relative error {worst:e}");
    }

    #[test]
    fn exp_keeps_its_limits() {
        let y = exp_of(&[f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, f32::NAN, 0.0]);
        assert!(y[0] > 2e38 && y[2] > 2e38 && y[0].is_finite());
        assert!(y[1] < 2e-38 && y[3] < 2e-38 && y[1] > 0.0);
        assert!(y[4].is_nan());
        assert_eq!(y[5], 1.0);
    }
}
