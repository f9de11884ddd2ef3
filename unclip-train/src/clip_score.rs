//! What CLIP sees: its own caption before those of every minimal change.
//!
//! Retrieval among random captions cannot tell whether a tower knows above from below, since no two
//! of a hundred random scenes differ in that alone.

use std::fmt;

use burn::tensor::Tensor;
use unclip_core::{ImageEmbedding, TextEmbedding, normalize};

use unclip_shapes::{Change, Description, Rate, Sample, Scene, ShapesWorld, Test};

/// Scenes that are embedded at once.
const CHUNK: usize = 64;

/// The questions: a kind of scene, and the one thing that changes in it.
const QUESTIONS: [(Test, Change); 12] = [
    (Test::SingleSeen, Change::Background),
    (Test::SingleSeen, Change::Color),
    (Test::SingleSeen, Change::Size),
    (Test::SingleSeen, Change::Shape),
    (Test::SingleSeen, Change::Position),
    (Test::Pair, Change::Background),
    (Test::Pair, Change::Color),
    (Test::Pair, Change::Size),
    (Test::Pair, Change::Shape),
    (Test::Pair, Change::Relation),
    (Test::Pair, Change::SwappedColors),
    (Test::Pair, Change::SwappedShapes),
];

/// How often a picture is closer to its own caption than to every caption that differs in one
/// thing. Its `Display` is a table.
#[derive(Debug, Clone)]
pub struct ClipScore(pub Vec<(Test, Change, Rate)>);

impl ClipScore {
    /// How many questions there are.
    pub const QUESTIONS: usize = QUESTIONS.len();

    /// Asks `n` scenes for each question. `embed` gives the embeddings of the pictures of some
    /// scenes, and of some captions.
    ///
    /// # Errors
    /// Those of `embed`.
    pub fn measure<E>(
        world: &ShapesWorld,
        n: usize,
        mut embed: impl FnMut(&[Scene], &[String]) -> Result<(ImageEmbedding, TextEmbedding), E>,
    ) -> Result<Self, E> {
        let mut rows = Vec::new();
        for (test, change) in QUESTIONS {
            let mut rate = Rate::default();
            let indices: Vec<u64> = (0..n as u64).collect();
            for chunk in indices.chunks(CHUNK) {
                let cases: Vec<Case> =
                    chunk.iter().map(|&index| Case::new(world, test, change, index)).collect();
                let scenes: Vec<Scene> = cases.iter().map(|case| case.scene).collect();
                let captions: Vec<String> =
                    cases.iter().flat_map(|case| case.captions.clone()).collect();
                let (image, text) = embed(&scenes, &captions)?;
                count(&cases, cosines(image, text), &mut rate);
            }
            rows.push((test, change, rate));
        }
        Ok(Self(rows))
    }

    /// The rate of one question.
    pub fn get(&self, test: Test, change: Change) -> Option<Rate> {
        self.0.iter().find(|row| (row.0, row.1) == (test, change)).map(|row| row.2)
    }
}

impl fmt::Display for ClipScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (test, change, rate) in &self.0 {
            let name = match test {
                Test::Pair => "two objects",
                _ => "one object",
            };
            writeln!(f, "{name:<11}  {:<14}  {rate}", change.name())?;
        }
        Ok(())
    }
}

/// A scene, its caption, and after that the captions of its changes.
struct Case {
    scene: Scene,
    captions: Vec<String>,
}

impl Case {
    fn new(world: &ShapesWorld, test: Test, change: Change, index: u64) -> Self {
        let Sample { scene, caption, .. } = world.test_sample(test, index);
        let changes = world.changes(change, &scene, index);
        let others = changes.iter().map(|scene| Description::of(scene).to_string());
        Self { scene, captions: std::iter::once(caption).chain(others).collect() }
    }
}

/// `[scenes, captions]`, row by row.
fn cosines(image: ImageEmbedding, text: TextEmbedding) -> Vec<f32> {
    let cosines: Tensor<2> = normalize(image.0).matmul(normalize(text.pooled).transpose());
    cosines.into_data().iter::<f32>().collect()
}

fn count(cases: &[Case], cosines: Vec<f32>, rate: &mut Rate) {
    let captions: usize = cases.iter().map(|case| case.captions.len()).sum();
    let mut first = 0;
    for (row, case) in cases.iter().enumerate() {
        let own = &cosines[row * captions + first..][..case.captions.len()];
        // a scene whose only change would be of a held-out pair asks nothing
        if let [own, others @ ..] = own
            && !others.is_empty()
        {
            rate.add(others.iter().all(|other| own > other));
        }
        first += case.captions.len();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use burn::tensor::{Bool, Device, TensorData};

    use super::*;

    /// What a caption says, word by word: one direction for each word that is used.
    fn bag(text: &str, words: &[&str]) -> Vec<f32> {
        words.iter().map(|word| text.split(' ').filter(|w| w == word).count() as f32).collect()
    }

    /// A CLIP that counts words sees every thing but the order of two objects.
    #[test]
    fn a_bag_of_words_is_at_a_loss_where_order_counts() {
        let words: Vec<&str> = "white black gray red orange yellow green cyan blue purple pink \
                                circle square triangle star cross ring small large top bottom \
                                center left right above below"
            .split_whitespace()
            .collect();
        let device = Device::flex();
        let tensor = |texts: Vec<String>| {
            let rows: Vec<f32> = texts.iter().flat_map(|text| bag(text, &words)).collect();
            Tensor::<2>::from_data(TensorData::new(rows, [texts.len(), words.len()]), &device)
        };
        let embed = |scenes: &[Scene], captions: &[String]| {
            let seen = scenes.iter().map(|scene| Description::of(scene).to_string()).collect();
            let pooled = tensor(captions.to_vec());
            let tokens = pooled.clone().unsqueeze_dim(1);
            let mask = Tensor::<2, Bool>::full([captions.len(), 1], true, &device);
            let text = TextEmbedding { pooled, tokens, mask };
            Ok::<_, Infallible>((ImageEmbedding(tensor(seen)), text))
        };
        let Ok(score) = ClipScore::measure(&ShapesWorld::new(2), 50, embed);
        let share = |test, change| score.get(test, change).unwrap().value();
        assert_eq!(share(Test::SingleSeen, Change::Position), 1.0);
        assert_eq!(share(Test::Pair, Change::SwappedColors), 0.0);
        assert_eq!(share(Test::Pair, Change::SwappedShapes), 0.0);
        assert_eq!(score.0.len(), QUESTIONS.len());
    }
}
