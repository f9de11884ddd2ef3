//! Pictures laid over each other: turned, scaled and shifted until they fit best.

/// Side at which pictures are compared.
pub const SIDE: usize = 32;
/// Side at which most of the candidates are ruled out.
pub const COARSE: usize = SIDE / 2;

/// A picture of three channels, one pixel after the other, from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    pub side: usize,
    pub pixels: Vec<[f32; 3]>,
}

impl Picture {
    /// Shrunk by a whole factor.
    pub fn shrunk(&self, side: usize) -> Self {
        let factor = self.side / side;
        let share = 1.0 / (factor * factor) as f32;
        let pixels = (0..side * side).map(|at| {
            let mut sum = [0.0; 3];
            for inside in 0..factor * factor {
                let x = at % side * factor + inside % factor;
                let y = at / side * factor + inside / factor;
                let pixel = self.pixels[y * self.side + x];
                (0..3).for_each(|channel| sum[channel] += pixel[channel] * share);
            }
            sum
        });
        Self { side, pixels: pixels.collect() }
    }

    /// The color of most of the border: the median of each channel.
    pub fn background(&self) -> [f32; 3] {
        let last = self.side - 1;
        let is_border = |at: &usize| {
            [at % self.side, at / self.side].iter().any(|place| [0, last].contains(place))
        };
        let border: Vec<[f32; 3]> =
            (0..self.pixels.len()).filter(is_border).map(|at| self.pixels[at]).collect();
        std::array::from_fn(|channel| {
            let mut values: Vec<f32> = border.iter().map(|pixel| pixel[channel]).collect();
            values.sort_by(f32::total_cmp);
            values[values.len() / 2]
        })
    }

    /// The mean of the squares by which values differ from another picture's.
    pub fn distance(&self, other: &Self) -> f32 {
        let pairs = self.pixels.iter().flatten().zip(other.pixels.iter().flatten());
        let sum: f32 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
        sum / (3 * self.pixels.len()) as f32
    }

    /// The value between pixels; `outside` beyond the border.
    fn at(&self, x: f32, y: f32, outside: [f32; 3]) -> [f32; 3] {
        let (left, top) = (x.floor(), y.floor());
        let pixel = |x: f32, y: f32| {
            let inside = 0.0..self.side as f32;
            if inside.contains(&x) && inside.contains(&y) {
                self.pixels[y as usize * self.side + x as usize]
            } else {
                outside
            }
        };
        let (right, low) = (x - left, y - top);
        let corners = [
            (pixel(left, top), (1.0 - right) * (1.0 - low)),
            (pixel(left + 1.0, top), right * (1.0 - low)),
            (pixel(left, top + 1.0), (1.0 - right) * low),
            (pixel(left + 1.0, top + 1.0), right * low),
        ];
        std::array::from_fn(|channel| corners.iter().map(|(it, share)| it[channel] * share).sum())
    }

    /// Turned by degrees, magnified and shifted by shares of the side, at another side.
    pub fn placed(&self, side: usize, alignment: &Alignment, outside: [f32; 3]) -> Self {
        let (sin, cos) = alignment.turn.to_radians().sin_cos();
        let ratio = self.side as f32 / side as f32;
        let pixels = (0..side * side).map(|at| {
            let centered = |place: usize, shift: f32| {
                ((place as f32 + 0.5) / side as f32 - 0.5 - shift) / alignment.scale
            };
            let x = centered(at % side, alignment.shift[0]);
            let y = centered(at / side, alignment.shift[1]);
            let back = |value: f32| (value + 0.5) * side as f32 * ratio - 0.5;
            self.at(back(cos * x + sin * y), back(cos * y - sin * x), outside)
        });
        Self { side, pixels: pixels.collect() }
    }
}

/// How a picture is laid over another.
#[derive(Debug, Clone, Copy)]
pub struct Alignment {
    /// Degrees.
    pub turn: f32,
    /// 1 is as it is.
    pub scale: f32,
    /// Shares of the side.
    pub shift: [f32; 2],
}

/// Alignments among which the best is taken: every combination.
pub fn alignments(turns: &[f32], scales: &[f32], shifts: &[f32]) -> Vec<Alignment> {
    let mut all = Vec::new();
    for &turn in turns {
        for &scale in scales {
            for &x in shifts {
                for &y in shifts {
                    all.push(Alignment { turn, scale, shift: [x, y] });
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(side: usize) -> Picture {
        // two blocks
        let pixel = |at: usize| match (8 * (at % side) / side, 8 * (at / side) / side) {
            (2..5, 2..4) => [1.0, 0.2, 0.0],
            (3..6, 4..6) => [0.0, 0.9, 0.3],
            _ => [0.5; 3],
        };
        Picture { side, pixels: (0..side * side).map(pixel).collect() }
    }

    #[test]
    fn what_is_moved_comes_back() {
        let own = picture(64).shrunk(32);
        let still = Alignment { turn: 0.0, scale: 1.0, shift: [0.0; 2] };
        let same = own.placed(32, &still, [0.0; 3]);
        assert!(own.distance(&same) < 1e-10);
        let there = Alignment { turn: 8.0, scale: 0.8, shift: [0.03, -0.02] };
        let moved = own.placed(32, &there, [0.5; 3]);
        let far = own.distance(&moved);
        let turns: Vec<f32> = (-5..=5).map(|it| it as f32 * 4.0).collect();
        let alignments = alignments(&turns, &[1.0, 1.25], &[-0.03, 0.0, 0.03]);
        let back = alignments.iter().map(|alignment| moved.placed(32, alignment, [0.5; 3]));
        let best = back.map(|it| own.distance(&it));
        assert!(best.fold(f32::INFINITY, f32::min) < far / 3.0);
    }

    #[test]
    fn the_border_tells_the_background() {
        let mut own = Picture { side: 16, pixels: vec![[0.1, 0.2, 0.3]; 256] };
        own.pixels[5] = [1.0; 3];
        own.pixels[100] = [0.9; 3];
        assert_eq!(own.background(), [0.1, 0.2, 0.3]);
    }
}
