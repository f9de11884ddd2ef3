//! Large pictures in tiles that overlap, so that memory does not grow with them.

use burn::tensor::{Device, Tensor};
use unclip_core::InvalidSetting;

/// How a large picture is divided: into squares that overlap by a quarter, where one fades into the
/// next. Each is normalized on its own, so that they do not quite agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    side: usize,
}

/// Largest side of a tile.
const MAX_SIDE: usize = 1 << 13;

impl Tiling {
    /// Squares of `side` places of a latent.
    ///
    /// # Errors
    /// A side that is not a multiple of 4 from 8 to 8192.
    pub fn new(side: usize) -> Result<Self, InvalidSetting> {
        if (8..=MAX_SIDE).contains(&side) && side.is_multiple_of(4) {
            return Ok(Self { side });
        }
        let expected = format!("a multiple of 4 from 8 to {MAX_SIDE}");
        Err(InvalidSetting::new("side of a tile", side, expected))
    }

    /// Makes latents of a picture, `factor` times smaller, tile by tile.
    pub(crate) fn encode(
        self,
        picture: &Tensor<4>,
        factor: usize,
        part: impl Fn(Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        tiled(picture, self.side * factor, self.side, part)
    }

    /// Makes a picture of a latent, `factor` times larger, tile by tile.
    pub(crate) fn decode(
        self,
        latent: &Tensor<4>,
        factor: usize,
        part: impl Fn(Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        tiled(latent, self.side, self.side * factor, part)
    }
}

/// `part` of squares of `from` places, each of which becomes one of `to`.
fn tiled(
    x: &Tensor<4>,
    from: usize,
    to: usize,
    part: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    if height <= from && width <= from {
        return part(x.clone());
    }
    let (blend, step) = (to / 4, from - from / 4);
    let (rows, columns) = ((0..height).step_by(step), (0..width).step_by(step));
    let cut = |n: usize, start: usize| (start, from.min(n - start));
    let mut above: Vec<Tensor<4>> = Vec::new();
    let mut result = Vec::new();
    for (y, high) in rows.map(|y| cut(height, y)) {
        let mut row: Vec<Tensor<4>> = Vec::new();
        for (column, (x_0, wide)) in columns.clone().map(|x| cut(width, x)).enumerate() {
            let tile = part(x.clone().narrow(2, y, high).narrow(3, x_0, wide));
            let tile = match above.get(column) {
                Some(above) => faded(above, tile, blend, 2),
                None => tile,
            };
            let tile = match row.last() {
                Some(left) => faded(left, tile, blend, 3),
                None => tile,
            };
            row.push(tile);
        }
        let kept = row.iter().map(|tile| cropped(tile, to - blend)).collect();
        result.push(Tensor::cat(kept, 3));
        above = row;
    }
    Tensor::cat(result, 2)
}

fn cropped(tile: &Tensor<4>, side: usize) -> Tensor<4> {
    let [_, _, height, width] = tile.dims();
    tile.clone().narrow(2, 0, side.min(height)).narrow(3, 0, side.min(width))
}

/// `tile`, whose first rows (`dim` 2) or columns (3) come out of the last ones of `before`.
fn faded(before: &Tensor<4>, tile: Tensor<4>, extent: usize, dim: usize) -> Tensor<4> {
    let (behind, ahead) = (before.dims()[dim], tile.dims()[dim]);
    let extent = extent.min(behind).min(ahead);
    if extent == 0 {
        return tile;
    }
    let weights = ramp(extent, dim, &tile.device());
    let last = before.clone().narrow(dim, behind - extent, extent);
    let first = tile.clone().narrow(dim, 0, extent);
    let mixed = last.clone() + (first - last) * weights;
    if extent == ahead {
        return mixed;
    }
    Tensor::cat(vec![mixed, tile.narrow(dim, extent, ahead - extent)], dim)
}

/// k / n for k from 0 on, along a dimension.
fn ramp(n: usize, dim: usize, device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..n).map(|k| k as f32 / n as f32).collect();
    let mut shape = [1; 4];
    shape[dim] = n;
    Tensor::<1>::from_floats(values.as_slice(), device).reshape(shape)
}
