//! The documents that a user reads: their texts, and what is in them.

use std::fs;
use std::path::Path;

/// The clone.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One document.
pub struct Document {
    /// The document's path in the clone.
    pub name: String,
    pub text: String,
}

/// By its path in the clone.
pub fn read(name: &str) -> Document {
    let text = fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    Document { name: name.to_owned(), text }
}

/// All documents.
pub fn all() -> Vec<Document> {
    let mut names: Vec<String> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(String::from).to_vec();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.ends_with(".md"), "docs/{name} is no document");
        names.push(format!("docs/{name}"));
    }
    names.iter().map(|name| read(name)).collect()
}

/// First words of a table's cell that is a command.
const PROGRAMS: [&str; 5] = ["./fpty ", "uwsgi ", "uwsgi-core ", "python3 ", "socat "];

impl Document {
    /// The blocks of one kind, each with the text before it.
    pub fn blocks(&self, kind: &str) -> Vec<(&str, &str)> {
        let opening = format!("```{kind}\n");
        self.text
            .match_indices(&opening)
            .map(|(at, _)| {
                let body = &self.text[at + opening.len()..];
                let end = body.find("```").expect("a block ends");
                (&self.text[..at], &body[..end])
            })
            .collect()
    }

    /// The text without its blocks.
    pub fn prose(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }

    /// Text under a heading of the second level.
    pub fn section(&self, heading: &str) -> &str {
        let opening = format!("\n## {heading}\n");
        let (_, body) = self.text.split_once(&opening).expect(heading);
        body.split("\n## ").next().unwrap_or_default()
    }

    /// The lines of the shell blocks, and the commands in tables.
    pub fn commands(&self) -> Vec<&str> {
        let mut found: Vec<&str> =
            self.blocks("sh").into_iter().flat_map(|(_, body)| body.lines()).collect();
        for row in self.text.lines().filter(|line| line.starts_with('|')) {
            for cell in row.split('|').map(str::trim) {
                let command = cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
                let is_one = |cell: &&str| PROGRAMS.iter().any(|name| cell.starts_with(name));
                found.extend(command.filter(is_one));
            }
        }
        found
    }
}

/// Parts of a text between backquotes.
pub fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}
