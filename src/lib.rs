//! unCLIP (DALL-E 2).
mod device;
mod error;
mod event;
pub use device::device;
pub use error::Error;
pub use event::{Event, Observer, Stage};
pub use unclip_clip as clip;
pub use unclip_decoder as decoder;
pub use unclip_prior as prior;
#[cfg(feature = "train")]
pub use unclip_train as train;
pub use unclip_upsample as upsample;
pub use {unclip_core, unclip_nn};
