//! The words of the shapes world and what each stands for in a picture.
//!
//! Every table of the specification is here: names and synonyms, colors, outlines, radii, places
//! and the color-shape pairs kept out of training. Nothing here knows captions or pixels.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Declares an enumeration of caption words, each with an optional synonym.
macro_rules! words {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$note:meta])* $variant:ident = $word:literal $(| $synonym:literal)?),+ $(,)? }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$note])* #[doc = concat!("“", $word, "”.")] $variant),+ }

        impl $name {
            /// Every value, in the order of the specification.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The word that names it in a caption.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Another word for the same thing, if captions use one.
            pub const fn synonym(self) -> Option<&'static str> {
                let synonyms: &[&'static str] = match self { $(Self::$variant => &[$($synonym)?]),+ };
                synonyms.first().copied()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl $crate::palette::Word for $name {
            const WORDS: &'static [Self] = &Self::ALL;

            fn spellings(self) -> (&'static str, Option<&'static str>) {
                (self.name(), self.synonym())
            }
        }
    };
}
pub(super) use words;

/// An enumeration whose values can be said and recognized.
pub(super) trait Word: Copy + 'static {
    /// Every value.
    const WORDS: &'static [Self];

    /// The usual word and its synonym.
    fn spellings(self) -> (&'static str, Option<&'static str>);
}

words! {
    /// What fills the picture behind the objects.
    Background { White = "white", Black = "black", Gray = "gray" | "grey" }
}

words! {
    /// The color of an object.
    Color {
        Red = "red", Orange = "orange", Yellow = "yellow", Green = "green",
        Cyan = "cyan", Blue = "blue", Purple = "purple", Pink = "pink",
    }
}

words! {
    /// The outline of an object.
    Shape {
        Circle = "circle" | "disc", Square = "square" | "box", Triangle = "triangle",
        Star = "star", Cross = "cross" | "plus", Ring = "ring" | "hoop",
    }
}

words! {
    /// How large an object is.
    Size { Small = "small" | "tiny", Large = "large" | "big" }
}

words! {
    /// Where a single object is: a cell of a 3x3 grid, row by row.
    Position {
        TopLeft = "top left", Top = "top", TopRight = "top right",
        Left = "left", Center = "center" | "middle", Right = "right",
        BottomLeft = "bottom left", Bottom = "bottom", BottomRight = "bottom right",
    }
}

words! {
    /// Where the first of two objects is, seen from the second.
    Relation { LeftOf = "left of", RightOf = "right of", Above = "above", Below = "below" }
}

/// Pairs that never occur in training; a model that draws them combines instead of recalling.
pub const HELD_OUT: [(Color, Shape); 6] = [
    (Color::Red, Shape::Star),
    (Color::Orange, Shape::Ring),
    (Color::Yellow, Shape::Cross),
    (Color::Green, Shape::Triangle),
    (Color::Cyan, Shape::Square),
    (Color::Blue, Shape::Circle),
];

/// Whether this pair is one of [`HELD_OUT`].
pub fn is_held_out(color: Color, shape: Shape) -> bool {
    HELD_OUT.contains(&(color, shape))
}

/// How far a shape of radius 1 reaches from its center.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Extent {
    /// To the left and to the right.
    pub side: f32,
    /// Upwards.
    pub top: f32,
    /// Downwards.
    pub bottom: f32,
}

impl Background {
    /// The sRGB value.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::White => [250, 250, 250],
            Self::Black => [15, 15, 15],
            Self::Gray => [128, 128, 128],
        }
    }
}

impl Color {
    /// The sRGB value.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [214, 39, 40],
            Self::Orange => [255, 140, 0],
            Self::Yellow => [250, 220, 40],
            Self::Green => [44, 160, 44],
            Self::Cyan => [40, 200, 220],
            Self::Blue => [31, 90, 220],
            Self::Purple => [130, 60, 180],
            Self::Pink => [250, 130, 190],
        }
    }
}

impl Size {
    /// Smallest and largest radius, as fractions of the picture's side.
    pub const fn radii(self) -> Range<f32> {
        match self {
            Self::Small => 0.10..0.13,
            Self::Large => 0.19..0.24,
        }
    }

    /// The size of an object of this radius; the limit lies in the middle of the gap.
    pub fn of(radius: f32) -> Self {
        if radius < 0.16 { Self::Small } else { Self::Large }
    }
}

impl Position {
    /// The middle of the cell, `[x, y]`.
    pub fn center(self) -> [f32; 2] {
        let cell = self as u8;
        [f32::from(cell % 3 + 1) / 4.0, f32::from(cell / 3 + 1) / 4.0]
    }

    /// The cell that holds a point.
    pub fn of([x, y]: [f32; 2]) -> Self {
        let third = |at: f32| usize::from(at >= 0.375) + usize::from(at >= 0.625);
        Self::ALL[3 * third(y) + third(x)]
    }
}

impl Relation {
    /// The usual centers of the first and of the second object.
    pub const fn centers(self) -> [[f32; 2]; 2] {
        match self {
            Self::LeftOf => [[0.25, 0.5], [0.75, 0.5]],
            Self::RightOf => [[0.75, 0.5], [0.25, 0.5]],
            Self::Above => [[0.5, 0.25], [0.5, 0.75]],
            Self::Below => [[0.5, 0.75], [0.5, 0.25]],
        }
    }

    /// The same seen from the second object.
    pub const fn opposite(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }

    /// How `first` lies to `second`, by the axis along which they are further apart.
    pub fn of(first: [f32; 2], second: [f32; 2]) -> Self {
        let (x, y) = (first[0] - second[0], first[1] - second[1]);
        match x.abs() > y.abs() {
            true if x < 0.0 => Self::LeftOf,
            true => Self::RightOf,
            false if y < 0.0 => Self::Above,
            false => Self::Below,
        }
    }
}

impl Shape {
    /// How far the outline reaches for radius 1.
    pub const fn extent(self) -> Extent {
        let (side, top, bottom) = match self {
            Self::Circle | Self::Cross | Self::Ring => (1.0, 1.0, 1.0),
            Self::Square => (0.9, 0.9, 0.9),
            Self::Triangle => (0.866_025_4, 1.0, 0.5),
            Self::Star => (0.951_056_5, 1.0, 0.809_017),
        };
        Extent { side, top, bottom }
    }

    /// The area for radius 1.
    pub const fn area(self) -> f64 {
        match self {
            Self::Circle => std::f64::consts::PI,
            Self::Square => 3.24,
            Self::Triangle => 1.299_038_105_676_658,
            Self::Star => 1.322_516_909_457_815,
            Self::Cross => 2.31,
            Self::Ring => std::f64::consts::PI * (1.0 - 0.55 * 0.55),
        }
    }

    /// Cuts the outline of radius 1 at height `y` (downwards from the center).
    ///
    /// All six are mirror images of themselves, so a cut is one range of distances from the
    /// middle line: the points with `inner <= |x| < outer`.
    pub(super) fn cut(self, y: f64) -> Option<Range<f64>> {
        let cut = match self {
            Self::Circle => 0.0..half_chord(1.0, y),
            Self::Square => 0.0..within(0.9, y, 0.9),
            Self::Triangle => 0.0..within(0.5, y.max(0.0), (y + 1.0) / 3.0_f64.sqrt()),
            Self::Star => star_cut(y),
            Self::Cross => 0.0..within(0.35, y, 1.0).max(within(1.0, y, 0.35)),
            Self::Ring => half_chord(0.55, y)..half_chord(1.0, y),
        };
        (cut.start < cut.end).then_some(cut)
    }
}

/// `width` if `y` is not further than `reach` from the middle, else nothing.
fn within(reach: f64, y: f64, width: f64) -> f64 {
    if y.abs() <= reach { width } else { 0.0 }
}

/// Half the width of a disc at height `y`.
fn half_chord(radius: f64, y: f64) -> f64 {
    (radius * radius - y * y).max(0.0).sqrt()
}

/// The star's corners on its right half from the top to a foot, `[x, y]`.
///
/// Written out, since sine and cosine may differ in the last bit between machines.
const STAR: [[f64; 2]; 5] = [
    [0.0, -1.0],
    [0.264_503_363_53, -0.364_057_647_47],
    [0.951_056_516_30, -0.309_016_994_37],
    [0.427_975_432_33, 0.139_057_647_47],
    [0.587_785_252_29, 0.809_016_994_37],
];

/// Cuts the star: down its right side, and below the lowest notch between its two feet.
fn star_cut(y: f64) -> Range<f64> {
    let edge = |[a, b]: [[f64; 2]; 2]| a[0] + (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]);
    let side = STAR.windows(2).find(|ends| ends[0][1] <= y && y < ends[1][1]);
    let outer = side.map_or(0.0, |ends| edge([ends[0], ends[1]]));
    edge([[0.0, 0.45], STAR[4]]).max(0.0)..outer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_add_up_to_the_area_and_stay_within_the_extent() {
        let step = 1e-4;
        for shape in Shape::ALL {
            let cuts = (-11_000..11_000).map(|row| (f64::from(row) + 0.5) * step);
            let cuts = cuts.filter_map(|y| Some((y, shape.cut(y)?)));
            let area: f64 = cuts.clone().map(|(_, cut)| 2.0 * (cut.end - cut.start) * step).sum();
            assert!((area - shape.area()).abs() < 1e-3, "{shape}: {area}");
            let extent = shape.extent();
            for (y, cut) in cuts {
                assert!(cut.end <= f64::from(extent.side) + 1e-6, "{shape}");
                assert!(-y <= f64::from(extent.top) && y <= f64::from(extent.bottom), "{shape}");
            }
        }
    }

    #[test]
    fn every_cell_and_relation_is_recognized_from_its_centers() {
        for position in Position::ALL {
            assert_eq!(Position::of(position.center()), position);
        }
        for relation in Relation::ALL {
            let [first, second] = relation.centers();
            assert_eq!(Relation::of(first, second), relation);
        }
        assert_eq!(Position::TopRight.center(), [0.75, 0.25]);
    }

    #[test]
    fn each_held_out_color_and_shape_occurs_once() {
        for color in Color::ALL {
            assert!(Shape::ALL.iter().filter(|&&shape| is_held_out(color, shape)).count() <= 1);
        }
        for shape in Shape::ALL {
            assert_eq!(Color::ALL.iter().filter(|&&color| is_held_out(color, shape)).count(), 1);
        }
    }

    #[test]
    fn names_and_synonyms_are_those_of_the_specification() {
        assert_eq!((Shape::Cross.name(), Shape::Cross.synonym()), ("cross", Some("plus")));
        assert_eq!((Shape::Star.name(), Shape::Star.synonym()), ("star", None));
        assert_eq!(format!("[{:>6}]", Background::Gray), "[  gray]");
    }
}
