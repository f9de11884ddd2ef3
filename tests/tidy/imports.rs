//! Whether the files of a crate import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{crate_folders, read};

/// A module by its path below the crate, and the text of its file without its tests.
type Modules = BTreeMap<Vec<String>, String>;

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    for folder in crate_folders() {
        let modules = modules(&folder.join("src"));
        let circles = circles(&imports(&modules));
        assert!(circles.is_empty(), "{}: {circles:?}", folder.display());
    }
}

#[test]
fn a_circle_is_found_through_reexports_and_lists() {
    let module = |path: &[&str], text: &str| {
        (path.iter().map(|name| name.to_string()).collect::<Vec<_>>(), text.to_string())
    };
    let modules = Modules::from([
        module(&[], "mod a;\nmod b;\npub use a::A;\n"),
        module(&["a"], "use crate::{\n    b::{self, B},\n};\n"),
        module(&["b"], "mod c;\n"),
        module(&["b", "c"], "// use super::x;\nuse crate::A;\n"),
    ]);
    // a → b; b::c → a; and b does not import c, which it merely has
    assert!(circles(&imports(&modules)).is_empty());
    let mut closed = modules;
    closed.insert(vec!["b".into()], "mod c;\nuse c::C;\n".into());
    assert_eq!(circles(&imports(&closed)), ["a, b, b::c"]);
}

/// The modules of a library, by following `mod` from its root and the lists of the macros that
/// declare modules.
fn modules(src: &Path) -> Modules {
    let mut modules = Modules::new();
    let mut open = vec![(Vec::new(), src.join("lib.rs"), src.to_path_buf())];
    while let Some((path, file, folder)) = open.pop() {
        let text = read(&file);
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (name, at) in declared(text) {
            let beside = at.map(|at| file.with_file_name(at));
            let candidates = [
                beside,
                Some(folder.join(format!("{name}.rs"))),
                Some(folder.join(&name).join("mod.rs")),
            ];
            let found = candidates.into_iter().flatten().find(|path: &PathBuf| path.exists());
            if let Some(file) = found {
                let below = [path.clone(), vec![name.clone()]].concat();
                open.push((below, file, folder.join(&name)));
            }
        }
        modules.insert(path, text.to_string());
    }
    modules
}

/// The modules that a file declares, with the file that an attribute names.
fn declared(text: &str) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    let (mut test, mut at) = (false, None);
    for line in text.lines().map(str::trim) {
        if let Some((_, list)) = line.split_once("!(").filter(|_| line.contains("::")) {
            let names = list.split(", ").filter_map(|pair| pair.split_once("::"));
            found.extend(names.map(|(name, _)| (name.to_string(), None)));
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["mod", name] | [_, "mod", name] if name.ends_with(';') && !test => {
                found.push((name.trim_end_matches(';').to_string(), at.take()));
            }
            _ if line.starts_with("#[path") => at = line.split('"').nth(1).map(String::from),
            _ => {}
        }
        test = line == "#[cfg(test)]";
    }
    found
}

/// Which module's file imports from which. The root is left out: it declares and re-exports.
fn imports(modules: &Modules) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let root: Vec<String> = Vec::new();
    let mut found = BTreeMap::new();
    for (module, text) in modules.iter().filter(|(module, _)| **module != root) {
        let of = uses(text).into_iter().filter_map(|path| resolve(modules, module, &path, 0));
        let of = of.filter(|target| target != module && *target != root).collect();
        found.insert(module.clone(), of);
    }
    found
}

/// Every path of the `use` items of a text.
fn uses(text: &str) -> Vec<Vec<String>> {
    let code: Vec<&str> =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let mut found = Vec::new();
    for item in code.join("\n").split(';') {
        let lines: Vec<&str> = item.lines().map(str::trim).collect();
        let begins = |line: &&str| {
            line.starts_with("use ") || line.starts_with("pub") && line.contains(" use ")
        };
        let Some(start) = lines.iter().rposition(begins) else { continue };
        let item = lines[start..].join(" ");
        if let Some((_, tree)) = item.split_once("use ") {
            expand(&[], tree.trim(), &mut found);
        }
    }
    found
}

/// The paths of a `use` tree.
fn expand(prefix: &[String], tree: &str, found: &mut Vec<Vec<String>>) {
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        let own = path.split("::").map(|name| name.trim().to_string()).filter(|it| it != "self");
        return found.push(prefix.iter().cloned().chain(own).collect());
    };
    let own = head.trim().trim_end_matches("::").split("::").map(|name| name.trim().to_string());
    let prefix: Vec<String> =
        prefix.iter().cloned().chain(own.filter(|name| !name.is_empty())).collect();
    let (mut depth, mut part) = (0, String::new());
    for c in rest[..rest.rfind('}').unwrap_or(rest.len())].chars().chain([',']) {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            if !part.trim().is_empty() {
                expand(&prefix, part.trim(), found);
            }
            part.clear();
        } else {
            part.push(c);
        }
    }
}

/// The module whose file holds what a path names, re-exports followed; `None` if it is of another
/// crate.
fn resolve(
    modules: &Modules,
    from: &[String],
    path: &[String],
    depth: usize,
) -> Option<Vec<String>> {
    let mut rest = path;
    let mut at = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "super" => from.to_vec(),
        name => {
            let below = [from.to_vec(), vec![name.to_string()]].concat();
            modules.contains_key(&below).then(|| from.to_vec())?
        }
    };
    if path[0] == "crate" {
        rest = &rest[1..];
    }
    while rest.first().is_some_and(|name| name == "super") {
        at.pop();
        rest = &rest[1..];
    }
    while let Some(name) = rest.first() {
        let below = [at.clone(), vec![name.clone()]].concat();
        if !modules.contains_key(&below) {
            break;
        }
        (at, rest) = (below, &rest[1..]);
    }
    let Some(item) = rest.first().filter(|_| depth < 6) else { return Some(at) };
    let reexports = uses(&modules[&at]).into_iter().filter(|path| path.last() == Some(item));
    let mut further = reexports.filter_map(|path| resolve(modules, &at, &path, depth + 1));
    Some(further.find(|target| *target != at).unwrap_or(at))
}

/// Groups of modules that reach each other.
fn circles(imports: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<String> {
    let reach = |from: &Vec<String>| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(next) = open.pop() {
            for target in imports.get(&next).into_iter().flatten() {
                if seen.insert(target.clone()) {
                    open.push(target.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = imports.keys().map(|from| (from, reach(from))).collect();
    let in_circle = |from: &&Vec<String>| reached[*from].contains(*from);
    let group = |from: &Vec<String>| {
        let back =
            reached[from].iter().filter(|to| reached.get(to).is_some_and(|r| r.contains(from)));
        back.map(|path| path.join("::")).collect::<Vec<_>>().join(", ")
    };
    let groups: BTreeSet<String> = imports.keys().filter(in_circle).map(group).collect();
    groups.into_iter().collect()
}
