//! What strangers may give: the seeds of the fuzzer, each of them damaged in many ways. `fuzz/run.sh` tries
//! millions more; an input that it finds goes into `tests/hostile/found`, below the name of its target.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::targets::TARGETS;

/// The longest that an input may take, with other tests beside it and without optimization.
const SLOW: Duration = Duration::from_secs(20);

fn inputs(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// The same input, damaged: cut short, with bits flipped, with a part twice.
fn damaged(input: &[u8]) -> Vec<Vec<u8>> {
    const PLACES: usize = 6;
    let mut all = Vec::new();
    for place in 0..PLACES {
        let at = input.len() * place / PLACES;
        all.push(input[..at].to_vec());
        if let Some(&byte) = input.get(at) {
            for other in [byte ^ 1, byte ^ 0x80, 0, 0xff] {
                let mut changed = input.to_vec();
                changed[at] = other;
                all.push(changed);
            }
            all.push([input, &input[at..]].concat());
            all.push([&input[..at], &input[at + 1..]].concat());
        }
    }
    all
}

#[test]
fn what_strangers_give_is_answered() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tried = 0;
    for (name, target) in TARGETS {
        let seeds = inputs(&root.join("fuzz/corpus").join(name));
        assert!(!seeds.is_empty(), "{name}");
        let found = inputs(&root.join("tests/hostile/found").join(name));
        let all = seeds.into_iter().flat_map(|(path, input)| {
            let damaged = damaged(&input);
            std::iter::once(input).chain(damaged).map(move |input| (path.clone(), input))
        });
        for (path, input) in all.chain(found) {
            let start = Instant::now();
            let answered = catch_unwind(|| target(&input));
            assert!(answered.is_ok(), "{}: {input:?}", path.display());
            assert!(start.elapsed() < SLOW, "{}: {:?}", path.display(), start.elapsed());
            tried += 1;
        }
    }
    assert!(tried > 3000, "{tried}");
}
