//! The place of a stage in a model.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use unclip_nn::Placement;
use unclip_nn::checkpoint::{LoadError, StageConfig, StageFiles};

use crate::StageId;

/// A stage of a model: its files, opened and checked, and its network, if that stays in memory.
#[derive(Debug)]
pub struct Slot<T: StageConfig> {
    id: StageId,
    files: StageFiles<T>,
    resident: Option<T::Network>,
    fingerprint: OnceLock<String>,
}

impl<T: StageConfig> Slot<T> {
    pub(crate) fn new(id: StageId, files: StageFiles<T>) -> Self {
        Self { id, files, resident: None, fingerprint: OnceLock::new() }
    }

    /// Which stage this is.
    pub fn id(&self) -> StageId {
        self.id
    }

    /// Its configuration: sizes, and how it works.
    pub fn config(&self) -> &T {
        &self.files.manifest.config
    }

    /// Fingerprint of the CLIP that it was trained with; empty if the layout records none.
    pub fn embedding_space(&self) -> &str {
        &self.files.manifest.embedding_space
    }

    /// Number of its parameters, by the header of its files.
    pub fn parameters(&self) -> u64 {
        self.files.parameters()
    }

    /// Fingerprint of its weights, the same in every layout
    /// ([`Weights::fingerprint`](unclip_nn::checkpoint::Weights::fingerprint)).
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn fingerprint(&self) -> Result<&str, LoadError> {
        match self.fingerprint.get() {
            Some(known) => Ok(known),
            None => {
                let found = self.files.fingerprint()?;
                Ok(self.fingerprint.get_or_init(|| found))
            }
        }
    }

    /// Loads the network from its files, even if it is already in memory.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn load(&self, placement: impl Into<Placement>) -> Result<T::Network, LoadError> {
        self.files.load(placement)
    }

    /// Reads the weights, which stay in memory from now on.
    pub(crate) fn keep(&mut self, placement: &Placement) -> Result<(), LoadError> {
        self.resident = Some(self.files.load(placement)?);
        Ok(())
    }

    /// The network, from memory or from its files, and the time that took.
    pub(crate) fn network(
        &self,
        placement: &Placement,
    ) -> Result<(T::Network, Duration), LoadError> {
        let start = Instant::now();
        let network = match &self.resident {
            Some(network) => network.clone(),
            None => self.files.load(placement)?,
        };
        Ok((network, start.elapsed()))
    }
}
