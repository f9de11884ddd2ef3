//! Whether ARCHITECTURE.md's code map and the tree are the same.

use std::collections::BTreeSet;
use std::path::Path;

use super::{problem, read, report, root, sources};

/// Files that every crate has, and of which the map says once what they are.
const EVERYWHERE: [&str; 3] = ["lib.rs", "error.rs", "mod.rs"];

#[test]
fn the_code_map_is_that_of_the_tree() {
    let document = root().join("ARCHITECTURE.md");
    let text = read(&document);
    let mut problems = Vec::new();
    let sections = sections(&text);
    for (folder, line, named) in &sections {
        let files = files(folder);
        for name in files.iter().filter(|name| !EVERYWHERE.contains(&name.as_str())) {
            if !named.contains(name) {
                problems.push(problem(&document, *line, &format!("{folder} does not name {name}")));
            }
        }
        for name in named.iter().filter(|name| !files.contains(*name)) {
            problems.push(problem(&document, *line, &format!("{folder} has no {name}")));
        }
    }
    report(&problems);
    let mapped: BTreeSet<&str> = sections.iter().map(|(folder, ..)| folder.as_str()).collect();
    for path in sources() {
        let folder = path.strip_prefix(root()).unwrap_or(&path);
        let folder = folder.to_string_lossy();
        let folder = folder.split_inclusive("src/").next().unwrap_or_default();
        assert!(mapped.contains(folder), "the code map has no section {folder}");
    }
}

#[test]
fn the_map_is_read_as_it_is_written() {
    let text = "## Code map\n\n```text\na/src/      text\n  b.rs, c/d.rs  of e.rs\n  f.rs   g\nh/src/ x\n\
                ```\nz.rs\n";
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
    let expected = [
        ("a/src/".to_string(), 4, names(&["b.rs", "d.rs", "f.rs"])),
        ("h/src/".to_string(), 7, names(&[])),
    ];
    assert_eq!(sections(text), expected);
}

/// The folders of the map, by the line that begins each, and the names of the files in them.
fn sections(text: &str) -> Vec<(String, usize, BTreeSet<String>)> {
    let numbered = text.lines().enumerate().skip_while(|(_, line)| *line != "## Code map");
    let block = numbered.skip_while(|(_, line)| !line.starts_with("```")).skip(1);
    let mut sections = Vec::new();
    for (index, line) in block.take_while(|(_, line)| !line.starts_with("```")) {
        let folder = line.split_whitespace().next().unwrap_or_default();
        if !line.starts_with(' ') && folder.ends_with("src/") {
            sections.push((folder.to_string(), index + 1, BTreeSet::new()));
        } else if !line.starts_with(' ') && !line.is_empty() {
            // a folder that is described as a whole
            sections.push((String::new(), index + 1, BTreeSet::new()));
        } else if let Some((_, _, named)) = sections.last_mut() {
            // names end where two blanks begin the description
            let names = line.trim_start().split("  ").next().unwrap_or_default();
            let names = names.split(", ").filter(|name| name.ends_with(".rs"));
            let base = |name: &str| name.rsplit('/').next().unwrap_or_default().to_string();
            named.extend(names.map(base));
        }
    }
    sections.retain(|(folder, ..)| !folder.is_empty());
    sections
}

/// The names of a folder's Rust files, at any depth.
fn files(folder: &str) -> BTreeSet<String> {
    let folder = root().join(folder);
    let inside = sources().into_iter().filter(|path| path.starts_with(&folder));
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    inside.map(|path| name(&path)).collect()
}
