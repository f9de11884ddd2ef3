//! Where results go. Everything is checked before any work.

use std::path::{Path, PathBuf};

use clap::Args;
use unclip::unclip_core::Limit;
use unclip::unclip_nn::checkpoint::check_place;
use unclip::{Picture, PictureFormat, Sheet};

use crate::apart::check_apart;
use crate::console::{AnyError, say};

/// Options of the files that are written.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// File of the picture, or folder for many: an existing one, or a name that ends in `/`
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Write all pictures as one sheet: beside the single files in a folder, else instead of them
    #[arg(long)]
    grid: bool,
    /// Format of the files: png, jpeg or webp [default: what the name of --out ends in, else png]
    #[arg(long)]
    format: Option<PictureFormat>,
    /// Quality of JPEG files, 1 to 100 [default: 90]
    #[arg(long, value_name = "N")]
    quality: Option<u8>,
}

/// Places for the pictures of a program.
pub(crate) struct Places {
    /// A folder, or the name of the one picture.
    out: PathBuf,
    is_folder: bool,
    grid: bool,
    format: PictureFormat,
    written: usize,
}

/// What a program is about to do.
pub(crate) struct Plan<'a> {
    /// Name of the file where none is given, without its ending.
    pub(crate) file: &'a str,
    /// Name of the folder where none is given.
    pub(crate) folder: &'a str,
    /// Captions, or pictures that are varied.
    pub(crate) items: usize,
    /// Pictures of each.
    pub(crate) n: usize,
    /// Whether a folder takes even a single one.
    pub(crate) many: bool,
    /// Whether they were one sheet before.
    pub(crate) was_sheet: bool,
    /// Other files that will be written.
    pub(crate) others: Vec<&'a Path>,
    /// Folders of the model, into which nothing is written.
    pub(crate) models: [Option<&'a Path>; 2],
    /// Files that are read.
    pub(crate) inputs: Vec<&'a Path>,
}

impl Output {
    /// The places for these pictures, all of them fit to be written.
    pub(crate) fn places(&self, plan: &Plan<'_>) -> Result<Places, AnyError> {
        let is_folder = plan.many || plan.items > 1 || self.out.as_deref().is_some_and(is_folder);
        let named = self.out.as_deref().filter(|_| !is_folder);
        if named == Some(Path::new("-")) {
            let message = "pictures are written to files, expected the name of one";
            return Err(format!("-: {message}; ./- is a file of that name").into());
        }
        let format = match (self.format, named) {
            (Some(format), _) => format,
            (None, Some(name)) => PictureFormat::of(name)?,
            (None, None) => PictureFormat::Png,
        };
        if let (Some(_), Some(name)) = (self.format, named)
            && name.extension().is_some()
            && PictureFormat::of(name)?.ending() != format.ending()
        {
            let name = name.display();
            return Err(format!("{name}: --format is {format}, expected what the name says").into());
        }
        let format = match self.quality {
            Some(quality) => format.with_quality(quality)?,
            None => format,
        };
        let default = if is_folder {
            PathBuf::from(plan.folder)
        } else {
            Path::new(plan.file).with_extension(format.ending())
        };
        let out = self.out.clone().unwrap_or(default);
        let places =
            Places { out, is_folder, grid: self.grid || plan.was_sheet, format, written: 0 };
        places.check(plan)?;
        Ok(places)
    }
}

/// Whether a name means a folder.
fn is_folder(path: &Path) -> bool {
    let ends_so = path.to_string_lossy().ends_with(std::path::is_separator);
    ends_so || path.is_dir()
}

impl Places {
    fn check(&self, plan: &Plan<'_>) -> Result<(), AnyError> {
        let places = self.files(plan);
        if self.is_folder {
            check_folder(&self.out)?;
        }
        // a new file of a folder that was checked has its place; something else may stand there
        let unknown = |place: &&PathBuf| !self.is_folder || place.symlink_metadata().is_ok();
        places.iter().filter(unknown).try_for_each(|place| check_place(place))?;
        plan.others.iter().try_for_each(|place| check_place(place))?;
        let all = places.iter().map(PathBuf::as_path).chain(plan.others.iter().copied());
        check_apart(all, &plan.inputs, &plan.models)
    }

    /// Every file that will be written.
    fn files(&self, plan: &Plan<'_>) -> Vec<PathBuf> {
        let n = plan.n.min(Limit::Images.value() as usize);
        let singles = (0..plan.items * n).map(|k| self.single(k, plan.items * n));
        let sheets = (0..plan.items).map(|item| self.sheet(item * n));
        match (self.grid, self.is_folder) {
            (true, false) => vec![self.out.clone()],
            (true, true) => singles.chain(sheets).collect(),
            (false, _) => singles.collect(),
        }
    }

    /// The file of a picture, by its number.
    fn single(&self, number: usize, all: usize) -> PathBuf {
        let ending = self.format.ending();
        match (self.is_folder, all) {
            (true, _) => self.out.join(format!("{number:05}.{ending}")),
            (false, 1) => self.out.clone(),
            (false, _) => {
                let ending = self.out.extension().map_or(ending.into(), |it| it.to_string_lossy());
                self.out.with_extension(format!("{number}.{ending}"))
            }
        }
    }

    /// The file of a sheet, by the number of its first picture.
    fn sheet(&self, first: usize) -> PathBuf {
        if self.is_folder {
            self.out.join(format!("grid-{first:05}.{}", self.format.ending()))
        } else {
            self.out.clone()
        }
    }

    /// Writes pictures, and says where.
    pub(crate) fn write(&mut self, pictures: &[Picture]) -> Result<(), AnyError> {
        if self.is_folder {
            let io = |error| format!("{}: {error}", self.out.display());
            std::fs::create_dir_all(&self.out).map_err(io)?;
        }
        if self.grid {
            let path = self.sheet(self.written);
            Sheet::grid(pictures).save_as(&path, self.format)?;
            say(path.display());
        }
        if !self.grid || self.is_folder {
            for (k, picture) in pictures.iter().enumerate() {
                self.write_one(picture, self.written + k, pictures.len())?;
            }
        }
        self.written += pictures.len();
        Ok(())
    }

    fn write_one(&self, picture: &Picture, number: usize, all: usize) -> Result<(), AnyError> {
        let path = self.single(number, all);
        picture.save_as(&path, self.format)?;
        say(path.display());
        Ok(())
    }
}

/// Checks that a folder is there and can be written into, or that it can be made.
fn check_folder(folder: &Path) -> Result<(), AnyError> {
    // without the separator at its end, which makes a folder of every name
    let folder: PathBuf = folder.components().collect();
    let mut nearest = folder.as_path();
    while !nearest.as_os_str().is_empty() && nearest.symlink_metadata().is_err() {
        nearest = nearest.parent().unwrap_or(Path::new(""));
    }
    let nearest = if nearest.as_os_str().is_empty() { Path::new(".") } else { nearest };
    if !nearest.is_dir() {
        return Err(format!("{}: is no folder, expected one", nearest.display()).into());
    }
    Ok(check_place(&nearest.join("picture"))?)
}
