//! Files and folders that are written whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use burn::module::Param;
use burn::nn::LayerNormConfig;
use burn::tensor::{Device, Tensor};
use unclip_nn::Precision;
use unclip_nn::checkpoint::{
    KeyMap, LoadError, clear_leftovers, replace_folder, save_tensors, save_weights, write_folder,
    write_whole,
};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Writes these files into a folder.
fn fill(files: &[(&str, &str)]) -> impl FnOnce(&Path) -> Result<(), LoadError> {
    let files: Vec<(String, String)> =
        files.iter().map(|&(name, text)| (name.into(), text.into())).collect();
    move |folder| {
        files.iter().try_for_each(|(name, text)| write_whole(&folder.join(name), text.as_bytes()))
    }
}

#[test]
fn a_folder_takes_the_place_of_another_as_one() {
    let above = tempfile::tempdir().unwrap();
    let place = above.path().join("new/stage");
    replace_folder(&place, fill(&[("config", "1"), ("weights", "1")])).unwrap();
    fs::write(place.join("README"), "mine").unwrap();
    fs::create_dir(place.join("samples")).unwrap();
    fs::write(place.join("samples/a"), "mine too").unwrap();
    let inside = |name: &str| fs::read_to_string(place.join(name)).unwrap();

    let failed = replace_folder(&place, |folder| {
        write_whole(&folder.join("config"), b"2")?;
        write_whole(&folder.join("no/such/folder"), b"2")
    });
    let failed = failed.unwrap_err().to_string();
    let named = place.join("no/such/folder");
    assert!(failed.starts_with(&format!("{}: ", named.display())), "{failed}");
    assert_eq!([inside("config"), inside("weights")], ["1", "1"], "as it was");

    replace_folder(&place, fill(&[("config", "3"), ("weights", "3")])).unwrap();
    assert_eq!([inside("config"), inside("weights")], ["3", "3"]);
    assert_eq!([inside("README"), inside("samples/a")], ["mine", "mine too"]);
    assert_eq!(names(place.parent().unwrap()), ["stage"], "nothing else is left");
}

#[cfg(unix)]
#[test]
fn a_link_to_a_folder_stays_a_link() {
    let above = tempfile::tempdir().unwrap();
    let [real, link] = ["real", "link"].map(|name| above.path().join(name));
    replace_folder(&real, fill(&[("config", "1")])).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    replace_folder(&link, fill(&[("config", "2")])).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(fs::read_to_string(real.join("config")).unwrap(), "2");
}

#[test]
fn a_file_is_no_folder_to_be_replaced() {
    let above = tempfile::tempdir().unwrap();
    let place = above.path().join("stage");
    fs::write(&place, "mine").unwrap();
    let refused = replace_folder(&place, fill(&[("config", "1")])).unwrap_err().to_string();
    assert!(refused.starts_with(&format!("{}: ", place.display())), "{refused}");
    assert_eq!(fs::read_to_string(&place).unwrap(), "mine");
    assert_eq!(names(above.path()), ["stage"]);
}

#[test]
fn errors_of_a_new_folder_name_what_was_asked_for() {
    let above = tempfile::tempdir().unwrap();
    let place = above.path().join("model");
    let failed = write_folder(&place, |folder| {
        Err(LoadError::TooLarge {
            path: folder.join("prior/config.json"),
            found: 2,
            limit: unclip_core::Limit::ConfigBytes,
        })
    });
    let failed: LoadError = failed.unwrap_err();
    assert_eq!(failed.path(), place.join("prior/config.json"));
    assert!(names(above.path()).is_empty());
}

/// Something of this name that was last written long ago, or not.
fn left(folder: &Path, name: &str, age: Duration) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, "half").unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
    path
}

#[test]
fn what_was_left_long_ago_is_cleared_away() {
    const HOUR: Duration = Duration::from_secs(3600);
    let folder = tempfile::tempdir().unwrap();
    left(folder.path(), ".unclip-unfinished-a", 25 * HOUR);
    left(folder.path(), ".unclip-unfinished-b", 23 * HOUR);
    left(folder.path(), ".tmp-of-others", 90 * HOUR);
    left(folder.path(), "picture.png", 90 * HOUR);
    clear_leftovers(folder.path());
    assert_eq!(names(folder.path()), [".tmp-of-others", ".unclip-unfinished-b", "picture.png"]);
    // a folder is as old as what was written into it last; its own time is that of this moment
    fs::create_dir(folder.path().join(".unclip-unfinished-c")).unwrap();
    left(&folder.path().join(".unclip-unfinished-c"), "weights", 25 * HOUR);
    clear_leftovers(folder.path());
    assert!(folder.path().join(".unclip-unfinished-c").exists());
    // and an old one in which something is new is at work
    left(&folder.path().join(".unclip-unfinished-c"), "config", HOUR);
    age(&folder.path().join(".unclip-unfinished-c"), 25 * HOUR);
    clear_leftovers(folder.path());
    assert!(folder.path().join(".unclip-unfinished-c").exists());
    left(&folder.path().join(".unclip-unfinished-c"), "config", 30 * HOUR);
    age(&folder.path().join(".unclip-unfinished-c"), 25 * HOUR);
    clear_leftovers(folder.path());
    assert!(!folder.path().join(".unclip-unfinished-c").exists());
}

/// Makes a folder look as old as this.
fn age(folder: &Path, age: Duration) {
    fs::File::open(folder).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

#[cfg(unix)]
#[test]
fn folders_keep_their_permissions_and_read_only_ones_stay() {
    use std::os::unix::fs::PermissionsExt;
    let above = tempfile::tempdir().unwrap();
    let place = above.path().join("stage");
    replace_folder(&place, fill(&[("weights", "1")])).unwrap();
    fs::create_dir(place.join("samples")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set(&place, 0o2700);
    set(&place.join("samples"), 0o750);
    set(&place.join("weights"), 0o600);
    replace_folder(&place, fill(&[("weights", "2")])).unwrap();
    let modes = [mode(&place), mode(&place.join("samples")), mode(&place.join("weights"))];
    assert_eq!(modes, [0o2700, 0o750, 0o600]);

    for (read_only, restored) in [("weights", 0o600), ("samples", 0o750), ("", 0o700)] {
        let path = place.join(read_only);
        set(&path, 0o444);
        let refused = replace_folder(&place, fill(&[("weights", "3")])).unwrap_err().to_string();
        assert!(refused.contains("read-only"), "{refused}");
        set(&path, restored);
        assert_eq!(fs::read_to_string(place.join("weights")).unwrap(), "2");
    }
    assert_eq!(names(above.path()), ["stage"]);
}

#[test]
fn a_clock_that_went_back_clears_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".unclip-unfinished-later");
    fs::write(&path, "half").unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(1 << 20)).unwrap();
    clear_leftovers(folder.path());
    assert!(path.exists());
}

#[test]
fn what_is_no_number_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut norm = LayerNormConfig::new(2).init(&Device::flex());
        norm.gamma = Param::from_tensor(Tensor::from_floats([1.0, value], &Device::flex()));
        for format in [Precision::F32, Precision::F16, Precision::BF16] {
            let refused = save_weights(&norm, &path, &KeyMap::NONE, format).unwrap_err();
            let refused = refused.to_string();
            assert!(
                refused.contains("weight holds 1 values that are NaN or infinite"),
                "{refused}"
            );
        }
        let tensors =
            [("kept".into(), vec![1], vec![1.0]), ("lost".into(), vec![2], vec![0.0, value])];
        let refused = save_tensors(&path, &tensors, &[]).unwrap_err().to_string();
        assert!(refused.contains("lost holds 1 values"), "{refused}");
        assert!(names(folder.path()).is_empty());
    }
}
