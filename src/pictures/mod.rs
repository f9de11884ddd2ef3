//! Pictures on disk: read as a viewer shows them, written with their recipe inside.

mod animation;
mod color;
mod error;
mod format;
mod jpeg;
mod picture;
mod read;
mod recipes;
mod sheet;

pub use animation::{is_animation, write_animation};
pub use format::PictureFormat;
pub use picture::{Picture, write_picture};
pub use read::{LeftOut, ReadOptions, ReadPicture, picture_from_bytes, read_picture};
pub use sheet::{Sheet, grid, strip};
