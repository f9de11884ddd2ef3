//! What a frozen CLIP says of a data set, computed once and kept on disk.
//!
//! A shard is a safetensors file with the embeddings of consecutive items and of all their captions; its
//! notes say which CLIP it comes from and which data. Nothing but indices is held in memory: the rows of
//! a step are read when their turn comes.

mod kept;
mod make;
mod options;
mod shard;

pub use kept::Embeddings;
pub(crate) use kept::KeptCaptions;
pub use make::make_embeddings;
pub use options::EmbeddingsOptions;
