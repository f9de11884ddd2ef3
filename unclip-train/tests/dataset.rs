//! Folders and shards as people have them, and what is wrong with some.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use tempfile::TempDir;
use unclip_train::dataset::{Complaint, DataError, Dataset, DatasetOptions, Decode, Reason};
use unclip_train::{Data, Lesson};

/// A picture of one gray, as a JPEG file.
fn jpeg(gray: u8, width: u32, height: u32) -> Vec<u8> {
    let picture = RgbImage::from_pixel(width, height, Rgb([gray; 3]));
    let mut file = Vec::new();
    picture.write_with_encoder(JpegEncoder::new(&mut file)).unwrap();
    file
}

fn decode() -> Arc<Decode> {
    let read = |bytes: &[u8]| {
        let read = image::load_from_memory(bytes).map_err(|error| error.to_string())?;
        Ok(read.into_rgb8())
    };
    Arc::new(read)
}

/// What was left out, as text.
type Heard = Arc<Mutex<Vec<Complaint>>>;

fn open(options: &DatasetOptions) -> (Result<Dataset, DataError>, Heard) {
    let heard = Heard::default();
    let hears = heard.clone();
    let complain = move |complaint: &Complaint| hears.lock().unwrap().push(complaint.clone());
    (Dataset::open(options, decode(), Arc::new(complain)), heard)
}

fn options(path: &Path, max_bad: f64) -> DatasetOptions {
    DatasetOptions { max_bad, ..DatasetOptions::new(path) }
}

/// A folder of so many pictures, of gray 10, 11 and so on, called `p0` and so on.
fn folder(n: u8) -> TempDir {
    let folder = TempDir::new().unwrap();
    for number in 0..n {
        fs::write(folder.path().join(format!("p{number}.jpg")), jpeg(number + 10, 24, 20)).unwrap();
        fs::write(folder.path().join(format!("p{number}.txt")), format!("number {number}"))
            .unwrap();
    }
    folder
}

fn refused(error: impl std::fmt::Display, expected: &[&str]) {
    let error = error.to_string();
    for part in expected {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

/// Captions by names.
fn captions(data: &Dataset) -> BTreeMap<String, Vec<String>> {
    data.items().iter().map(|item| (item.name.clone(), item.captions.clone())).collect()
}

fn of(pairs: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let texts = |texts: &[&str]| texts.iter().map(|it| it.to_string()).collect();
    pairs.iter().map(|(name, said)| (name.to_string(), texts(said))).collect()
}

#[test]
fn a_folder_is_walked_item_by_item() {
    let folder = folder(7);
    let (data, heard) = open(&options(folder.path(), 0.0));
    let data = data.unwrap();
    assert_eq!(data.len(), 7);
    let walk = |data: &Dataset| -> Vec<String> {
        let samples = data.samples(0, 21, 16).unwrap();
        samples.into_iter().map(|sample| sample.caption).collect()
    };
    let names = walk(&data);
    for pass in names.chunks(7) {
        let mut pass = pass.to_vec();
        pass.sort();
        assert!(
            pass.iter().enumerate().all(|(n, name)| *name == format!("number {n}")),
            "{pass:?}"
        );
    }
    assert_ne!(names[..7], names[7..14]);
    assert_eq!(names, walk(&data));
    // from anywhere on
    let later = data.samples(5, 3, 16).unwrap();
    assert!(later.iter().map(|sample| &sample.caption).eq(&names[5..8]));
    // another seed is another order, and the pictures go with their captions
    let (other, _) = open(&DatasetOptions { seed: 1, ..options(folder.path(), 0.0) });
    let other = other.unwrap();
    assert_ne!(names, walk(&other));
    assert_eq!(data.fingerprint(), other.fingerprint());
    for sample in other.samples(0, 7, 16).unwrap() {
        assert_eq!(sample.picture.dimensions(), (16, 16));
        let number: u8 = sample.caption["number ".len()..].parse().unwrap();
        let gray = sample.picture.get_pixel(3, 3).0[0];
        assert!(gray.abs_diff(number + 10) <= 1, "{} is {gray}", sample.caption);
    }
    assert!(heard.lock().unwrap().is_empty());
}

#[test]
fn captions_are_read_wherever_they_are() {
    let folder = TempDir::new().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    put("a/b.JPG", &jpeg(1, 20, 20));
    put("a/b.txt", b"\xef\xbb\xbffirst\n\nsecond\r\n");
    put("c/d.jpg", &jpeg(2, 20, 20));
    put("c/e.jpg", &jpeg(3, 20, 20));
    let lines = "{\"file_name\": \"d.jpg\", \"text\": \"of lines\", \"id\": 3}\n\n\
                 {\"file_name\": \"e.jpg\", \"caption\": [\"one\", \"two\"]}\n";
    put("c/metadata.jsonl", lines.as_bytes());
    put("t/f.jpg", &jpeg(4, 20, 20));
    put("t/metadata.csv", b"file_name,text\nf.jpg,\"a comma, and \"\"quotes\"\"\"\nf.jpg,again\n");
    put("notes.md", b"nothing");
    put(".hidden/x.jpg", b"nothing");
    let (data, heard) = open(&options(folder.path(), 0.0));
    let expected = of(&[
        ("a/b.JPG", &["first", "second"]),
        ("c/d.jpg", &["of lines"]),
        ("c/e.jpg", &["one", "two"]),
        ("t/f.jpg", &["a comma, and \"quotes\"", "again"]),
    ]);
    assert_eq!(captions(&data.unwrap()), expected);
    assert!(heard.lock().unwrap().is_empty());
}

/// Entries of a tar file.
fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // the library refuses names such as these
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// As webdataset reads them: what follows the first dot is the ending.
#[test]
fn names_with_several_dots_hide_nothing() {
    let folder = TempDir::new().unwrap();
    let (own, mask) = (jpeg(40, 20, 20), jpeg(0, 20, 20));
    let entries: [(&str, &[u8]); 7] = [
        ("0001.jpg", &own),
        ("0001.txt", b"forty"),
        ("0001.mask.png", &mask),
        ("photo.2021.jpg", &own),
        ("photo.2021.txt", b"a photo"),
        ("twice.jpg", &own),
        ("twice.png", &mask),
    ];
    let path = folder.path().join("shard.tar");
    fs::write(&path, tar(&entries)).unwrap();
    let (data, heard) = open(&options(&path, 1.0));
    let data = data.unwrap();
    assert_eq!(captions(&data), of(&[("shard.tar/0001", &["forty"])]));
    assert_eq!(data.picture(0).unwrap().get_pixel(1, 1).0[0], 40);
    let heard: Vec<String> = heard.lock().unwrap().iter().map(|it| it.to_string()).collect();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[0].contains("photo") && heard[0].contains("2021.jpg"), "{heard:?}");
    assert!(heard[1].contains("twice") && heard[1].contains("second picture"), "{heard:?}");
}

/// An entry may begin like a compressed file, and one whose name alone would fill the memory ends the shard: what comes
/// before it is kept.
#[test]
fn entries_with_odd_names_end_no_more_than_their_shard() {
    let folder = TempDir::new().unwrap();
    let own = jpeg(40, 20, 20);
    let path = folder.path().join("shard.tar");
    let entries: [(&str, &[u8]); 2] = [("BZhidden.jpg", &own), ("BZhidden.txt", b"forty")];
    let whole = tar(&entries);
    for (kind, pax) in [(b'L', false), (b'K', false), (b'x', true), (b'g', true)] {
        let mut header = if pax { tar::Header::new_ustar() } else { tar::Header::new_gnu() };
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(20 << 30);
        header.set_cksum();
        // the end of an archive is two empty blocks
        let mut bytes = whole[..whole.len() - 1024].to_vec();
        bytes.extend(header.as_bytes());
        fs::write(&path, &bytes).unwrap();
        // as large as it says, without taking the disk
        fs::File::options().write(true).open(&path).unwrap().set_len(21 << 30).unwrap();
        let (data, heard) = open(&options(&path, 1.0));
        assert_eq!(captions(&data.unwrap()), of(&[("shard.tar/BZhidden", &["forty"])]));
        let heard: Vec<String> = heard.lock().unwrap().iter().map(|it| it.to_string()).collect();
        assert!(heard.iter().any(|it| it.contains("name or header of an entry")), "{heard:?}");
    }
}

/// What a list says of a picture is all that counts, and is counted once.
#[test]
fn a_list_is_complained_of_once() {
    let folder = folder(3);
    let list = "{\"file_name\": \"p0.jpg\", \"text\": \"\"}\n{\"file_name\": \"p1.jpg\", \"text\": \"one\"}\n";
    fs::write(folder.path().join("metadata.jsonl"), list).unwrap();
    let (data, heard) = open(&options(folder.path(), 1.0));
    let expected = of(&[("p1.jpg", &["one"]), ("p2.jpg", &["number 2"])]);
    assert_eq!(captions(&data.unwrap()), expected);
    assert_eq!(heard.lock().unwrap().len(), 1);
}

/// The folder of a run may lie in that of its data.
#[test]
fn what_a_run_writes_is_no_data() {
    let folder = folder(3);
    let run = folder.path().join("out/run");
    fs::create_dir_all(run.join("samples")).unwrap();
    fs::write(run.join("samples/step-1.jpg"), jpeg(1, 20, 20)).unwrap();
    let (data, heard) = open(&DatasetOptions { except: vec![run], ..options(folder.path(), 0.0) });
    assert_eq!(data.unwrap().len(), 3);
    assert!(heard.lock().unwrap().is_empty());
}

/// Pictures that were made anew are other data, under whatever names.
#[test]
fn pictures_of_other_lengths_are_other_data() {
    let folder = folder(3);
    let name = || open(&options(folder.path(), 0.0)).0.unwrap().fingerprint();
    let before = name();
    assert_eq!(before, name());
    fs::write(folder.path().join("p1.jpg"), jpeg(11, 44, 40)).unwrap();
    assert_ne!(before, name());
}

#[test]
fn shards_are_read_and_their_ends_too() {
    let folder = TempDir::new().unwrap();
    let entries: [(&str, &[u8]); 7] = [
        ("x/0001.jpg", &jpeg(40, 20, 20)),
        ("x/0001.txt", b"forty"),
        ("x/0002.json", br#"{"caption": "fifty"}"#),
        ("x/0002.jpg", &jpeg(50, 20, 20)),
        ("x/0002.cls", b"3"),
        ("../0003.jpg", &jpeg(60, 20, 20)),
        ("../0003.txt", b"sixty"),
    ];
    let path = folder.path().join("shard-0.tar");
    let whole = tar(&entries);
    fs::write(&path, &whole).unwrap();
    let (data, heard) = open(&options(&path, 0.0));
    let data = data.unwrap();
    let expected = of(&[
        ("shard-0.tar/x/0001", &["forty"]),
        ("shard-0.tar/x/0002", &["fifty"]),
        ("shard-0.tar/../0003", &["sixty"]),
    ]);
    assert_eq!(captions(&data), expected);
    let grays: Vec<u8> = (0..3).map(|n| data.picture(n).unwrap().get_pixel(1, 1).0[0]).collect();
    assert_eq!(grays, [40, 50, 60]);
    assert!(heard.lock().unwrap().is_empty());
    // in a folder, and cut short
    fs::write(&path, &whole[..whole.len() - 2600]).unwrap();
    let (data, heard) = open(&options(folder.path(), 1.0));
    assert_eq!(data.unwrap().len(), 2);
    let heard = heard.lock().unwrap();
    assert!(heard.iter().any(|it| matches!(it.reason, Reason::Shard(_))), "{heard:?}");
}

/// A header that promises more than there is, and a file that is no archive.
#[test]
fn shards_that_lie_are_left_out() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.tar");
    let mut lies = tar(&[("a.txt", b"fine"), ("a.jpg", &jpeg(1, 20, 20)), ("b.jpg", b"short")]);
    let at = lies.windows(5).position(|it| it == b"b.jpg").unwrap();
    let mut header = tar::Header::from_byte_slice(&lies[at..at + 512]).clone();
    header.set_size(10 << 30);
    header.set_cksum();
    lies[at..at + 512].copy_from_slice(header.as_bytes());
    fs::write(&path, &lies).unwrap();
    let (data, heard) = open(&options(&path, 1.0));
    assert_eq!(data.unwrap().len(), 1);
    assert!(heard.lock().unwrap().iter().any(|it| it.to_string().contains("b.jpg")));
    fs::write(&path, [7u8; 5000]).unwrap();
    let (data, heard) = open(&options(&path, 1.0));
    refused(data.unwrap_err(), &["a.tar", "no picture with a caption"]);
    assert!(matches!(heard.lock().unwrap()[0].reason, Reason::Shard(_)));
}

#[test]
fn what_is_unusable_is_named_counted_and_replaced() {
    let folder = folder(40);
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    put("lonely.jpg", &jpeg(1, 20, 20));
    put("spoken.txt", b"of nothing");
    put("silent.jpg", &jpeg(1, 20, 20));
    put("silent.txt", b" \n ");
    put("broken.jpg", b"no picture at all");
    put("broken.txt", b"broken");
    put("dot.jpg", &jpeg(1, 1, 1));
    put("dot.txt", b"a dot");
    let (data, heard) = open(&options(folder.path(), 0.2));
    let data = data.unwrap();
    assert_eq!(data.len(), 42);
    let reasons = |heard: &Heard| -> BTreeMap<String, Reason> {
        let heard = heard.lock().unwrap();
        heard.iter().map(|it| (it.name.clone(), it.reason.clone())).collect()
    };
    let found = reasons(&heard);
    assert_eq!(found["lonely.jpg"], Reason::NoCaption);
    assert_eq!(found["spoken.txt"], Reason::NoPicture);
    assert_eq!(found["silent.jpg"], Reason::EmptyCaption);
    // twice through all of it
    let samples = data.samples(0, 84, 16).unwrap();
    assert!(samples.iter().all(|sample| sample.caption.starts_with("number")));
    let found = reasons(&heard);
    assert!(matches!(found["broken.jpg"], Reason::Picture(_)));
    assert!(found["dot.jpg"].to_string().contains("1 x 1 pixels"));
    assert_eq!((found.len(), heard.lock().unwrap().len(), data.complaints()), (5, 5, 5));
    // more than there may be, from the beginning and on the way
    refused(open(&options(folder.path(), 0.05)).0.unwrap_err(), &["3 of 45 items", "max_bad"]);
    let (data, _) = open(&options(folder.path(), 0.1));
    refused(data.unwrap().samples(0, 84, 16).unwrap_err(), &["5 of 45 items", "at most 4"]);
}

#[test]
fn what_is_no_data_is_refused() {
    let empty = TempDir::new().unwrap();
    let at = |path: PathBuf| open(&options(&path, 0.0)).0.unwrap_err();
    refused(at(empty.path().into()), &["no picture with a caption", "metadata.jsonl"]);
    refused(at(empty.path().join("none")), &["none"]);
    let none = DatasetOptions { paths: vec![], ..options(empty.path(), 0.0) };
    refused(open(&none).0.unwrap_err(), &["data.paths is no path", "a folder"]);
    refused(open(&options(empty.path(), 1.5)).0.unwrap_err(), &["1.5"]);
    let put = |name: &str, text: &str| fs::write(empty.path().join(name), text).unwrap();
    for (text, expected) in [
        ("{\"file_name\": \"../a.jpg\", \"text\": \"x\"}", "file_name in line 1 is \"../a.jpg\""),
        ("\n{\"text\": \"x\"}", "file_name in line 2 is absent"),
        ("{\"file_name\": ", "object in line 1 is unreadable"),
        ("{\"file_name\": \"a.jpg\", \"file_name\": \"b.jpg\"}", "file_name stands there twice"),
    ] {
        put("metadata.jsonl", text);
        refused(at(empty.path().into()), &["metadata.jsonl", expected]);
    }
    fs::remove_file(empty.path().join("metadata.jsonl")).unwrap();
    put("metadata.csv", "name,text\na.jpg,x\n");
    refused(at(empty.path().into()), &["metadata.csv", "columns in line 1"]);
    put("metadata.csv", "file_name,text,text\na.jpg,x,y\n");
    refused(at(empty.path().into()), &["metadata.csv", "columns in line 1", "\"text\" twice"]);
    put("metadata.csv", "file_name,text\na.jpg\n");
    refused(at(empty.path().into()), &["metadata.csv", "row in line 2"]);
}

/// A run that is resumed sees what an uninterrupted one would have seen, also where items are replaced.
#[test]
fn steps_follow_from_their_number() {
    let folder = folder(20);
    fs::write(folder.path().join("p3.jpg"), b"no picture").unwrap();
    let opened = || open(&options(folder.path(), 0.2)).0.unwrap();
    let said = |data: &Dataset, step| -> Vec<String> {
        let items = data.batch(step, 6, 16, Lesson::Mixed).unwrap();
        items.iter().map(|item| item.caption().into()).collect()
    };
    let first = opened();
    let all: Vec<_> = (0..10).map(|step| said(&first, step)).collect();
    let second = opened();
    (5..10).rev().for_each(|step| assert_eq!(said(&second, step as u64), all[step]));
    // and another caption is other data
    let name = first.name();
    fs::write(folder.path().join("p4.txt"), "another").unwrap();
    assert_ne!(opened().name(), name);
}

/// A folder that was packed as it came, and one that was compressed as well.
#[test]
fn a_packed_folder_is_a_shard() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.tar");
    let picture = jpeg(9, 20, 20);
    let entries: [(&str, &[u8]); 6] = [
        ("./b.txt", b"the second"),
        ("./a.jpg", &picture),
        ("./a.txt", b"the first"),
        ("./b.jpg", &picture),
        ("./deep/a.jpg", &picture),
        ("./deep/a.txt", b"another"),
    ];
    fs::write(&path, tar(&entries)).unwrap();
    let (data, heard) = open(&options(&path, 0.0));
    let expected = of(&[
        ("a.tar/a", &["the first"]),
        ("a.tar/b", &["the second"]),
        ("a.tar/deep/a", &["another"]),
    ]);
    assert_eq!(captions(&data.unwrap()), expected);
    assert!(heard.lock().unwrap().is_empty());
    let squeezed = folder.path().join("b.tar.gz");
    fs::write(&squeezed, b"\x1f\x8b\x08\0\0\0\0\0").unwrap();
    for path in [folder.path(), &squeezed] {
        let (_, heard) = open(&options(path, 1.0));
        let heard = heard.lock().unwrap()[0].to_string();
        assert!(heard.contains("b.tar.gz") && heard.contains("compressed by gzip"), "{heard}");
    }
}

#[cfg(unix)]
#[test]
fn links_to_folders_are_followed_once() {
    let (own, other) = (folder(2), folder(3));
    std::os::unix::fs::symlink(other.path(), own.path().join("other")).unwrap();
    std::os::unix::fs::symlink(own.path(), own.path().join("back")).unwrap();
    std::os::unix::fs::symlink(other.path(), own.path().join("twice")).unwrap();
    let data = open(&options(own.path(), 0.0)).0.unwrap();
    let names: Vec<String> = captions(&data).into_keys().collect();
    assert_eq!(names, ["other/p0.jpg", "other/p1.jpg", "other/p2.jpg", "p0.jpg", "p1.jpg"]);
}
