//! Places where nothing can be saved: named, and left as they were.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use unclip::Precision;
use unclip::clip::TextEncoderConfig;
use unclip::prior::DiffusionPriorConfig;
use unclip::unclip_nn::checkpoint::{StageFiles, save_stage, write_whole};

use crate::support::{Model, SPACE, names, prior, refused, text_encoder};

#[test]
fn saving_where_nothing_can_be_written_names_the_place_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "old").unwrap();
    let config = prior();
    let network = config.init(&Device::flex());
    let save = |folder: &Path| save_stage(folder, SPACE, &config, &network, Precision::F32);
    refused(save(&file), &[file.to_str().unwrap()]);
    refused(save(&file.join("inside")), &[file.to_str().unwrap()]);
    let missing = folder.path().join("nowhere/picture.png");
    refused(write_whole(&missing, b"new"), &["nowhere/picture.png", "not found"]);
    let long = folder.path().join("x".repeat(300));
    refused(write_whole(&long, b"new"), &["xxx", "too long"]);
    refused(write_whole(folder.path(), b"new"), &["this is a folder, expected a regular file"]);
    refused(write_whole(Path::new(""), b"new"), &[]);
    assert_eq!(names(folder.path()), ["file"]);
    assert_eq!(fs::read(&file).unwrap(), b"old");
}

#[test]
fn saving_over_a_stage_replaces_it_whole() {
    let model = Model::new();
    let config = DiffusionPriorConfig { d_embedding: 4, ..prior() };
    let network = config.init(&Device::flex());
    let folder = model.path("prior");
    save_stage(&folder, "another", &config, &network, Precision::F16).unwrap();
    assert_eq!(names(&folder), ["config.json", "model.safetensors"]);
    let files = StageFiles::<DiffusionPriorConfig>::open(&folder).unwrap();
    assert_eq!(
        (files.manifest.config.d_embedding, &*files.manifest.embedding_space),
        (4, "another")
    );
    files.load(&Device::flex()).unwrap();
}

#[test]
fn a_stage_that_was_not_saved_to_its_end_is_incomplete() {
    let folder = tempfile::tempdir().unwrap();
    let config = text_encoder();
    // the configuration, written last, cannot be
    fs::create_dir(folder.path().join("config.json")).unwrap();
    let network = config.init(&Device::flex());
    let result = save_stage(folder.path(), SPACE, &config, &network, Precision::F32);
    refused(result, &["config.json", "this is a folder"]);
    refused(StageFiles::<TextEncoderConfig>::open(folder.path()), &["config.json"]);
}

#[cfg(unix)]
#[test]
fn saving_into_a_folder_that_is_read_only_keeps_the_old_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    // the administrator may write everywhere
    if fs::write(folder.path().join("probe"), "").is_err() {
        refused(write_whole(&path, b"new"), &["model.safetensors", "denied"]);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["model.safetensors"]);
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(unix)]
#[test]
fn saving_onto_a_pipe_leaves_the_pipe() {
    use std::os::unix::fs::FileTypeExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    crate::support::make_pipe(&path);
    refused(write_whole(&path, b"new"), &["a pipe", "expected a regular file"]);
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    assert_eq!(names(folder.path()), ["pipe"]);
}
