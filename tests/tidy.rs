//! House rules that neither the compiler nor clippy checks: who may import whom, and what a source
//! file looks like. Each failure names file and line.

mod documents;
mod imports;
mod map;

use std::fs;
use std::path::{Path, PathBuf};

use unclip::unclip_core::Limit;

const FOUNDATIONS: [&str; 2] = ["unclip-core", "unclip-nn"];
const STAGES: [&str; 5] =
    ["unclip-clip", "unclip-prior", "unclip-decoder", "unclip-autoencoder", "unclip-upsample"];
/// Longest source file, in lines.
const MAX_LINES: usize = 450;

/// Whether `crate_name` may depend on the crate `on` of this workspace; `dev` for its tests alone.
fn may_depend(crate_name: &str, on: &str, dev: bool) -> bool {
    match crate_name {
        "unclip" => true,
        "unclip-train" => {
            FOUNDATIONS.contains(&on) || STAGES.contains(&on) || on == "unclip-shapes"
        }
        stage if STAGES.contains(&stage) => FOUNDATIONS.contains(&on),
        // its tests switch on its own features
        "unclip-nn" => ["unclip-kernels", "unclip-core"].contains(&on) || dev && on == "unclip-nn",
        "unclip-core" => dev && on == "unclip-core",
        "unclip-kernels" | "unclip-shapes" => false,
        other => panic!("tests/tidy.rs does not say what the new crate {other} may depend on"),
    }
}

#[test]
fn crates_depend_only_on_what_is_below_them() {
    let mut problems = Vec::new();
    for folder in crate_folders() {
        let manifest = folder.join("Cargo.toml");
        let text = read(&manifest);
        let name = package_name(&text);
        for dependency in dependencies(&text) {
            if !may_depend(&name, &dependency.on, dependency.dev) {
                let message = format!("{name} must not depend on {}", dependency.on);
                problems.push(problem(&manifest, dependency.line, &message));
            }
        }
    }
    report(&problems);
}

/// Layers know no noise: of the mathematics they take the error alone, how errors show text, and limits.
#[test]
fn layers_take_nothing_but_the_error_from_the_mathematics() {
    const MAY: [&str; 3] = ["InvalidSetting", "Limit", "Printable"];
    // what follows the name of the crate: one name, or several in braces
    let is_kept = |rest: &str| match rest.strip_prefix("::") {
        Some(names) => {
            let end = |c: char| !(c.is_alphanumeric() || c == '_');
            let names = match names.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or_default(),
                None => names.split(end).next().unwrap_or_default(),
            };
            names.split(',').all(|name| MAY.contains(&name.trim()))
        }
        None => false,
    };
    let mut problems = Vec::new();
    for path in rust_files(["src", "tests"].map(|name| root().join("unclip-nn").join(name)).into())
    {
        for (at, line) in read(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !code.split("unclip_core").skip(1).all(is_kept) {
                let message = format!("layers take {MAY:?} alone from core: {line}");
                problems.push(problem(&path, at + 1, &message));
            }
        }
    }
    report(&problems);
}

/// What is promised of limits is what there is.
#[test]
fn every_limit_is_told_with_its_default() {
    let told = read(&root().join("SECURITY.md"));
    for &limit in Limit::ALL {
        let (name, value, unit) = (limit.name(), limit.default_value(), limit.unit());
        let line = match value {
            u64::MAX => format!("| `{name}` | none"),
            value => format!("| `{name}` | {value} {unit} |"),
        };
        assert!(told.contains(&line), "SECURITY.md lacks {line}");
    }
}

/// Inputs that are said to be survived have tests of the names that stand beside them.
#[test]
fn every_test_that_is_told_of_is_there() {
    let told = read(&root().join("docs/reliability.md"));
    let mut sources = String::new();
    let folders = entries(root()).into_iter().filter(|path| path.is_dir());
    let own = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ["src", "tests"].contains(&&*name) || name.starts_with("unclip-")
    };
    for path in rust_files(folders.filter(own).collect()) {
        sources.push_str(&read(&path));
    }
    let table = told.lines().skip_while(|line| *line != "| input | answer | tests |");
    let rows = table.skip(2).take_while(|line| line.starts_with("| "));
    let mut told_of = 0;
    for row in rows {
        assert!(row.ends_with("` |"), "no test: {row}");
        let tests = row.rsplit("| ").next().unwrap_or_default().trim_end_matches(" |");
        for test in tests.split(", ") {
            let test = test.trim_matches('`');
            assert!(sources.contains(&format!("fn {test}(")), "no test {test}: {row}");
        }
        told_of += 1;
    }
    assert!(told_of >= 51, "{told_of}");
}

#[test]
fn every_source_file_says_what_it_is() {
    check_sources(|text| {
        if text.starts_with("//!") { vec![] } else { vec![(1, "begins without `//!`".into())] }
    });
}

#[test]
fn no_source_file_is_too_long() {
    check_sources(|text| match text.lines().count() {
        0..=MAX_LINES => vec![],
        n => vec![(MAX_LINES + 1, format!("{n} lines, at most {MAX_LINES} are allowed"))],
    });
}

/// rustdoc's index shows the first line of a comment, which says what the thing is.
#[test]
fn comments_begin_with_a_sentence() {
    check_sources(headings_first);
}

/// Documentation comments that begin with a heading.
fn headings_first(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = |at: &usize| {
        lines[*at].starts_with("/// # ") && (*at == 0 || !lines[at - 1].starts_with("///"))
    };
    let found = (0..lines.len()).filter(begins);
    found.map(|at| (at + 1, format!("begins with {}", lines[at]))).collect()
}

#[test]
fn nothing_is_reexported_by_a_glob() {
    check_sources(glob_reexports);
}

#[test]
fn no_library_picks_a_device_by_itself() {
    check_sources(|text| lines_with(text, &["Device::default()"]));
}

#[test]
fn libraries_print_nothing() {
    check_sources(|text| lines_with(text, &["println!", "eprintln!", "print!", "eprint!", "dbg!"]));
}

/// A check that finds nothing may be a check that looks nowhere.
#[test]
fn the_checks_find_what_they_look_for() {
    let manifest = "[package]\nname = \"unclip-core\"\n[dependencies]\nunclip-nn.workspace = true\n\
                    other = { package = \"unclip-clip\", version = \"1\" } # renamed\n\
                    [target.'cfg(unix)'.dev-dependencies]\nunclip = { path = \"..\" }\n\
                    [dependencies.unclip-train]\npath = \"x\"\n[features]\nunclip-x = []\n";
    let found = dependencies(manifest).into_iter().map(|d| (d.on, d.line, d.dev));
    let expected = [
        ("unclip-nn", 4, false),
        ("unclip-clip", 5, false),
        ("unclip", 7, true),
        ("unclip-train", 8, false),
    ];
    assert!(found.eq(expected.map(|(on, line, dev)| (on.to_string(), line, dev))));
    assert_eq!(package_name(manifest), "unclip-core");

    let source = "use a::*;\n// pub use a::*;\npub use a::{\n    b::*,\n};\npub(crate) use c::*;\n";
    let found = glob_reexports(source).into_iter().map(|(line, _)| line);
    assert!(found.eq([3, 6]));

    let source = "/// Says.\n///\n/// # Shapes\nfn f() {}\n\n    /// # Errors\n    fn g() {}\n";
    assert_eq!(headings_first(source), [(6, "begins with /// # Errors".to_string())]);

    let source = "fn f() {\n    // println!()\n    dbg!(1);\n}\n";
    assert_eq!(lines_with(source, &["println!", "dbg!"]).len(), 1);
    assert!(sources().len() > crate_folders().len());
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Everything in a folder, in order.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The folder of every crate of the workspace, the facade's first.
fn crate_folders() -> Vec<PathBuf> {
    let members = entries(root()).into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("unclip-") && path.join("Cargo.toml").is_file()
    });
    std::iter::once(root().to_path_buf()).chain(members).collect()
}

/// Every Rust file of a library.
fn sources() -> Vec<PathBuf> {
    rust_files(crate_folders().iter().map(|path| path.join("src")).collect())
}

/// Every Rust file below some folders.
fn rust_files(mut folders: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Runs a check over every source file. It gives the lines that it objects to, and why.
fn check_sources(check: impl Fn(&str) -> Vec<(usize, String)>) {
    let of_file = |path: PathBuf| {
        let found = check(&read(&path));
        found.into_iter().map(move |(line, message)| problem(&path, line, &message))
    };
    report(&sources().into_iter().flat_map(of_file).collect::<Vec<_>>());
}

fn problem(path: &Path, line: usize, message: &str) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    format!("{}:{line}: {message}", path.display())
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// Lines with their numbers, without those that are comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    numbered.filter(|(_, line)| !line.starts_with("//"))
}

/// Lines of code that contain one of some words.
fn lines_with(text: &str, words: &[&str]) -> Vec<(usize, String)> {
    code(text)
        .filter(|(_, line)| words.iter().any(|word| line.contains(word)))
        .map(|(number, line)| (number, line.to_string()))
        .collect()
}

/// `pub use` items with a `*` in them, by the line on which they begin.
fn glob_reexports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut item: Option<(usize, String)> = None;
    for (number, line) in code(text) {
        let begins = line.starts_with("pub ") || line.starts_with("pub(");
        if item.is_none() && begins && line.split_whitespace().any(|word| word == "use") {
            item = Some((number, String::new()));
        }
        let Some((_, statement)) = &mut item else { continue };
        statement.push_str(line);
        if line.contains(';') {
            found.extend(item.take().filter(|(_, statement)| statement.contains('*')));
        }
    }
    found
}

/// A crate of this workspace on which another depends.
struct Dependency {
    on: String,
    line: usize,
    dev: bool,
}

/// Dependencies on crates of this workspace, from the text of a `Cargo.toml`.
fn dependencies(manifest: &str) -> Vec<Dependency> {
    let mut found = Vec::new();
    let mut table = None;
    for (index, line) in manifest.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let mut add = |name: &str, dev: bool| {
            let on = name.trim().trim_matches('"').to_string();
            if on == "unclip" || on.starts_with("unclip-") {
                found.push(Dependency { on, line: index + 1, dev });
            }
        };
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            table = dependency_table(header);
            // [dependencies.name]
            if let Some((parent, name)) = header.rsplit_once('.')
                && let Some(dev) = dependency_table(parent)
            {
                add(name, dev);
                table = Some(dev);
            }
        } else if let (Some(dev), Some((key, value))) = (table, line.split_once('=')) {
            add(key.split('.').next().unwrap_or_default(), dev);
            if key.trim() == "package" {
                add(value, dev);
            }
            if let Some((_, rest)) = value.split_once("package") {
                add(rest.split('"').nth(1).unwrap_or_default(), dev);
            }
        }
    }
    found
}

/// Whether the table of this name lists dependencies, and if so, whether of tests alone.
fn dependency_table(header: &str) -> Option<bool> {
    let (parent, last) = header.rsplit_once('.').unwrap_or(("", header));
    match last {
        // of the whole workspace: each crate takes from it what it needs
        _ if parent == "workspace" => None,
        "dependencies" | "build-dependencies" => Some(false),
        "dev-dependencies" => Some(true),
        _ => None,
    }
}

fn package_name(manifest: &str) -> String {
    let in_package = manifest.lines().skip_while(|line| line.trim() != "[package]").skip(1);
    let name = in_package.take_while(|line| !line.starts_with('[')).find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "name").then(|| value.trim().trim_matches('"').to_string())
    });
    name.expect("every crate has a name")
}
