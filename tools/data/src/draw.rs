//! Drawings as pictures.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::align::Picture;
use crate::icons::hash;

/// Plain backgrounds: name and color.
pub const BACKGROUNDS: [(&str, [u8; 3]); 8] = [
    ("white", [255, 255, 255]),
    ("black", [0, 0, 0]),
    ("gray", [128, 128, 128]),
    ("light blue", [173, 216, 240]),
    ("green", [96, 176, 96]),
    ("pink", [250, 200, 215]),
    ("yellow", [250, 228, 130]),
    ("brown", [140, 100, 70]),
];

/// Where a drawing lies, and on what.
#[derive(Debug, Clone, Copy)]
pub struct Placing {
    /// Name and color.
    pub background: (&'static str, [u8; 3]),
    /// Degrees.
    turn: f32,
    /// Share of the picture's side.
    scale: f32,
    /// Shares of the picture's side.
    shift: [f32; 2],
}

impl Placing {
    /// In the middle, on white.
    pub fn plain() -> Self {
        Self { background: BACKGROUNDS[0], turn: 0.0, scale: 0.9, shift: [0.0; 2] }
    }

    /// By chance, which follows from name, copy and seed.
    pub fn drawn(name: &str, copy: u32, seed: u64) -> Self {
        let text = hash(name);
        let mut rng = ChaCha8Rng::seed_from_u64(text ^ seed.rotate_left(32) ^ u64::from(copy));
        Self {
            background: BACKGROUNDS[rng.random_range(0..BACKGROUNDS.len())],
            turn: rng.random_range(-12.0..12.0),
            scale: rng.random_range(0.75..0.95),
            shift: [rng.random_range(-0.05..0.05), rng.random_range(-0.05..0.05)],
        }
    }
}

/// A drawing on a square of this side, as a PNG file.
pub fn png(svg: &str, side: u32, placing: &Placing) -> Result<Vec<u8>, String> {
    let mut pixels = Pixmap::new(side, side).ok_or("no such side")?;
    let [red, green, blue] = placing.background.1;
    pixels.fill(Color::from_rgba8(red, green, blue, 255));
    render(svg, placing, &mut pixels)?;
    pixels.encode_png().map_err(|error| error.to_string())
}

fn render(svg: &str, placing: &Placing, pixels: &mut Pixmap) -> Result<(), String> {
    let tree = Tree::from_str(svg, &Options::default()).map_err(|error| error.to_string())?;
    let side = pixels.width() as f32;
    let size = tree.size();
    let own = size.width().max(size.height());
    let scale = placing.scale * side / own;
    let middle = |shift: f32| (0.5 + shift) * side;
    let transform = Transform::from_translate(-size.width() / 2.0, -size.height() / 2.0)
        .post_scale(scale, scale)
        .post_rotate(placing.turn)
        .post_translate(middle(placing.shift[0]), middle(placing.shift[1]));
    resvg::render(&tree, transform, &mut pixels.as_mut());
    Ok(())
}

/// A drawing without a background, in the middle of a square.
pub struct Drawing {
    side: usize,
    /// Colors times opacity, and opacity.
    pixels: Vec<[f32; 4]>,
}

impl Drawing {
    /// At a side.
    pub fn plain(svg: &str, side: usize) -> Result<Self, String> {
        let mut pixels = Pixmap::new(side as u32, side as u32).ok_or("no such side")?;
        render(svg, &Placing::plain(), &mut pixels)?;
        let value = |value: u8| f32::from(value) / 255.0;
        let own = pixels.pixels().iter();
        let own = own.map(|it| [it.red(), it.green(), it.blue(), it.alpha()].map(value));
        Ok(Self { side, pixels: own.collect() })
    }

    /// Over a background.
    pub fn over(&self, background: [f32; 3]) -> Picture {
        let pixel = |it: &[f32; 4]| {
            std::array::from_fn(|channel| it[channel] + (1.0 - it[3]) * background[channel])
        };
        Picture { side: self.side, pixels: self.pixels.iter().map(pixel).collect() }
    }
}
