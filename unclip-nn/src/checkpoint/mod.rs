//! Weights and configurations on disk: the only input and output of this crate.
//!
//! Files are safetensors with PyTorch's names and orientations, so that published weights load as
//! they are and saved ones open in Python. Loading is strict: a tensor that is missing, left over
//! or misshapen is an error that names it.

mod error;
mod file;
mod fnv;
mod key_map;
mod load;
mod save;
mod shards;
mod stage;
mod swap;
mod weights;
mod weights_file;
mod whole;

pub use error::{LoadError, Mismatch};
pub use file::{open_file, read_file, read_text, without_mark};
pub use fnv::Fnv;
pub use key_map::KeyMap;
pub use load::{load_config, load_weights, parse_config};
pub use save::{save_part, save_tensors, save_weights};
pub use stage::{Layers, Manifest, StageConfig, StageFiles, save_config, save_stage};
pub use weights::{Part, Rows, Weights};
pub use whole::{
    NamesFiles, check_place, clear_leftovers, followed, replace_folder, write_folder, write_whole,
};
