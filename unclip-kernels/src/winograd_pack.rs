//! Between planes of one channel each and pixels of [`BLOCK`] channels each.

use super::gemm::{LARGEST_VECTOR, transpose};
use super::simd::{load, store};
use super::winograd_product::BLOCK;
use pulp::Simd;

/// `pixels[i][c] = rows[c][i]`; rows at the end may be empty, which means zeros.
#[inline(always)]
pub(super) fn gather<S: Simd>(simd: S, rows: &[&[f32]; BLOCK], pixels: &mut [[f32; BLOCK]]) {
    let (lanes, mut at) = (S::F32_LANES, 0);
    let whole = rows[BLOCK - 1].len() >= pixels.len();
    for pixels in pixels.chunks_mut(lanes) {
        for lane in (0..BLOCK).step_by(lanes) {
            let mut square = [simd.splat_f32s(0.0); LARGEST_VECTOR];
            if whole && pixels.len() == lanes {
                for c in 0..lanes {
                    square[c] = load::<S>(&rows[lane + c][at..]);
                }
                transpose(simd, &mut square);
                for i in 0..lanes {
                    store::<S>(&mut pixels[i][lane..], square[i]);
                }
            } else {
                for c in 0..lanes {
                    let row = rows[lane + c].get(at..).unwrap_or_default();
                    square[c] = simd.partial_load_f32s(&row[..row.len().min(lanes)]);
                }
                transpose(simd, &mut square);
                // Indexed up to a run-time bound, the square would not live in registers.
                for i in 0..lanes {
                    if i < pixels.len() {
                        store::<S>(&mut pixels[i][lane..], square[i]);
                    }
                }
            }
        }
        at += lanes;
    }
}

/// `rows[c][i] = pixels[i][c]` for rows of equal length, of which there may be fewer than
/// channels. Pixels up to the next whole vector must exist.
#[inline(always)]
pub(super) fn scatter<S: Simd>(simd: S, pixels: &[[f32; BLOCK]], rows: &mut [&mut [f32]]) {
    let (lanes, len) = (S::F32_LANES, rows.first().map_or(0, |row| row.len()));
    for (n, rows) in rows.chunks_mut(lanes).enumerate() {
        for at in (0..len).step_by(lanes) {
            let mut square = [simd.splat_f32s(0.0); LARGEST_VECTOR];
            for i in 0..lanes {
                square[i] = load::<S>(&pixels[at + i][n * lanes..]);
            }
            transpose(simd, &mut square);
            if rows.len() == lanes && at + lanes <= len {
                for c in 0..lanes {
                    store::<S>(&mut rows[c][at..], square[c]);
                }
            } else {
                let count = lanes.min(len - at);
                for c in 0..lanes {
                    if c < rows.len() {
                        simd.partial_store_f32s(&mut rows[c][at..at + count], square[c]);
                    }
                }
            }
        }
    }
}
