//! House rules that neither the compiler nor clippy can see.
//!
//! Each rule is a function from the tree to findings, in a file of its own with tests that plant
//! what it looks for. What may break a rule stands in [`exempt`], with its reason; an exemption
//! that nothing needs any more is itself a finding.

mod cycles;
mod exempt;
mod floors;
mod links;
mod lints;
mod names;
mod sizes;
mod words;

use std::fmt;

use crate::source::Source;
use crate::tree::Tree;

/// One place where a rule does not hold.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Finding {
    /// The file, from the root.
    pub(crate) path: String,
    /// The line, from 1; 0 when the finding is about the whole file.
    pub(crate) line: usize,
    /// The rule's name, as exemptions name it.
    pub(crate) rule: &'static str,
    /// What is wrong, with the value and the limit.
    pub(crate) text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, text } = self;
        match line {
            0 => write!(f, "{path}: {text} [{rule}]"),
            line => write!(f, "{path}:{line}: {text} [{rule}]"),
        }
    }
}

impl Finding {
    fn new(rule: &'static str, path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule, text: text.into() }
    }
}

/// One Rust file of the tree, masked, with what of it is test code.
struct RustFile<'a> {
    path: &'a str,
    source: Source<'a>,
    code_lines: Vec<String>,
    in_tests: Vec<bool>,
}

impl<'a> RustFile<'a> {
    fn new(path: &'a str, text: &'a str) -> Self {
        let source = Source::new(text);
        let code_lines = source.code_lines();
        let mut in_tests = vec![is_test_path(path); code_lines.len()];
        for range in source.test_lines() {
            in_tests[range].fill(true);
        }
        Self { path, source, code_lines, in_tests }
    }
}

/// Every finding of every rule, sorted, less what is exempt.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    exempt::apply(all(tree), exempt::EXEMPT)
}

fn all(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    let files = rust_files(tree);
    for file in &files {
        sizes::check(file, &mut found);
        words::check_rust(file, &mut found);
    }
    names::check(&files, &mut found);
    cycles::check(&files, &mut found);
    floors::check(tree, &mut found);
    lints::check(tree, &mut found);
    links::check(tree, &mut found);
    words::check_places(tree, &mut found);
    found.sort();
    found
}

/// The Rust files, with the files of modules that a parent declares for tests marked as such.
fn rust_files(tree: &Tree) -> Vec<RustFile<'_>> {
    let is_rust = |(path, _): &(&str, &str)| path.ends_with(".rs");
    let mut files: Vec<_> =
        tree.files().filter(is_rust).map(|(path, text)| RustFile::new(path, text)).collect();
    let mut tests = Vec::new();
    for file in &files {
        let folder = module_folder(file.path);
        tests.extend(file.source.test_modules().iter().map(|name| format!("{folder}/{name}")));
    }
    for file in &mut files {
        let is_below = |module: &String| {
            let rest = file.path.strip_prefix(module.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        if tests.iter().any(is_below) {
            file.in_tests.fill(true);
        }
    }
    files
}

/// The folder in which the modules that this file declares have their files.
fn module_folder(path: &str) -> &str {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name {
        "lib.rs" | "main.rs" | "mod.rs" => folder,
        _ => path.strip_suffix(".rs").unwrap_or(path),
    }
}

fn is_test_path(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("/benches/")
}
