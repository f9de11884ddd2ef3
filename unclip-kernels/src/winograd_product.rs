//! The matrix products between the transforms of the Winograd convolution: at every point of
//! a tile, channels of outputs by channels of inputs by tiles.

use super::gemm::panel;
use super::simd::{load, store};
use pulp::Simd;

/// Channels that lie next to each other whatever the vectors: as many as the largest has lanes.
pub(super) const BLOCK: usize = 16;

/// Tiles that lie next to each other and are multiplied together.
pub(super) const GROUP: usize = 8;

/// Output channels of one product at most: three of the largest vectors, which with the
/// tiles of a group are 24 of 32 registers.
pub(super) const OUTPUTS: usize = 48;

/// Channels of [`BLOCK`]s of inputs, block by block and, within, tile by tile.
pub(super) type Inputs<'a> = &'a [[[f32; BLOCK]; GROUP]];

/// A transformed weight, input channel by input channel.
pub(super) type Weights<'a> = &'a [[[f32; OUTPUTS]; BLOCK]];

/// Sums of the tiles of a group.
pub(super) type Sums = [[f32; OUTPUTS]; GROUP];

/// `sums[t, o] += sum over c of inputs[c, t] * weights[c, o]`, for `tiles` tiles and `outputs`
/// channels (a multiple of [`BLOCK`]); if `fresh`, what the sums were does not matter.
#[inline(always)]
pub(super) fn multiply<S: Simd>(
    simd: S,
    inputs: Inputs<'_>,
    weights: Weights<'_>,
    sums: &mut Sums,
    [tiles, outputs]: [usize; 2],
    fresh: bool,
) {
    let (vectors, mut done) = (outputs / S::F32_LANES, 0);
    while done < vectors {
        let width = panel(vectors - done);
        let at = Corner { tile: 0, output: done * S::F32_LANES, fresh };
        match width {
            3 => rows::<S, 3>(simd, inputs, weights, sums, tiles, at),
            2 => rows::<S, 2>(simd, inputs, weights, sums, tiles, at),
            _ => rows::<S, 1>(simd, inputs, weights, sums, tiles, at),
        }
        done += width;
    }
}

/// Where a register tile starts.
#[derive(Clone, Copy)]
struct Corner {
    tile: usize,
    output: usize,
    fresh: bool,
}

/// All tiles, for `W` vectors of outputs.
#[inline(always)]
fn rows<S: Simd, const W: usize>(
    simd: S,
    inputs: Inputs<'_>,
    weights: Weights<'_>,
    sums: &mut Sums,
    tiles: usize,
    at: Corner,
) {
    if S::REGISTER_COUNT >= 32 && tiles > GROUP / 2 {
        return block::<S, GROUP, W>(simd, inputs, weights, sums, at);
    }
    for tile in (0..tiles).step_by(4) {
        block::<S, 4, W>(simd, inputs, weights, sums, Corner { tile, ..at });
    }
}

/// `MR` tiles by `W` vectors of outputs, accumulated in registers.
#[inline(always)]
fn block<S: Simd, const MR: usize, const W: usize>(
    simd: S,
    inputs: Inputs<'_>,
    weights: Weights<'_>,
    sums: &mut Sums,
    at: Corner,
) {
    let mut acc = [[simd.splat_f32s(0.0); W]; MR];
    for (inputs, weights) in inputs.iter().zip(weights) {
        let inputs: &[[f32; BLOCK]; MR] = inputs[at.tile..].first_chunk().expect("whole rows");
        for k in 0..BLOCK {
            let row = &weights[k][at.output..][..W * S::F32_LANES];
            let mut w = [simd.splat_f32s(0.0); W];
            for v in 0..W {
                w[v] = load::<S>(&row[v * S::F32_LANES..]);
            }
            for i in 0..MR {
                let x = simd.splat_f32s(inputs[i][k]);
                for v in 0..W {
                    acc[i][v] = simd.mul_add_e_f32s(x, w[v], acc[i][v]);
                }
            }
        }
    }
    for i in 0..MR {
        let sums = &mut sums[at.tile + i][at.output..][..W * S::F32_LANES];
        for v in 0..W {
            let sum = &mut sums[v * S::F32_LANES..];
            // Not before: the multiplications would wait for memory.
            let old = if at.fresh { simd.splat_f32s(0.0) } else { load::<S>(sum) };
            store::<S>(sum, simd.add_f32s(acc[i][v], old));
        }
    }
}
