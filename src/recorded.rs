//! Noise from a file, so that another implementation can use the same.

use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use unclip_core::{Draw, InvalidSetting, NoiseSource};
use unclip_nn::checkpoint::Weights;

use crate::{Error, StageId};

/// Every Gaussian draw of a run, in a safetensors file.
///
/// The draws of a stage are named `prior.initial`, `prior.step.0`, `prior.step.1` and so on, in the
/// order in which they are drawn. The last step has none, and neither have the steps of a sampler
/// that draws nothing. The other stages are `decoder`, `upsampler.0`, `upsampler.1` and so on; a decoder
/// that reads embeddings with noise has `decoder.augmentation`. Each
/// draw has one row per picture; those of a prior that draws a negative prompt as well have as many
/// rows after them for that.
///
/// # Example
/// ```no_run
/// use std::sync::Arc;
/// use unclip::{GenerateOptions, RecordedNoise, UnClip, device};
///
/// let unclip = UnClip::shapes(&device("flex")?)?;
/// let noise = Arc::new(RecordedNoise::open("noise.safetensors")?);
/// let made = unclip.text_to_image("a pink ring", &GenerateOptions::default().with_noise(noise))?;
/// made.trace.save("trace.safetensors")?;
/// # Ok::<(), unclip::Error>(())
/// ```
#[derive(Debug)]
pub struct RecordedNoise {
    path: PathBuf,
    draws: Weights,
    /// The one row of every draw that is taken; all of them if absent.
    row: Option<usize>,
}

impl RecordedNoise {
    /// Opens a file. Draws are read when their stage begins.
    ///
    /// # Errors
    /// The file cannot be read or is not a safetensors file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        Ok(Self { path: path.into(), draws: Weights::open(path)?, row: None })
    }

    /// The same noise reduced to one row, to make one picture of a batch again on its own.
    #[must_use]
    pub fn row(self, row: usize) -> Self {
        Self { row: Some(row), ..self }
    }

    /// The row that the first picture takes.
    pub(crate) fn first_row(&self) -> usize {
        self.row.unwrap_or(0)
    }

    /// Name of the file, for the settings that are kept with a picture.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The draws of a stage, the start and one for each of `steps` steps, each of the given shape.
    /// If it is doubled, its second half is what the negative prompt draws.
    pub(crate) fn stage(
        &self,
        stage: StageId,
        steps: usize,
        (shape, is_doubled): (&[usize], bool),
    ) -> Result<StageNoise, Error> {
        let read = |draw: String| self.read(&format!("{stage}.{draw}"), shape, is_doubled);
        let initial = read("initial".into())?;
        let steps = (0..steps).map(|k| read(format!("step.{k}")));
        Ok(StageNoise { initial, steps: steps.collect::<Result<_, _>>()? })
    }

    /// The noise of image embeddings, of this shape.
    pub(crate) fn augmentation(&self, shape: &[usize]) -> Result<TensorData, Error> {
        self.read("decoder.augmentation", shape, false)
    }

    fn read(&self, key: &str, shape: &[usize], is_doubled: bool) -> Result<TensorData, Error> {
        let place = || format!("{key} in {}", self.path.display());
        let expected = match self.row {
            None => format!("{shape:?}: rows, then the shape of one sample"),
            Some(row) => format!("more than {row} rows, each {:?}", &shape[1..]),
        };
        let one = if is_doubled { 2 } else { 1 };
        if self.row.is_some() && shape[0] != one {
            let name = "pictures from one row of recorded noise";
            return Err(InvalidSetting::new(name, shape[0], "1").into());
        }
        let fits = |found: &[usize]| match self.row {
            None => found == shape,
            Some(row) => {
                let rows = found.first().map(|&rows| if is_doubled { rows / 2 } else { rows });
                rows.is_some_and(|rows| rows > row) && found[1..] == shape[1..]
            }
        };
        match self.draws.shape(key) {
            None => return Err(InvalidSetting::new(place(), "absent", expected).into()),
            Some(found) if !fits(found) => {
                return Err(InvalidSetting::new(place(), format!("{found:?}"), expected).into());
            }
            Some(_) => {}
        }
        let Some(mut values) = self.draws.read(key)? else {
            let found = self.draws.dtype(key).map_or(String::new(), |it| format!("{it:?}"));
            return Err(InvalidSetting::new(place(), found, "F32, F16 or BF16").into());
        };
        if let Some(row) = self.row {
            let len: usize = shape[1..].iter().product();
            let rows = values.len() / len;
            let others = is_doubled.then_some(rows / 2 + row);
            let rows = [Some(row), others].into_iter().flatten();
            values = rows.flat_map(|row| values[row * len..][..len].to_vec()).collect();
        }
        Ok(TensorData::new(values, shape.to_vec()))
    }
}

/// The draws of one stage.
pub(crate) struct StageNoise {
    initial: TensorData,
    /// The first step's first.
    steps: Vec<TensorData>,
}

impl NoiseSource for StageNoise {
    /// Gives the draws that were read when the stage began.
    ///
    /// # Panics
    /// If asked for another stage's draws.
    fn draw(&mut self, draw: Draw, shape: &[usize]) -> TensorData {
        let data = match draw {
            Draw::Initial => self.initial.clone(),
            // schedules count their steps from the last one, which draws nothing
            Draw::Step(index) => self.steps[self.steps.len() - index].clone(),
        };
        assert_eq!(data.shape().as_slice(), shape, "the draws were checked when the stage began");
        data
    }
}
