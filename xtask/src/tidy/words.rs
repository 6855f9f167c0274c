//! Words that do not belong: unfinished code, queues without a bound, sleeping tests, silenced
//! lints and ignored tests without a reason, and names of the place where somebody happened to
//! work.
//!
//! The words stand here in pieces, so that this file does not find itself.

use super::{Finding, RustFile};
use crate::source::is_name;
use crate::tree::Tree;

/// Marks of unfinished work, in code and in comments.
const UNFINISHED: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X")];
const UNFINISHED_MACROS: &[&str] = &[concat!("to", "do!"), concat!("unimple", "mented!")];

/// Channels that grow without a bound.
const UNBOUNDED: &[&str] = &[
    concat!("unbounded", "("),
    concat!("unbounded_", "channel("),
    concat!("mpsc::", "channel()"),
    concat!("mpsc::", "channel::<"),
];

/// Folders of a machine, not of the project.
const PLACES: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/fa", "rm/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/tmp", "/h/"),
    concat!("/tmp", "/peers"),
];

/// Hosts of package registries: which mirror is used is the reader's affair.
const HOSTS: &[&str] = &[
    concat!("index.cra", "tes.io"),
    concat!("static.cra", "tes.io"),
    concat!("files.python", "hosted.org"),
    concat!("py", "pi.org"),
    concat!("registry.npm", "js.org"),
    concat!("proxy.go", "lang.org"),
];

pub(super) fn check_rust(file: &RustFile<'_>, found: &mut Vec<Finding>) {
    check_unfinished(file, found);
    check_queues_and_sleeps(file, found);
    check_reasons(file, found);
}

fn check_unfinished(file: &RustFile<'_>, found: &mut Vec<Finding>) {
    for (at, line) in file.source.text.lines().enumerate() {
        for word in UNFINISHED.iter().filter(|word| has_word(line, word)) {
            let text = format!("unfinished: `{word}`");
            found.push(Finding::new("unfinished", file.path, at + 1, text));
        }
    }
    for word in UNFINISHED_MACROS {
        for at in file.source.find_all(word) {
            let line = file.source.line_of(at) + 1;
            found.push(Finding::new(
                "unfinished",
                file.path,
                line,
                format!("unfinished: `{word}`"),
            ));
        }
    }
}

fn check_queues_and_sleeps(file: &RustFile<'_>, found: &mut Vec<Finding>) {
    for word in UNBOUNDED {
        for at in file.source.find_all(word) {
            let line = file.source.line_of(at) + 1;
            let text = "a queue without a bound: bound it by a named setting";
            found.push(Finding::new("unbounded", file.path, line, text));
        }
    }
    for at in file.source.find_all(concat!("sle", "ep(")) {
        let line = file.source.line_of(at);
        if file.in_tests[line] {
            let text = "a test sleeps: wait for what it needs, or use virtual time";
            found.push(Finding::new("sleep", file.path, line + 1, text));
        }
    }
}

fn check_reasons(file: &RustFile<'_>, found: &mut Vec<Finding>) {
    let lines: Vec<&str> = file.source.text.lines().collect();
    let mut refuse = |at: usize, text: &str| {
        found.push(Finding::new("reason", file.path, file.source.line_of(at) + 1, text));
    };
    for opening in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
        for at in file.source.find_all(opening) {
            let first = file.source.line_of(at);
            let attribute: String =
                file.source.code[at..].iter().take_while(|c| **c != ']').collect();
            let is_commented = |line: Option<&&str>| line.is_some_and(|line| line.contains("//"));
            let above = first.checked_sub(1).and_then(|above| lines.get(above));
            let has_plain_comment = above.is_some_and(|line| line.trim_start().starts_with("// "));
            if !attribute.contains("reason = ")
                && !is_commented(lines.get(first))
                && !has_plain_comment
            {
                refuse(at, "a lint is silenced without a reason: add `reason = \"...\"`");
            }
        }
    }
    for at in file.source.find_all("#[ignore]") {
        refuse(at, "an ignored test without a reason: `#[ignore = \"...\"]`");
    }
}

/// Looks for names of places in every file but lock files.
pub(super) fn check_places(tree: &Tree, found: &mut Vec<Finding>) {
    for (path, text) in tree.files().filter(|(path, _)| !path.ends_with(".lock")) {
        for (at, line) in text.lines().enumerate() {
            for place in PLACES.iter().filter(|place| has_path(line, place)) {
                let text = format!("names a folder of somebody's machine: `{place}`");
                found.push(Finding::new("place", path, at + 1, text));
            }
            for host in HOSTS.iter().filter(|host| line.contains(**host)) {
                let text = format!("names a registry's host: `{host}`");
                found.push(Finding::new("place", path, at + 1, text));
            }
        }
    }
}

/// Whether the word stands in the line with no part of a name on either side.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let is_free = |c: Option<char>| !c.is_some_and(is_name);
        is_free(line[..at].chars().next_back()) && is_free(line[at + word.len()..].chars().next())
    })
}

/// Whether the absolute path stands in the line: `a/x/b` is no use of `/x/`.
fn has_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| is_name(c) || ".-~})*]".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::all;

    fn rules_at(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        all(&Tree::of(&[(path, text)])).iter().map(|f| (f.rule, f.line)).collect()
    }

    fn rules(text: &str) -> Vec<(&'static str, usize)> {
        rules_at("crates/x/src/a.rs", text)
    }

    #[test]
    fn unfinished_work_is_found() {
        for word in UNFINISHED {
            assert_eq!(rules(&format!("\n// {word}: later")), [("unfinished", 2)], "{word}");
            assert_eq!(rules(&format!("const {word}ES: u8 = 1;")), [], "{word}");
        }
        for word in UNFINISHED_MACROS {
            assert_eq!(rules(&format!("fn a() {{ {word}() }}")), [("unfinished", 1)], "{word}");
        }
    }

    #[test]
    fn queues_without_bound_are_found() {
        for word in UNBOUNDED {
            assert_eq!(rules(&format!("let a = {word}x);")), [("unbounded", 1)], "{word}");
        }
        assert_eq!(rules("let a = mpsc::channel(16); // unbounded (never)"), []);
    }

    #[test]
    fn sleeping_tests_are_found_and_sleeping_code_is_not() {
        let call = format!("fn a() {{ thread::{}1); }}", concat!("sle", "ep("));
        assert_eq!(rules(&call), []);
        assert_eq!(rules(&format!("#[cfg(test)]\nmod tests {{ {call} }}")), [("sleep", 2)]);
        assert_eq!(rules_at("crates/x/tests/a.rs", &call), [("sleep", 1)]);
    }

    #[test]
    fn silenced_lints_and_ignored_tests_need_a_reason() {
        assert_eq!(rules("#[allow(dead_code)]\nfn a() {}"), [("reason", 1)]);
        assert_eq!(rules("/// Docs.\n#[allow(dead_code)]\nfn a() {}"), [("reason", 2)]);
        assert_eq!(rules("#![expect(unused)]"), [("reason", 1)]);
        assert_eq!(rules("#[allow(\n  dead_code,\n  reason = \"x\"\n)]\nfn a() {}"), []);
        assert_eq!(rules("#[allow(dead_code)] // because\nfn a() {}"), []);
        assert_eq!(rules("// because\n#[allow(dead_code)]\nfn a() {}"), []);
        assert_eq!(rules("#[ignore]\nfn a() {}"), [("reason", 1)]);
        assert_eq!(rules("#[ignore = \"needs a real disk\"]\nfn a() {}"), []);
    }

    #[test]
    fn places_are_found_outside_lock_files() {
        for place in PLACES {
            let text = format!("see {place}x");
            assert_eq!(rules_at("docs/a.md", &text), [("place", 1)], "{place}");
            assert_eq!(rules_at("docs/a.md", &format!("see a{place}x")), [], "{place}");
        }
        for host in HOSTS {
            let text = format!("https://{host}/x");
            assert_eq!(rules_at("docs/a.md", &text), [("place", 1)], "{host}");
            assert_eq!(rules_at("Cargo.lock", &text), [], "{host}");
        }
    }
}
