//! Resizing of 8-bit pictures, bit for bit as Pillow does it: in fixed-point numbers, one
//! direction after the other, with 8 bits in between. CLIP's image towers were trained on pictures
//! resized this way.

use image::RgbImage;

use crate::keys_cubic::keys_cubic;

/// Fractional bits of a weight.
const PRECISION: u32 = 22;

/// Resizes a picture by Keys' cubic as Pillow does. Rows are resized first; since Pillow 13, columns
/// are, if the picture is more than twice as tall as it is wide and its height is reduced.
///
/// # Panics
/// If any size is 0.
pub fn bicubic_8bit(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize(picture, [width, height], &BICUBIC)
}

/// As [`bicubic_8bit`], by Lanczos' kernel of three lobes.
///
/// # Panics
/// As [`bicubic_8bit`].
pub fn lanczos_8bit(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize(picture, [width, height], &LANCZOS)
}

/// What new pixels are made by.
struct Kernel {
    value: fn(f64) -> f64,
    /// Beyond this it is 0.
    support: f64,
}

const BICUBIC: Kernel = Kernel { value: keys_cubic, support: 2.0 };
const LANCZOS: Kernel = Kernel { value: lanczos, support: 3.0 };

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        let angle = x * std::f64::consts::PI;
        if x == 0.0 { 1.0 } else { angle.sin() / angle }
    };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn resize(picture: &RgbImage, [width, height]: [u32; 2], kernel: &Kernel) -> RgbImage {
    let (old_width, old_height) = picture.dimensions();
    assert!([old_width, old_height, width, height].iter().all(|it| *it > 0), "pixels to resize");
    if old_height > 2 * old_width && height < old_height {
        resize_rows(&resize_columns(picture, height, kernel), width, kernel)
    } else {
        resize_columns(&resize_rows(picture, width, kernel), height, kernel)
    }
}

fn resize_rows(picture: &RgbImage, width: u32, kernel: &Kernel) -> RgbImage {
    if picture.width() == width {
        return picture.clone();
    }
    let taps = taps(picture.width(), width, kernel);
    let mut new = RgbImage::new(width, picture.height());
    let rows = picture.as_raw().chunks_exact(3 * picture.width() as usize);
    for (old, new) in rows.zip(new.chunks_exact_mut(3 * width as usize)) {
        for (taps, pixel) in taps.iter().zip(new.chunks_exact_mut(3)) {
            let mut sums = [HALF; 3];
            for (old, weight) in old[3 * taps.first..].chunks_exact(3).zip(&taps.weights) {
                for (sum, value) in sums.iter_mut().zip(old) {
                    *sum += i32::from(*value) * weight;
                }
            }
            rounded(&sums, pixel);
        }
    }
    new
}

fn resize_columns(picture: &RgbImage, height: u32, kernel: &Kernel) -> RgbImage {
    if picture.height() == height {
        return picture.clone();
    }
    let row = 3 * picture.width() as usize;
    let mut new = RgbImage::new(picture.width(), height);
    let mut sums = vec![HALF; row];
    let taps = taps(picture.height(), height, kernel);
    for (taps, new) in taps.iter().zip(new.chunks_exact_mut(row)) {
        sums.fill(HALF);
        let rows = picture.as_raw()[row * taps.first..].chunks_exact(row);
        for (old, weight) in rows.zip(&taps.weights) {
            for (sum, value) in sums.iter_mut().zip(old) {
                *sum += i32::from(*value) * weight;
            }
        }
        rounded(&sums, new);
    }
    new
}

/// Half of what 1 is in fixed point.
const HALF: i32 = 1 << (PRECISION - 1);

/// Sums in fixed point as 8 bits.
fn rounded(sums: &[i32], new: &mut [u8]) {
    for (new, sum) in new.iter_mut().zip(sums) {
        *new = (sum >> PRECISION).clamp(0, 255) as u8;
    }
}

/// What a new pixel is made of, in one direction.
struct Taps {
    /// The first old pixel.
    first: usize,
    /// The weights of that and the next ones. They sum to about 2^[`PRECISION`]; those of one sign sum to less
    /// than twice that, so 255 times their sum fits.
    weights: Vec<i32>,
}

/// The taps of every new pixel, when `from` pixels become `to`.
fn taps(from: u32, to: u32, kernel: &Kernel) -> Vec<Taps> {
    assert!(from > 0 && to > 0, "cannot resize {from} pixels to {to}");
    let scale = f64::from(from) / f64::from(to);
    let stretch = scale.max(1.0);
    let support = kernel.support * stretch;
    (0..to)
        .map(|new| {
            let center = (f64::from(new) + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as u32;
            let end = ((center + support + 0.5) as u32).min(from);
            let offset = |old: u32| (f64::from(old) - center + 0.5) / stretch;
            let weights: Vec<f64> = (first..end).map(|old| (kernel.value)(offset(old))).collect();
            let total: f64 = weights.iter().sum();
            let fixed = |w: f64| (w / total * f64::from(1u32 << PRECISION)).round() as i32;
            let first = first as usize;
            Taps { first, weights: weights.into_iter().map(fixed).collect() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// Sums stay within 32 bits, which is checked where tests are built.
    #[test]
    fn the_hardest_edges_fit() {
        for (from, to) in [(1, 7), (2, 3), (3, 2), (5, 64), (64, 5), (97, 31), (31, 97), (200, 1)] {
            for period in 1..6 {
                let edges = |x: u32, y: u32| Rgb([255 * ((x / period + y / period) % 2) as u8; 3]);
                let picture = RgbImage::from_fn(from, from, edges);
                assert_eq!(bicubic_8bit(&picture, to, to).dimensions(), (to, to));
                assert_eq!(lanczos_8bit(&picture, to, to).dimensions(), (to, to));
            }
        }
    }

    #[test]
    fn plain_pictures_stay_plain() {
        let picture = RgbImage::from_pixel(7, 30, Rgb([0, 131, 255]));
        for (width, height) in [(1, 1), (3, 50), (20, 7), (7, 30)] {
            let want = RgbImage::from_pixel(width, height, Rgb([0, 131, 255]));
            assert_eq!(bicubic_8bit(&picture, width, height), want, "{width} x {height}");
            assert_eq!(lanczos_8bit(&picture, width, height), want, "{width} x {height}");
        }
    }

    #[test]
    fn directions_are_treated_alike() {
        let picture =
            RgbImage::from_fn(9, 13, |x, y| Rgb([x * y, 7 * x + y, 255 - y].map(|v| v as u8)));
        let turned = |picture: &RgbImage| image::imageops::rotate90(picture);
        let rows = resize_rows(&picture, 4, &BICUBIC);
        assert_eq!(resize_columns(&turned(&picture), 4, &BICUBIC), turned(&rows));
    }
}
