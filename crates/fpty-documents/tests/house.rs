//! The tree is what CONTRIBUTING.md says it is: its folders, who imports whom, and the
//! table that each `mod.rs` begins with. What holds is read from those tables, so that
//! they cannot say anything else than the code does.

#![allow(clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A row of the map: files or folders of a package, and what they may import.
struct Row {
    names: Vec<String>,
    may_import: Vec<String>,
}

/// A table of the map: the folder of a package's sources, its rows, and the files with
/// Rust that are there, by their paths in the package. (Tests import what they like.)
struct Package {
    root: String,
    rows: Vec<Row>,
    files: Vec<String>,
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Parts of a text between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The tables of CONTRIBUTING.md, by the headings that name a folder.
fn map() -> Vec<Package> {
    let text = read(&top().join("CONTRIBUTING.md"));
    let tables = text.split("\n### `").skip(1).map(|table| {
        let (root, rest) = table.split_once('`').expect("a heading ends");
        let rest = rest.split("\n#").next().unwrap_or_default();
        let rows = rest.lines().filter(|line| line.starts_with("| `")).map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            assert_eq!(cells.len(), 3, "{root}: {line}");
            let names = |cell: &str| quoted(cell).map(str::to_owned).collect::<Vec<_>>();
            let mut may_import = names(cells[2]);
            if cells[2].trim() == "all" {
                may_import.push(String::from("all"));
            }
            Row { names: names(cells[0]), may_import }
        });
        Package { root: root.to_owned(), rows: rows.collect(), files: files(root) }
    });
    let tables: Vec<Package> = tables.collect();
    assert!(tables.len() > 2 && tables.iter().all(|table| table.rows.len() > 3));
    tables
}

fn files(root: &str) -> Vec<String> {
    let root = top().join(root);
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(&root).expect("below it").to_string_lossy();
            match path.is_dir() {
                true => folders.push(path),
                false if name.ends_with("tests.rs") => {}
                false if name.ends_with(".rs") => found.push(name.into_owned()),
                false => {}
            }
        }
    }
    found.sort();
    found
}

impl Package {
    /// The package's name, as other packages write it.
    fn name(&self) -> String {
        let of_crate = self.root.strip_prefix("crates/").and_then(|it| it.strip_suffix("/src"));
        of_crate.unwrap_or("forkptyrouter").replace('-', "_")
    }

    /// The row of a file: the one that names the longest beginning of its path.
    fn row_of(&self, file: &str) -> Option<&Row> {
        let fits = |name: &&String| {
            file.strip_prefix(name.as_str()).is_some_and(|it| it.is_empty() || it.starts_with('/'))
        };
        let length = |row: &&Row| row.names.iter().filter(fits).map(String::len).max();
        self.rows.iter().filter(|row| length(row).is_some()).max_by_key(length)
    }

    /// The file of what has this path in the package: `a::b::C` may be in `a/b.rs`,
    /// `a/b/mod.rs`, `a.rs` or `lib.rs`.
    fn file_of(&self, path: &[&str]) -> String {
        let file = (1..=path.len()).rev().find_map(|length| {
            let stem = path[..length].join("/");
            let known = [format!("{stem}.rs"), format!("{stem}/mod.rs")];
            known.into_iter().find(|file| self.files.contains(file))
        });
        file.unwrap_or_else(|| String::from("lib.rs"))
    }
}

/// The code of a file, without its comments and its tests.
fn code(path: &Path) -> String {
    let text = read(path);
    let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Takes a tree of paths, as `a::{b, c::d}`, off the beginning of a text.
fn take_tree<'a>(text: &mut &'a str, path: &mut Vec<&'a str>, found: &mut Vec<Vec<&'a str>>) {
    let depth = path.len();
    loop {
        *text = text.trim_start();
        if let Some(rest) = text.strip_prefix('{') {
            *text = rest;
            while !text.starts_with('}') && !text.is_empty() {
                take_tree(text, path, found);
                // Behind a path there may be `as`.
                let end = text.find([',', '}']).unwrap_or(text.len());
                *text = text[end..].trim_start_matches(',').trim_start();
            }
            *text = text.strip_prefix('}').unwrap_or(text);
            break;
        }
        let end = text.find(|c| !is_of_word(c)).unwrap_or(text.len());
        if end > 0 {
            path.push(&text[..end]);
        }
        *text = &text[end..];
        match text.strip_prefix("::") {
            Some(rest) => *text = rest,
            None => {
                found.push(path.clone());
                break;
            }
        }
    }
    path.truncate(depth);
}

/// The paths in a file's code that begin with one of these words.
fn paths<'a>(code: &'a str, beginnings: &[&str]) -> Vec<Vec<&'a str>> {
    let (mut rest, mut before, mut found) = (code, ' ', Vec::new());
    while let Some(next) = rest.chars().next() {
        let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
        let is_one = beginnings.contains(&&rest[..end]) && rest[end..].starts_with("::");
        if is_one && before != ':' {
            take_tree(&mut rest, &mut Vec::new(), &mut found);
            continue;
        }
        let length = end.max(next.len_utf8());
        before = rest[..length].chars().next_back().unwrap_or(' ');
        rest = &rest[length..];
    }
    found
}

/// The path in its package of the module in this file.
fn module(file: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
        parts.pop();
    }
    parts
}

/// Fails with all that is wrong, at once.
#[track_caller]
fn is_right(wrong: BTreeSet<String>) {
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "CONTRIBUTING.md and the tree differ:\n{}", wrong.join("\n"));
}

#[test]
fn the_map_has_each_folder_and_each_row_is_there() {
    let (packages, mut wrong) = (map(), BTreeSet::new());
    for package in &packages {
        let root = &package.root;
        let names: Vec<&String> = package.rows.iter().flat_map(|row| &row.names).collect();
        for name in &names {
            if !top().join(root).join(name).exists() {
                wrong.insert(format!("{root} has no {name}"));
            }
            if names.iter().filter(|other| *other == name).count() > 1 {
                wrong.insert(format!("{root} has two rows for {name}"));
            }
        }
        for file in package.files.iter().filter(|file| package.row_of(file).is_none()) {
            wrong.insert(format!("{root}/{file} is in no row"));
        }
        for other in package.rows.iter().flat_map(|row| &row.may_import) {
            let is_package = packages.iter().any(|package| package.name() == *other);
            if other != "all" && !is_package && !names.contains(&other) {
                wrong.insert(format!("{root}: {other} may be imported, and has no row"));
            }
        }
    }
    is_right(wrong);
}

#[test]
fn the_map_has_what_is_beside_the_packages() {
    let text = read(&top().join("CONTRIBUTING.md"));
    let (_, beside) = text.split_once("\n### Beside").expect("a table");
    let beside = beside.split("\n#").next().unwrap_or_default();
    let rows = beside.lines().filter(|line| line.starts_with("| `"));
    let named: Vec<&str> = rows.filter_map(|row| row.split('|').nth(1)).flat_map(quoted).collect();
    let missing = named.iter().filter(|name| !top().join(name).exists());
    let mut wrong: BTreeSet<String> = missing.map(|name| format!("there is no {name}")).collect();
    let packages = map();
    let is_named = |name: &str| {
        let is_its =
            |package: &Package| package.root == name || package.root == format!("{name}/src");
        packages.iter().any(is_its) || named.contains(&name)
    };
    for folder in ["", "crates"] {
        for entry in fs::read_dir(top().join(folder)).expect("a folder").flatten() {
            let name = Path::new(folder).join(entry.file_name()).display().to_string();
            let is_ours = entry.path().is_dir() && !name.starts_with('.');
            if is_ours && !["crates", "target"].contains(&name.as_str()) && !is_named(&name) {
                wrong.insert(format!("{name} is in no row"));
            }
        }
    }
    is_right(wrong);
}

/// The package that a path in a module leads to, and the path there.
fn target<'a>(
    packages: &'a [Package],
    package: &'a Package,
    module: &[&'a str],
    path: &[&'a str],
) -> (&'a Package, Vec<&'a str>) {
    let ups = path.iter().take_while(|part| **part == "super").count();
    match path[0] {
        "crate" => (package, path[1..].to_vec()),
        "super" => {
            let base = &module[..module.len().saturating_sub(ups)];
            (package, [base, &path[ups..]].concat())
        }
        name => {
            let other = packages.iter().find(|package| package.name() == name);
            (other.expect("a package"), path[1..].to_vec())
        }
    }
}

#[test]
fn imports_keep_to_the_map() {
    let packages = map();
    let names: Vec<String> = packages.iter().map(Package::name).collect();
    let beginnings: Vec<&str> =
        names.iter().map(String::as_str).chain(["crate", "super"]).collect();
    let (mut broken, mut count) = (BTreeSet::new(), 0);
    for package in &packages {
        for row in &package.rows {
            let mut unused: BTreeSet<&String> = row.may_import.iter().collect();
            let is_of_row =
                |file: &&String| package.row_of(file).is_some_and(|other| std::ptr::eq(other, row));
            for file in package.files.iter().filter(is_of_row) {
                let code = code(&top().join(&package.root).join(file));
                for path in paths(&code, &beginnings) {
                    count += 1;
                    let (other, path) = target(&packages, package, &module(file), &path);
                    let there = other.file_of(&path);
                    let Some(its_row) = other.row_of(&there) else { continue };
                    if std::ptr::eq(its_row, row) {
                        continue;
                    }
                    // Of another package all is named at once.
                    let names: Vec<String> = match std::ptr::eq(other, package) {
                        true => its_row.names.clone(),
                        false => vec![other.name()],
                    };
                    let may = |name: &&String| *name == "all" || names.contains(name);
                    if !row.may_import.iter().any(|name| may(&name)) {
                        broken.insert(format!("{}/{file} imports {there}", package.root));
                    }
                    unused.retain(|name| !may(name));
                }
            }
            for name in unused {
                let row = row.names.join(", ");
                broken.insert(format!("{}: {row} may import {name}, and does not", package.root));
            }
        }
    }
    assert!(count > 1000, "imports are written in another way: {count}");
    is_right(broken);
}

/// Names in the table at the beginning of a module; `None`: there is no table.
fn table(text: &str) -> Option<BTreeSet<&str>> {
    let lines = text.lines().take_while(|line| line.starts_with("//!"));
    let rows = lines.filter_map(|line| line.strip_prefix("//! | "));
    let mut rows = rows.skip_while(|row| !row.starts_with("file | subject |")).peekable();
    rows.peek()?;
    Some(rows.flat_map(|row| quoted(row.split(" |").next().unwrap_or_default())).collect())
}

#[test]
fn each_module_begins_with_a_table_of_its_files() {
    let (mut wrong, mut count) = (BTreeSet::new(), 0);
    for package in map() {
        for module in package.files.iter().filter(|file| file.ends_with("mod.rs")) {
            let prefix = module.trim_end_matches("mod.rs");
            let below = package.files.iter().filter_map(|file| file.strip_prefix(prefix));
            let name = format!("{}/{module}", package.root);
            let text = read(&top().join(&name));
            let Some(named) = table(&text) else {
                if below.filter(|file| !file.contains('/')).count() > 3 {
                    wrong.insert(format!("{name} has no table of its files"));
                }
                continue;
            };
            count += 1;
            for file in below.filter(|file| *file != "mod.rs") {
                let is_named = match file.split_once('/') {
                    None => named.contains(file),
                    // A folder is named as such, or it is that of a file.
                    Some((folder, _)) => {
                        let may_be = [format!("{folder}/"), format!("{folder}.rs")];
                        may_be.iter().any(|name| named.contains(name.as_str()))
                    }
                };
                if !is_named {
                    wrong.insert(format!("the table of {name} has no {file}"));
                }
            }
            for file in named {
                if !top().join(&package.root).join(prefix).join(file).exists() {
                    wrong.insert(format!("the table of {name} has {file}, which is not there"));
                }
            }
        }
    }
    assert!(count > 10, "tables are written in another way");
    is_right(wrong);
}

#[test]
fn paths_are_found_in_trees_and_in_code() {
    let code = "use crate::a::{b, c::{D as E, f}, self};\nlet x = crate::g::H + self.super_::i();\n\
                pub use super::super::j::*; my_crate::k; fpty::sys::{Read,\n Written};";
    let found: Vec<String> =
        paths(code, &["crate", "super", "fpty"]).iter().map(|path| path.join(" ")).collect();
    let expected = [
        "crate a b",
        "crate a c D",
        "crate a c f",
        "crate a self",
        "crate g H",
        "super super j",
        "fpty sys Read",
        "fpty sys Written",
    ];
    assert_eq!(found, expected);
}

#[test]
fn files_that_documents_name_are_there() {
    let (mut wrong, mut count) = (BTreeSet::new(), 0);
    for document in ["CONTRIBUTING.md", "docs/architecture.md"] {
        let text = read(&top().join(document));
        let prose: String = text.split("```").step_by(2).collect();
        for name in quoted(&prose).filter(|name| name.contains('/') && !name.starts_with('/')) {
            let is_path = name.chars().all(|c| is_of_word(c) || "/.-".contains(c));
            if !is_path || name.starts_with("target/") {
                continue;
            }
            count += 1;
            let places = ["", "crates/fpty-gateway/src", "crates/fpty/src"];
            if !places.iter().any(|place| top().join(place).join(name).exists()) {
                wrong.insert(format!("{document} names {name}, which is not there"));
            }
        }
    }
    assert!(count > 30, "paths are written in another way");
    is_right(wrong);
}
