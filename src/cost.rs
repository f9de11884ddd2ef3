//! What a stage cost.

use std::time::{Duration, Instant};

use burn::module::Module;

use crate::StageId;

/// What a stage cost.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StageCost {
    /// The stage.
    pub stage: StageId,
    /// Time to load it; zero if it was already in memory.
    pub loading: Duration,
    /// Time to compute what is the same in every call, from captions and embeddings.
    pub binding: Duration,
    /// Time of each step, including its network calls (Heun's method makes two, the others one). An
    /// encoder has a single entry.
    pub calls: Vec<Duration>,
    /// Number of parameters.
    pub parameters: usize,
    /// Pictures, captions or samples that went through it together.
    pub rows: usize,
}

impl StageCost {
    /// Before the first call of a network that was bound between `start` and now.
    pub(crate) fn new(
        stage: StageId,
        loading: Duration,
        start: Instant,
        network: &impl Module,
    ) -> Self {
        let (binding, parameters) = (start.elapsed(), network.num_params());
        Self { stage, loading, binding, calls: Vec::new(), parameters, rows: 1 }
    }

    /// After the only call of an encoder, between `start` and now.
    pub(crate) fn of_one_call(
        stage: StageId,
        loading: Duration,
        start: Instant,
        network: &impl Module,
    ) -> Self {
        let (calls, parameters) = (vec![start.elapsed()], network.num_params());
        Self { stage, loading, binding: Duration::ZERO, calls, parameters, rows: 1 }
    }

    /// The same for so many rows.
    pub(crate) fn of_rows(self, rows: usize) -> Self {
        Self { rows: rows.max(1), ..self }
    }
}
