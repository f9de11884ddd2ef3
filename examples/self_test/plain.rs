//! The definitions of the operations, in double precision, one value after the other.

/// The shape of pictures, one row after the other.
#[derive(Clone, Copy)]
pub(crate) struct Picture {
    pub(crate) n: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Picture {
    fn plane(self) -> usize {
        self.height * self.width
    }

    /// The value at a place that may be outside, where all is 0.
    fn at(self, values: &[f64], plane: usize, y: isize, x: isize) -> f64 {
        let inside =
            (0..self.height as isize).contains(&y) && (0..self.width as isize).contains(&x);
        if inside {
            values[plane * self.plane() + y as usize * self.width + x as usize]
        } else {
            0.0
        }
    }
}

/// Of picture, weight `[c_out, c_in, side, side]` and bias, with padding that keeps the size.
pub(crate) fn convolution(
    shape: Picture,
    c_out: usize,
    side: usize,
    inputs: &[Vec<f64>],
) -> Vec<f64> {
    let (border, c_in) = (side as isize / 2, shape.channels);
    let mut result = Vec::with_capacity(shape.n * c_out * shape.plane());
    for (picture, out) in (0..shape.n).flat_map(|n| (0..c_out).map(move |out| (n, out))) {
        for (y, x) in (0..shape.height).flat_map(|y| (0..shape.width).map(move |x| (y, x))) {
            let mut sum = inputs[2][out];
            for tap in 0..c_in * side * side {
                let (channel, dy, dx) = (tap / (side * side), tap / side % side, tap % side);
                let (y, x) = ((y + dy) as isize - border, (x + dx) as isize - border);
                let weight = inputs[1][out * c_in * side * side + tap];
                sum += weight * shape.at(&inputs[0], picture * c_in + channel, y, x);
            }
            result.push(sum);
        }
    }
    result
}

/// Of rows, weight `[d_in, d_out]` and bias.
pub(crate) fn linear([rows, d_in, d_out]: [usize; 3], inputs: &[Vec<f64>]) -> Vec<f64> {
    let product = |row: usize, out: usize| -> f64 {
        (0..d_in).map(|k| inputs[0][row * d_in + k] * inputs[1][k * d_out + out]).sum()
    };
    let places = (0..rows).flat_map(|row| (0..d_out).map(move |out| (row, out)));
    places.map(|(row, out)| product(row, out) + inputs[2][out]).collect()
}

/// Whether a mask hides this key.
pub(crate) fn is_hidden(key: usize) -> bool {
    key % 4 == 1
}

/// softmax(q·kᵀ / √d)·v for each head.
pub(crate) fn attention(
    [batch, heads, d_head, seq_q, seq_k]: [usize; 5],
    masked: bool,
    inputs: &[Vec<f64>],
) -> Vec<f64> {
    let width = heads * d_head;
    let mut result = vec![0.0; batch * seq_q * width];
    for (place, out) in result.chunks_mut(d_head).enumerate() {
        let (row, head) = (place / heads, place % heads);
        let (picture, offset) = (row / seq_q, head * d_head);
        let of = |input: usize, row: usize| &inputs[input][row * width + offset..][..d_head];
        let keys: Vec<usize> = (0..seq_k).filter(|&key| !(masked && is_hidden(key))).collect();
        let score = |key: usize| -> f64 {
            let dot: f64 =
                of(0, row).iter().zip(of(1, picture * seq_k + key)).map(|(a, b)| a * b).sum();
            (dot / (d_head as f64).sqrt()).exp()
        };
        let scores: Vec<f64> = keys.iter().map(|&key| score(key)).collect();
        let sum: f64 = scores.iter().sum();
        for (&key, score) in keys.iter().zip(&scores) {
            let value = of(2, picture * seq_k + key);
            out.iter_mut().zip(value).for_each(|(out, value)| *out += score / sum * value);
        }
    }
    result
}

/// Values with mean 0 and variance 1.
fn standardized(values: &[f64], epsilon: f64) -> Vec<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / count;
    values.iter().map(|it| (it - mean) / (variance + epsilon).sqrt()).collect()
}

/// Of pictures, a factor and an offset for each channel, and perhaps a `1 + scale` and a shift for
/// each picture and channel.
pub(crate) fn group_norm_silu(
    shape: Picture,
    groups: usize,
    epsilon: f64,
    inputs: &[Vec<f64>],
) -> Vec<f64> {
    let group = shape.channels / groups * shape.plane();
    let normed = inputs[0].chunks(group).flat_map(|group| standardized(group, epsilon));
    let apply = |(place, value): (usize, f64)| {
        let of_picture = place / shape.plane();
        let channel = of_picture % shape.channels;
        let value = value * inputs[1][channel] + inputs[2][channel];
        let value = match &inputs[3..] {
            [scale, shift] => value * (1.0 + scale[of_picture]) + shift[of_picture],
            _ => value,
        };
        silu(value)
    };
    normed.enumerate().map(apply).collect()
}

/// Of rows, a factor and an offset for each place in a row.
pub(crate) fn layer_norm(width: usize, epsilon: f64, inputs: &[Vec<f64>]) -> Vec<f64> {
    let rows = inputs[0].chunks(width).flat_map(|row| standardized(row, epsilon));
    rows.enumerate().map(|(n, it)| it * inputs[1][n % width] + inputs[2][n % width]).collect()
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(crate) fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// The error function: its series where that is exact, else its continued fraction.
fn erf(x: f64) -> f64 {
    let square = x * x;
    if square < 9.0 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while f64::abs(term) > 1e-18 * f64::abs(sum) {
            n += 1.0;
            term *= -square / n;
            sum += term / (2.0 * n + 1.0);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let fraction = (1..60).rev().fold(0.0, |fraction, n| f64::from(n) / 2.0 / (x.abs() + fraction));
    let rest = (-square).exp() / (x.abs() + fraction) / std::f64::consts::PI.sqrt();
    x.signum() * (1.0 - rest)
}

/// Every pixel four times, or the mean of every four.
pub(crate) fn resampled(shape: Picture, doubled: bool, values: &[f64]) -> Vec<f64> {
    let size = |side: usize| if doubled { 2 * side } else { side / 2 };
    let (height, width) = (size(shape.height), size(shape.width));
    let mut result = Vec::with_capacity(shape.n * shape.channels * height * width);
    for plane in 0..shape.n * shape.channels {
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let at = |y: usize, x: usize| shape.at(values, plane, y as isize, x as isize);
            result.push(if doubled {
                at(y / 2, x / 2)
            } else {
                let [a, b] = [2 * y, 2 * y + 1].map(|y| at(y, 2 * x) + at(y, 2 * x + 1));
                (a + b) / 4.0
            });
        }
    }
    result
}
