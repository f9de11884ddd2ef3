//! There and back, and from one picture to another.

use std::fmt::Write;

use unclip::train::shapes::{
    Change, Description, Rate, Reading, Sample, Scene, Tally, judge, read,
};
use unclip::unclip_core::image::{psnr, to_rgb};
use unclip::{Ddim, Error, Latents, RgbImage};

use crate::Evaluation;

/// How close pictures come back, at the decoder's size.
pub(crate) fn reconstruction(evaluation: &Evaluation) -> Result<String, Error> {
    const WAYS: [(&str, usize); 6] =
        [("ddim", 10), ("ddim", 25), ("ddim", 50), ("ddim", 100), ("belm", 10), ("belm", 25)];
    let mut text = String::from("reconstruction, PSNR at the decoder's size\n");
    for (sampler, steps) in WAYS {
        let mut decibels = Vec::new();
        for numbers in evaluation.begin("reconstruction", evaluation.cases, evaluation.batch) {
            let scenes: Vec<Scene> =
                evaluation.samples(&numbers).iter().map(|sample| sample.scene).collect();
            let pictures = evaluation.pictures(&scenes);
            let options = evaluation.inversion(sampler, steps)?;
            let latents = evaluation.unclip.invert(&pictures, &options)?;
            let back = to_rgb(evaluation.draw(&latents, None, &numbers)?);
            let seen = small(evaluation, &pictures)?;
            decibels.extend(back.iter().zip(&seen).map(|(back, seen)| psnr(back, seen)));
            evaluation.bar.inc(numbers.len() as u64);
        }
        decibels.sort_by(f64::total_cmp);
        let exact = decibels.iter().filter(|value| value.is_infinite()).count();
        let finite: Vec<f64> = decibels.iter().copied().filter(|value| value.is_finite()).collect();
        // of none that differ there is no mean
        let mean = match finite.len() {
            0 => f64::INFINITY,
            n => finite.iter().sum::<f64>() / n as f64,
        };
        let _ = writeln!(
            text,
            "{sampler:<5} {steps:>3} steps: mean {mean:5.1} dB, median {:5.1}, least {:5.1}; {exact} \
             of {} to the last bit",
            decibels[decibels.len() / 2],
            decibels[0],
            decibels.len(),
        );
    }
    Ok(text)
}

/// What the decoder sees of pictures.
fn small(evaluation: &Evaluation, pictures: &[RgbImage]) -> Result<Vec<RgbImage>, Error> {
    let unclip = &evaluation.unclip;
    let fit = |picture| unclip.bundle().fit_small(picture, &unclip.device());
    pictures.iter().map(fit).collect()
}

/// What stays in variations that start from the picture's own noise.
pub(crate) fn variations(evaluation: &Evaluation) -> Result<String, Error> {
    const ETAS: [f64; 4] = [0.0, 0.5, 0.8, 1.0];
    let mut tallies = ETAS.map(|_| Tally::default());
    let mut same = ETAS.map(|_| Rate::default());
    for numbers in evaluation.begin("variations", evaluation.cases, evaluation.batch) {
        let samples = evaluation.samples(&numbers);
        let scenes: Vec<Scene> = samples.iter().map(|sample| sample.scene).collect();
        let options = evaluation.inversion("ddim", evaluation.steps)?;
        let latents = evaluation.unclip.invert(&evaluation.pictures(&scenes), &options)?;
        let back = to_rgb(evaluation.draw(&latents, None, &numbers)?);
        let seeds: Vec<u64> =
            numbers.iter().map(|number| evaluation.seed.wrapping_add(*number)).collect();
        for (at, eta) in ETAS.into_iter().enumerate() {
            let made = evaluation.draw(&latents, Some(Ddim { eta }.into()), &seeds)?;
            let small = to_rgb(made.clone());
            small.iter().zip(&back).for_each(|(made, back)| same[at].add(made == back));
            let read_at = evaluation.read_size(made, &seeds)?;
            for (sample, picture) in samples.iter().zip(&read_at) {
                tallies[at].add(&judge(&Description::of(&sample.scene), &read(picture)));
            }
        }
        evaluation.bar.inc(numbers.len() as u64);
    }
    let mut text = String::from("variations from the picture's own noise\n");
    for (at, eta) in ETAS.into_iter().enumerate() {
        let _ =
            writeln!(text, "eta {eta}: equal to the reconstruction {}\n{}", same[at], tallies[at]);
    }
    Ok(text)
}

/// Frames of a way, the ends included.
const FRAMES: usize = 9;

/// What changes, and how one reads it.
const CHANGES: [(Change, Trait); 5] = [
    (Change::Color, |reading| format!("{:?}", reading.objects.first().map(|it| it.color))),
    (Change::Shape, |reading| format!("{:?}", reading.objects.first().map(|it| it.shape))),
    (Change::Size, |reading| format!("{:?}", reading.objects.first().map(|it| it.size))),
    (Change::Position, |reading| format!("{:?}", reading.position())),
    (Change::Background, |reading| format!("{:?}", reading.background)),
];

type Trait = fn(&Reading) -> String;

/// How often the thing in which two pictures differ changes once on the way, and not to and fro.
pub(crate) fn interpolation(evaluation: &Evaluation) -> Result<String, Error> {
    let each = evaluation.cases.div_ceil(CHANGES.len());
    let mut text = String::from(
        "interpolation of both latents between two pictures that differ in one thing, 9 frames\n",
    );
    let (mut all, mut ends) = (Rate::default(), Rate::default());
    for (change, look) in CHANGES {
        let (mut once, mut direct) = (Rate::default(), Rate::default());
        for numbers in evaluation.begin("interpolation", each, 5) {
            for number in &numbers {
                let Some([first, second]) = evaluation.pair(change, *number) else { continue };
                let options = evaluation.inversion("ddim", evaluation.steps)?;
                let pictures = evaluation.pictures(&[first, second]);
                let latents = evaluation.unclip.invert(&pictures, &options)?;
                let strip = evaluation.strip(&latents)?;
                ends.add(strip.has_ends);
                let seen: Vec<String> = strip.frames.iter().map(|it| look(&read(it))).collect();
                let (is_once, is_direct) = monotone(&seen);
                once.add(is_once);
                all.add(is_once);
                direct.add(is_direct);
            }
            evaluation.bar.inc(numbers.len() as u64);
        }
        let _ = writeln!(
            text,
            "{:<10}  once, not to and fro {once}; of these without anything between {direct}",
            change.name()
        );
    }
    let _ = writeln!(text, "all         once, not to and fro {all}");
    let _ = writeln!(text, "ends are the reconstructions, to the last bit {ends}");
    Ok(text)
}

/// Frames between two pictures.
struct Strip {
    frames: Vec<RgbImage>,
    /// Whether the first and the last are what the latents give.
    has_ends: bool,
}

impl Evaluation {
    /// Two scenes that differ in one thing.
    fn pair(&self, change: Change, number: u64) -> Option<[Scene; 2]> {
        let Sample { scene, .. } = self.samples(&[number]).remove(0);
        let others = self.world.changes(change, &scene, number);
        let other = others.get(number as usize % others.len().max(1))?;
        Some([scene, *other])
    }

    fn strip(&self, ends: &Latents) -> Result<Strip, Error> {
        let [first, last] = [0, 1].map(|row| ends.narrow(row, 1));
        let at = |frame: usize| first.between(&last, frame as f64 / (FRAMES - 1) as f64);
        let way = Latents::cat(&(0..FRAMES).map(at).collect::<Result<Vec<_>, _>>()?)?;
        let seeds = [self.seed; FRAMES];
        let made = self.draw(&way, None, &seeds)?;
        let back = to_rgb(self.draw(ends, None, &seeds[..2])?);
        let small = to_rgb(made.clone());
        let has_ends = small[0] == back[0] && small[FRAMES - 1] == back[1];
        Ok(Strip { frames: self.read_size(made, &seeds)?, has_ends })
    }
}

/// Whether what is seen goes from the first to the last without coming back to the one or leaving
/// the other, and whether it does so with nothing else between them.
fn monotone(seen: &[String]) -> (bool, bool) {
    let (first, last) = (&seen[0], &seen[seen.len() - 1]);
    let left = seen.iter().position(|it| it != first).unwrap_or(seen.len());
    let reached = seen.iter().rposition(|it| it != last).map_or(0, |place| place + 1);
    let is_once = first != last && left <= reached;
    let is_clean = is_once
        && seen[..left].iter().all(|it| it == first)
        && seen[left..reached].iter().all(|it| it != first && it != last)
        && seen[reached..].iter().all(|it| it == last);
    (is_clean, is_clean && left == reached)
}
