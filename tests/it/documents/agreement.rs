//! The documents agree with the code, with `examples/` and with each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::harness::documents::{self, quoted, root};

#[test]
fn the_readme_is_for_a_first_visit() {
    let lines = documents::read("README.md").text.lines().count();
    assert!(lines <= 250, "README.md has {lines} lines: what is reference goes to docs/");
}

#[test]
fn there_are_no_blocks_of_unknown_kinds() {
    for document in documents::all() {
        let count = document.text.matches("```").count() / 2;
        let known = ["sh", "ini", "text"].map(|kind| document.blocks(kind).len());
        assert_eq!(known.iter().sum::<usize>(), count, "{}", document.name);
    }
}

#[test]
fn the_configurations_are_those_in_examples() {
    let documents = documents::all();
    let mut shown: Vec<&str> = Vec::new();
    for (before, body) in documents.iter().flat_map(|document| document.blocks("ini")) {
        let paragraph = before.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let Some((_, rest)) = paragraph.rsplit_once("examples/") else {
            assert!(!body.contains("[uwsgi]"), "a configuration without its file: {body}");
            continue;
        };
        let name = rest.split(')').next().unwrap_or_default();
        let file = fs::read_to_string(root().join("examples").join(name)).unwrap();
        let settings: Vec<&str> = file.lines().filter(|line| !line.starts_with(';')).collect();
        assert_eq!(settings, body.lines().collect::<Vec<_>>(), "{name}");
        shown.push(name);
    }
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".ini") || shown.contains(&name.as_str()), "{name} is not shown");
    }
}

/// The anchors of a text's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// Files that `make install` takes along.
const INSTALLED: [&str; 6] =
    ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "docs", "examples"];

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for document in documents::all() {
        let folder = root().join(&document.name).parent().unwrap().to_owned();
        let prose = document.prose();
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => root().join(&document.name),
                path => folder.join(path),
            };
            let target = target.canonicalize().unwrap_or_else(|error| {
                panic!("{}: the link {link} leads nowhere: {error}", document.name)
            });
            let inside = target.strip_prefix(root().canonicalize().unwrap()).unwrap();
            let first = inside.iter().next().and_then(|name| name.to_str()).unwrap();
            assert!(INSTALLED.contains(&first), "{}: {link} is not installed", document.name);
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(&target).unwrap());
                assert!(there.iter().any(|name| name == anchor), "{}: {link}", document.name);
            }
        }
    }
    assert!(count > 10, "the links are written in another way");
    let install = fs::read_to_string(root().join("tools/install")).unwrap();
    for name in INSTALLED {
        assert!(install.contains(name), "tools/install does not copy {name}");
    }
}

#[test]
fn every_document_is_linked_from_the_readme() {
    let readme = documents::read("README.md").text;
    for document in documents::all() {
        let link = format!("]({})", document.name);
        assert!(document.name == "README.md" || readme.contains(&link), "{}", document.name);
    }
}

/// A row of a table of options.
struct Row {
    names: Vec<String>,
    help: String,
    key: Option<String>,
}

/// The rows of the table `OPTIONS` of a source. (The code itself is a plugin: only a
/// server can link it.)
fn rows(source: &str) -> Vec<Row> {
    let text = fs::read_to_string(root().join(source)).unwrap();
    let (_, table) = text.split_once("OPTIONS: [OptionRow<").expect(source);
    let (table, _) = table.split_once("\n];").expect(source);
    let table = table.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
    let starts = [" option(", " switch(", " key("];
    let rows =
        starts.iter().fold(table, |table, start| table.replace(start, &format!("\n{start}")));
    let rows = rows.lines().skip(1).map(|row| {
        // The texts between here and there.
        let texts = |from: &str, to: &str| -> Vec<String> {
            let rest = row.split_once(from).map_or("", |(_, rest)| rest);
            let rest = rest.split_once(to).map_or("", |(texts, _)| texts);
            rest.split('"').skip(1).step_by(2).map(str::to_owned).collect()
        };
        Row {
            names: texts("(&[", "]"),
            help: texts(".help(", ".parse_with(").concat(),
            key: texts("key(", ")").pop(),
        }
    });
    rows.collect()
}

/// The options of a table, each with its line for `uwsgi --help`.
fn options(rows: &[Row]) -> Vec<(String, String)> {
    let each = |row: &Row| row.names.iter().map(|name| (name.clone(), row.help.clone())).collect();
    rows.iter().flat_map(|row: &Row| -> Vec<_> { each(row) }).collect()
}

/// The rows of all tables of options in these documents.
fn rows_of_options(documents: &[documents::Document]) -> String {
    let tables = documents.iter().flat_map(|document| {
        let tables = document.text.split("\n| option | default | |\n").skip(1);
        tables.map(|table| table.split("\n\n").next().unwrap_or_default())
    });
    tables.collect::<Vec<_>>().join("\n")
}

/// Compares the first two cells of these rows with the options of the code.
#[track_caller]
fn check_options(table: &str, options: &[(String, String)]) {
    assert!(options.len() > 5, "the options are written in another way");
    let rows = || table.lines().filter(|line| line.starts_with("| `"));
    let listed: Vec<&str> =
        rows().flat_map(|row| quoted(row.split('|').nth(1).unwrap_or_default())).collect();
    let known: Vec<&str> = options.iter().map(|(name, _)| name.as_str()).collect();
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(set(&listed), set(&known), "docs/options*.md (left), the code (right)");
    assert_eq!(listed.len(), known.len(), "an option is listed twice");
    for (name, help) in options {
        assert!(!help.is_empty(), "{name}");
        let Some((_, default)) = help.split_once("(default: ") else {
            continue;
        };
        let default = default.split([')', ',', ';']).next().unwrap_or_default();
        let row = rows().find(|row| row.contains(&format!("`{name}`"))).unwrap_or_default();
        let cell = row.split('|').nth(2).unwrap_or_default().trim().replace('`', "");
        assert_eq!(cell, default, "the default of {name}");
    }
}

#[test]
fn every_option_is_listed_with_its_default() {
    let pages = documents::all().into_iter().filter(|it| it.name.starts_with("docs/options"));
    let (of_pty, of_gateway): (Vec<_>, Vec<_>) =
        pages.partition(|page| page.name == "docs/options-pty.md");
    assert!(of_gateway.len() > 5, "the pages have other names");
    let of_code = |source| options(&rows(source));
    check_options(
        &rows_of_options(&of_gateway),
        &of_code("crates/fpty-gateway/src/config/options.rs"),
    );
    check_options(&rows_of_options(&of_pty), &of_code("src/pty_options.rs"));
}

#[test]
fn every_key_of_a_socket_is_listed() {
    let document = documents::read("docs/options-rules.md");
    let table = document.section("Sockets with rules of their own");
    let rows_of = table.lines().filter(|line| line.starts_with("| `"));
    let first = rows_of.filter_map(|row| row.split('|').nth(1)).collect::<Vec<_>>().join(" ");
    let keys: Vec<String> = rows("crates/fpty-gateway/src/config/options.rs")
        .into_iter()
        .filter_map(|row| row.key)
        .collect();
    assert!(keys.len() > 30, "the keys are written in another way");
    for key in keys {
        assert!(first.contains(&format!("`{key}`")), "{} has no key {key}", document.name);
    }
}

/// The sources below a folder, in one text with single blanks.
fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|name| name == "rs") {
            // A text may be cut where a line of the source ends.
            let text = fs::read_to_string(&path).unwrap().replace("\\\n", "");
            all.extend(text.split_whitespace().flat_map(|word| [word, " "]));
        }
    }
}

/// A line as the log has it: its words as in the code, without what differs
/// from time to time.
fn fixed_parts(line: &str) -> Vec<String> {
    let variable = |word: &str| ["N", "(N", "ADDRESS", "...", "/dev/pts/N"].contains(&word);
    let words: Vec<&str> = line.split(' ').collect();
    let parts = words.split(|word| variable(word.trim_end_matches(':')));
    let parts = parts.map(|words| words.join(" "));
    parts.filter(|part| part.len() > 3).collect()
}

#[test]
fn the_lines_of_the_log_are_in_the_code() {
    let mut code = String::new();
    sources(&root().join("src"), &mut code);
    sources(&root().join("crates/fpty/src/sys"), &mut code);
    sources(&root().join("crates/fpty-gateway/src"), &mut code);
    let document = documents::read("docs/options-log.md");
    let rows = document.text.lines().filter(|line| line.starts_with("| `"));
    let lines: Vec<&str> = rows.filter_map(|row| quoted(row).first().copied()).collect();
    assert!(lines.len() > 15, "the table is written in another way");
    for line in lines {
        for part in fixed_parts(line) {
            // Some begin with a name that the code has elsewhere.
            let part = ["forkptyrouter: ", "pty: ", "uWSGI forkptyrouter "]
                .iter()
                .find_map(|name| part.strip_prefix(name))
                .unwrap_or(&part);
            assert!(code.contains(part), "no line of the log has {part:?}: {line}");
        }
    }
}

#[test]
fn every_target_of_make_is_there() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    for document in documents::all() {
        for command in quoted(&document.prose()) {
            let Some(target) = command.strip_prefix("make ").and_then(|s| s.split(' ').next())
            else {
                continue;
            };
            let is_variable = target.contains('=');
            let there = makefile.contains(&format!("\n{target}:"));
            assert!(is_variable || there, "{}: `{command}`", document.name);
        }
    }
}
