//! House rules for documents: what an edit takes away without anybody noticing.

use super::{dependency_table, entries, problem, read, report, root};

/// The two commands that README.md must hold: the main job, and the tests.
const COMMANDS: [&str; 2] =
    ["cargo run --release --example text_to_image", "cargo test --workspace --features train"];

#[test]
fn the_readme_holds_both_commands() {
    let readme = read(&root().join("README.md"));
    for command in COMMANDS {
        assert!(readme.contains(command), "README.md no longer holds `{command}`");
    }
    let script = read(&root().join(".ci/run"));
    assert!(script.contains(COMMANDS[1]), ".ci/run does not call the README's test command");
}

#[test]
fn every_feature_stands_in_the_readmes_table() {
    let manifest = read(&root().join("Cargo.toml"));
    let features: Vec<&str> = features(&manifest).collect();
    assert!(features.contains(&"train"), "{features:?}");
    let readme = read(&root().join("README.md"));
    let table = tables(&readme).into_iter().find(|table| table[0].1.starts_with("| feature |"));
    let table = table.expect("README.md has a table of features");
    let first = |(_, row): &(usize, &str)| cells(row).remove(0);
    let named: String = table.iter().map(first).collect();
    for feature in features {
        assert!(named.contains(&format!("`{feature}`")), "no row for the feature {feature}");
    }
}

#[test]
fn tables_have_as_many_cells_as_their_heads() {
    let mut problems = Vec::new();
    for path in documents() {
        for table in tables(&read(&path)) {
            let head = cells(table[0].1).len();
            for (line, row) in &table {
                let n = cells(row).len();
                if n != head {
                    let message = format!("{n} cells under a head of {head}");
                    problems.push(problem(&path, *line, &message));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn the_checks_find_what_they_look_for() {
    let text =
        "| a | b |\n|---|---|\n| x \\| y | `|` z |\n| 1 |\n\ntext\n```\n| a |\n| b | c |\n```\n";
    let tables = tables(text);
    let counts: Vec<_> = tables[0].iter().map(|(line, row)| (*line, cells(row).len())).collect();
    assert_eq!(counts, [(1, 2), (2, 2), (3, 2), (4, 1)]);
    assert_eq!(tables.len(), 1);
    let manifest =
        "[features]\ndefault = [\"a\"]\na = []\n\n# note\nb = [\"a\"]\n[dependencies]\nc = \"1\"\n";
    assert_eq!(features(manifest).collect::<Vec<_>>(), ["a", "b"]);
    assert!(documents().len() > 8);
}

/// Every document of the repository.
fn documents() -> Vec<std::path::PathBuf> {
    let is_document = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "md");
    let folders = ["", "docs", "assets/shapes", "tools/reference"].map(|name| root().join(name));
    folders.iter().flat_map(|folder| entries(folder)).filter(is_document).collect()
}

/// Features by name, without the default.
fn features(manifest: &str) -> impl Iterator<Item = &str> {
    let lines = manifest.lines().skip_while(|line| line.trim() != "[features]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('[') && dependency_table(line).is_none());
    let names = lines.filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim());
    names.filter(|name| !name.starts_with('#') && *name != "default")
}

/// The tables outside code, each as its rows with their line numbers.
fn tables(text: &str) -> Vec<Vec<(usize, &str)>> {
    let mut tables: Vec<Vec<(usize, &str)>> = Vec::new();
    let (mut in_code, mut in_table) = (false, false);
    for (index, line) in text.lines().enumerate() {
        in_code ^= line.trim_start().starts_with("```");
        let is_row = !in_code && line.starts_with('|');
        if is_row && !in_table {
            tables.push(Vec::new());
        }
        if is_row && let Some(table) = tables.last_mut() {
            table.push((index + 1, line));
        }
        in_table = is_row;
    }
    tables
}

/// The cells of a row; a bar that is escaped or stands in code parts nothing.
fn cells(row: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let (mut in_code, mut escaped) = (false, false);
    for c in row.trim().trim_start_matches('|').chars() {
        in_code ^= c == '`';
        match c {
            '|' if !in_code && !escaped => cells.push(String::new()),
            c => cells.last_mut().into_iter().for_each(|cell| cell.push(c)),
        }
        escaped = c == '\\';
    }
    if cells.last().is_some_and(|cell| cell.trim().is_empty()) {
        cells.pop();
    }
    cells
}
