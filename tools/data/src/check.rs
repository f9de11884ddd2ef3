//! What drawn pictures show: the nearest of the true ones, after alignment.

use std::path::{Path, PathBuf};

use clap::Parser;
use rayon::prelude::*;
use resvg::tiny_skia::Pixmap;

use crate::align::{Alignment, COARSE, Picture, SIDE, alignments};
use crate::ask::drawn;
use crate::draw::{BACKGROUNDS, Drawing};
use crate::icons::{self, Icon, untoned};
use crate::lines::{Line, read_lines};

/// Candidates that are looked at closely.
const CLOSE: usize = 40;
/// Side to which pictures are shrunk before they are aligned.
const OWN_SIDE: usize = 64;

/// Finds for each drawn picture the emoji that is nearest to it, whatever its place, turn and size, and says how
/// often that is the one that was asked for.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// Folder of the unpacked packages
    #[arg(long, value_name = "DIR")]
    packages: PathBuf,
    /// Folder that `ask` wrote, with the pictures 00000.png, 00001.png and so on beside metadata.jsonl
    #[arg(long, value_name = "DIR")]
    pictures: PathBuf,
    /// Folder of the pictures that the model was trained on, of which the nearest is looked for
    #[arg(long, value_name = "DIR")]
    train: PathBuf,
}

/// An emoji as it may be drawn.
struct Candidate {
    icon: Icon,
    /// At the sides [`COARSE`] and [`SIDE`].
    drawings: [Drawing; 2],
}

/// What was found of a picture.
struct Found {
    /// Place of the emoji that was asked for among those that were looked at closely; none if it is not there.
    rank: Option<usize>,
    /// Whether the nearest emoji is of the concept that was asked for, in any style.
    concept: bool,
    /// Whether concept and style of the nearest are right, whatever its skin tone; whether its style is.
    untoned: bool,
    style: bool,
    background: bool,
    /// Root of the mean squared distance of a value from the nearest emoji, and from the nearest training
    /// picture as it is.
    to_nearest: f32,
    to_trained: f32,
}

pub fn run(arguments: &Arguments) -> Result<(), String> {
    let asked = read_lines(&arguments.pictures)?;
    let candidates: Result<Vec<Candidate>, String> =
        icons::all(&arguments.packages)?.into_par_iter().map(Candidate::new).collect();
    let candidates = candidates?;
    if asked.is_empty() || candidates.is_empty() {
        return Err(format!(
            "{} pictures, {} emoji: nothing to compare",
            asked.len(),
            candidates.len()
        ));
    }
    let trained: Result<Vec<Picture>, String> = read_lines(&arguments.train)?
        .par_iter()
        .map(|line| Ok(read(&arguments.train.join(&line.file_name))?.shrunk(SIDE)))
        .collect();
    let trained = trained?;
    if trained.is_empty() {
        return Err(format!("{}: no picture", arguments.train.display()));
    }
    let found: Result<Vec<Found>, String> = asked
        .par_iter()
        .enumerate()
        .map(|(number, line)| {
            let picture = read(&drawn(&arguments.pictures, number))?;
            Ok(look(&picture, line, &candidates, &trained))
        })
        .collect();
    tell(&found?);
    Ok(())
}

fn tell(found: &[Found]) {
    let n = found.len() as f32;
    let share = |name: &str, is: &dyn Fn(&Found) -> bool| {
        println!(
            "| {name} | {:.1} % |",
            100.0 * found.iter().filter(|it| is(it)).count() as f32 / n
        );
    };
    println!("| of {} pictures | |\n|---|---|", found.len());
    share("the emoji is the nearest", &|it| it.rank == Some(0));
    share("it is among the five nearest", &|it| it.rank.is_some_and(|rank| rank < 5));
    share("the nearest is of its name, in any style", &|it| it.concept);
    share("the nearest is it but for its skin tone", &|it| it.untoned);
    share("the nearest is of its style", &|it| it.style);
    share("the background is right", &|it| it.background);
    let mean = |of: &dyn Fn(&Found) -> f32| found.iter().map(of).sum::<f32>() / n;
    println!("| distance from the nearest emoji, aligned | {:.3} |", mean(&|it| it.to_nearest));
    println!("| distance from the nearest training picture | {:.3} |", mean(&|it| it.to_trained));
}

impl Candidate {
    fn new(icon: Icon) -> Result<Self, String> {
        let at = |side| Drawing::plain(&icon.svg, side);
        let drawings = [at(COARSE)?, at(SIDE)?];
        Ok(Self { icon, drawings })
    }
}

/// A picture of a file, at the side [`OWN_SIDE`].
fn read(path: &Path) -> Result<Picture, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let pixels = Pixmap::load_png(path).map_err(|error| failed(&error))?;
    let side = pixels.width() as usize;
    if pixels.width() != pixels.height() || !side.is_multiple_of(OWN_SIDE) {
        return Err(failed(&format!(
            "expected a square with a multiple of {OWN_SIDE} pixels a side"
        )));
    }
    let value = |value: u8| f32::from(value) / 255.0;
    let pixels = pixels.pixels().iter().map(|it| [it.red(), it.green(), it.blue()].map(value));
    Ok(Picture { side, pixels: pixels.collect() }.shrunk(OWN_SIDE))
}

fn look(picture: &Picture, line: &Line, candidates: &[Candidate], trained: &[Picture]) -> Found {
    let background = picture.background();
    let ranked = ranked(picture, background, candidates);
    let is_asked = |candidate: &Candidate| {
        candidate.icon.concept == line.concept && candidate.icon.style == line.style
    };
    let nearest = &candidates[ranked[0].0].icon;
    let rank = ranked.iter().position(|(at, _)| is_asked(&candidates[*at]));
    let small = picture.shrunk(SIDE);
    let to_trained = trained.iter().map(|it| small.distance(it)).fold(f32::INFINITY, f32::min);
    Found {
        rank,
        concept: nearest.concept == line.concept,
        untoned: untoned(&nearest.concept) == untoned(&line.concept) && nearest.style == line.style,
        style: nearest.style == line.style,
        background: nearest_background(background) == line.background,
        to_nearest: ranked[0].1.sqrt(),
        to_trained: to_trained.sqrt(),
    }
}

/// The candidates that are nearest, with their distances, the nearest first.
fn ranked(picture: &Picture, background: [f32; 3], all: &[Candidate]) -> Vec<(usize, f32)> {
    let scales = [0.95, 1.0, 1.06, 1.12, 1.2];
    let rough = alignments(&[-10.0, 0.0, 10.0], &scales, &[-0.06, 0.0, 0.06]);
    let distances =
        distances(picture, background, (COARSE, &rough), all.iter().map(|it| &it.drawings[0]));
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|a, b| distances[*a].total_cmp(&distances[*b]));
    order.truncate(CLOSE);
    let turns = [-12.0, -8.0, -4.0, 0.0, 4.0, 8.0, 12.0];
    let fine = alignments(&turns, &scales, &[-0.06, -0.03, 0.0, 0.03, 0.06]);
    let close = order.iter().map(|at| &all[*at].drawings[1]);
    let distances = self::distances(picture, background, (SIDE, &fine), close);
    let mut ranked: Vec<(usize, f32)> = order.into_iter().zip(distances).collect();
    ranked.sort_by(|a, b| a.1.total_cmp(&b.1));
    ranked
}

/// How far a picture is from each drawing, in the alignment that fits best.
fn distances<'a>(
    picture: &Picture,
    background: [f32; 3],
    (side, alignments): (usize, &[Alignment]),
    drawings: impl Iterator<Item = &'a Drawing>,
) -> Vec<f32> {
    let own = |alignment| picture.placed(side, alignment, background);
    let placed: Vec<Picture> = alignments.iter().map(own).collect();
    let of = |drawing: &Drawing| {
        let drawn = drawing.over(background);
        placed.iter().map(|it| it.distance(&drawn)).fold(f32::INFINITY, f32::min)
    };
    drawings.map(of).collect()
}

fn nearest_background(color: [f32; 3]) -> &'static str {
    let far = |other: [u8; 3]| -> f32 {
        (0..3).map(|at| (color[at] - f32::from(other[at]) / 255.0).powi(2)).sum()
    };
    let nearest = BACKGROUNDS.iter().min_by(|a, b| far(a.1).total_cmp(&far(b.1)));
    nearest.map_or("none", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::{self, png};

    fn icon(concept: &str, shape: &str) -> Icon {
        let svg =
            format!(r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{shape}</svg>"#);
        Icon { concept: concept.into(), style: "Noto", keywords: Vec::new(), svg }
    }

    #[test]
    fn what_was_drawn_somewhere_is_found() {
        let icons = [
            icon("disc", r#"<circle cx="16" cy="16" r="14" fill="red"/>"#),
            icon("block", r#"<rect x="3" y="3" width="26" height="26" fill="red"/>"#),
            icon("blue-disc", r#"<circle cx="16" cy="16" r="14" fill="blue"/>"#),
            icon("bar", r#"<rect x="1" y="12" width="30" height="8" fill="red"/>"#),
        ];
        let candidates = icons.clone().map(|it| Candidate::new(it).expect("a drawing"));
        for icon in &icons {
            for copy in 0..5 {
                let placing = draw::Placing::drawn(&icon.concept, copy, 3);
                let file = tempfile(&png(&icon.svg, 128, &placing).expect("a picture"));
                let picture = read(&file).expect("a picture");
                std::fs::remove_file(file).expect("it was there");
                let line = Line {
                    file_name: String::new(),
                    text: Vec::new(),
                    concept: icon.concept.clone(),
                    style: icon.style.into(),
                    background: placing.background.0.into(),
                };
                let found = look(&picture, &line, &candidates, &[picture.shrunk(SIDE)]);
                assert_eq!(found.rank, Some(0), "{}", icon.concept);
                assert!(found.background && found.style && found.to_trained < 1e-6);
            }
        }
    }

    fn tempfile(bytes: &[u8]) -> PathBuf {
        let name = format!("emoji-{}-{}.png", std::process::id(), bytes.len());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }
}
