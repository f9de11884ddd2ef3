//! Embeddings in the plane.

use bhtsne::tSNE;
use unclip::unclip_nn::Whitening;
use unclip::{Device, Gallery, InvalidSetting};

/// More points than this are laid out with the approximation of Barnes and Hut.
const EXACT: usize = 2000;

/// A point for each embedding, both coordinates from 0 to 1: the two directions in which they
/// differ most.
pub(crate) fn pca(gallery: &Gallery, device: &Device) -> Vec<[f64; 2]> {
    spread(&components(gallery, device))
}

/// A point for each embedding, both coordinates from 0 to 1, such that neighbors stay neighbors.
/// It starts from the points of [`pca`], and so is the same every time.
pub(crate) fn tsne(gallery: &Gallery, device: &Device) -> Result<Vec<[f64; 2]>, InvalidSetting> {
    let n = gallery.len();
    if n < 4 {
        return Err(InvalidSetting::new(
            "number of embeddings for t-SNE",
            n,
            "at least 4; --method pca takes any number",
        ));
    }
    let values: Vec<f32> = gallery.image(device).0.into_data().iter::<f32>().collect();
    let rows: Vec<&[f32]> = values.chunks(values.len() / n).collect();
    // small, as t-SNE wants its start
    let start = spread(&components(gallery, device)).into_iter().flatten();
    let start: Vec<f32> = start.map(|v| (v as f32 - 0.5) * 1e-2).collect();
    // angles are what CLIP compares
    let distance = |a: &&[f32], b: &&[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        (2.0 - 2.0 * dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).max(0.0).sqrt()
    };
    let mut tsne = tSNE::<f32, &[f32], 2>::new(&rows);
    tsne.perplexity(((n - 1) as f32 / 3.0).min(30.0)).epochs(1000).initial_embedding(start);
    if n <= EXACT {
        tsne.exact(distance)
    } else {
        tsne.barnes_hut(0.5, distance)
    };
    let found = tsne.embedding();
    Ok(spread(&found.chunks(2).map(|point| [point[0], point[1]]).collect::<Vec<_>>()))
}

/// The first two principal components of each embedding; the second is 0 if there is but one.
fn components(gallery: &Gallery, device: &Device) -> Vec<[f32; 2]> {
    let image = gallery.image(device).0;
    let whitened = Whitening::of(image.clone()).forward(image);
    let width = whitened.dims()[1].min(2);
    let values: Vec<f32> = whitened.narrow(1, 0, width).into_data().iter::<f32>().collect();
    values.chunks(width).map(|row| [row[0], row.get(1).copied().unwrap_or(0.0)]).collect()
}

/// The points, stretched to the square from 0 to 1; a coordinate that is the same for all is in the
/// middle.
fn spread(points: &[[f32; 2]]) -> Vec<[f64; 2]> {
    let of = |axis: usize| points.iter().map(move |point| f64::from(point[axis]));
    let ends = [0, 1].map(|axis| {
        let (low, high) =
            (of(axis).fold(f64::INFINITY, f64::min), of(axis).fold(f64::NEG_INFINITY, f64::max));
        (low, high)
    });
    let place = |value: f32, (low, high): (f64, f64)| {
        let share = (f64::from(value) - low) / (high - low);
        if share.is_finite() { share } else { 0.5 }
    };
    points.iter().map(|&[x, y]| [place(x, ends[0]), place(y, ends[1])]).collect()
}
