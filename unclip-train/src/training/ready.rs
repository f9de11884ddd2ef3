//! A stage with everything that it takes.

use std::ops::ControlFlow;

use unclip_clip::{ImageEncoderConfig, TextEncoderConfig};

use crate::objective::Objective;
use crate::train_stage::TrainStage;
use crate::{StepReport, TrainSettings};

/// A stage that can be trained, or measured.
pub(super) struct Ready<O: Objective, C> {
    pub(super) stage: TrainStage,
    /// Name of the space of the CLIP that it works with; empty of one that works with none.
    pub(super) space: String,
    pub(super) config: C,
    /// With the weights that it starts from.
    pub(super) network: O::Network,
    pub(super) objective: O,
}

/// Sizes of both towers.
pub(super) type ClipConfigs = (TextEncoderConfig, ImageEncoderConfig);

/// What keeps weights where they may be, after each step.
pub(super) type Constraint<M> = fn(M) -> M;

/// How long, and who hears of each step.
pub(super) type Loop<'a> = (TrainSettings, &'a mut dyn FnMut(&StepReport) -> ControlFlow<()>);
