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
        Self { stage, loading, binding, calls: Vec::new(), parameters }
    }

    /// After the only call of an encoder, between `start` and now.
    pub(crate) fn of_one_call(
        stage: StageId,
        loading: Duration,
        start: Instant,
        network: &impl Module,
    ) -> Self {
        let calls = vec![start.elapsed()];
        Self { stage, loading, binding: Duration::ZERO, calls, parameters: network.num_params() }
    }
}
