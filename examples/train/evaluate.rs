//! What a trained model is worth.

use std::sync::atomic::{AtomicBool, Ordering};

use unclip::train::{TrainStage, Training};

use super::console::{self, AnyError};
use super::{bar, go_on};

/// What the stages of the bundle are worth, those that are there.
pub(crate) fn evaluate(
    training: &Training,
    stages: &[TrainStage],
    shard: Option<(usize, usize)>,
    stopped: &AtomicBool,
) -> Result<(), AnyError> {
    let bundle = training.plan.model();
    for stage in stages.iter().filter(|stage| **stage != TrainStage::Embeddings) {
        let name = if *stage == TrainStage::Clip { "image_encoder".into() } else { stage.name() };
        if stages.len() > 1 && !bundle.join(&name).is_dir() {
            console::note(format_args!("{}: not trained yet", stage.name()));
            continue;
        }
        let bar = bar(&stage.name(), "parts")?;
        let found = training.measure(*stage, shard.unwrap_or((0, 1)), &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
            go_on(stopped)
        })?;
        bar.finish();
        if stopped.load(Ordering::Relaxed) {
            return Err("stopped; what was measured is kept, and the same command goes on".into());
        }
        let Some(found) = found else {
            console::note(format_args!("{}: parts of other machines are missing", stage.name()));
            continue;
        };
        for (measure, mean) in found.measures {
            let name = stage.name();
            console::say(format_args!("{name} {measure} {:.4} of {} items", mean.value, mean.n));
        }
    }
    Ok(())
}
