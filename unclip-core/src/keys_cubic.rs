//! The kernel of bicubic resizing.

/// Keys' cubic convolution kernel with a = −0.5 (Keys 1981).
pub(crate) fn keys_cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => A * (((x - 5.0) * x + 8.0) * x - 4.0),
        _ => 0.0,
    }
}
