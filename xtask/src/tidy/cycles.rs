//! Module cycles: siblings of one parent module do not import each other in a circle.
//!
//! Seen are paths from `crate::`, `super::` and `self::` outside tests, as far as they name a
//! module. What a child and its own parent have with each other is not looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, RustFile};
use crate::source::{Source, is_name};

/// A module's names from its crate's root.
type ModulePath = Vec<String>;

pub(super) fn check(files: &[RustFile<'_>], found: &mut Vec<Finding>) {
    let mut crates: BTreeMap<&str, Vec<(ModulePath, &RustFile<'_>)>> = BTreeMap::new();
    for file in files {
        if let Some((root, module)) = place(file.path) {
            crates.entry(root).or_default().push((module, file));
        }
    }
    for modules in crates.values() {
        check_crate(modules, found);
    }
}

/// The crate's source folder and the module's path in it.
fn place(path: &str) -> Option<(&str, ModulePath)> {
    let at = path.find("src/")? + 4;
    let (root, inner) = path.split_at(at);
    let inner = inner.strip_suffix(".rs")?;
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    let mut module: ModulePath = inner.split('/').map(str::to_owned).collect();
    if matches!(inner, "lib" | "main") {
        module.clear();
    }
    Some((root, module))
}

fn check_crate(modules: &[(ModulePath, &RustFile<'_>)], found: &mut Vec<Finding>) {
    let known: BTreeSet<&[String]> = modules.iter().map(|(path, _)| path.as_slice()).collect();
    // Per parent: which child uses which of its siblings.
    let mut uses: BTreeMap<&[String], BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    let mut homes: BTreeMap<&[String], &str> = BTreeMap::new();
    for (from, file) in modules {
        homes.insert(from, file.path);
        let targets = references(from, file);
        let continued = continued_modules(file, &targets);
        for target in targets {
            if continued.iter().any(|module| target.starts_with(module)) {
                continue;
            }
            let Some(to) = longest_known(&known, &target) else { continue };
            let shared = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            if let (Some(user), Some(used)) = (from.get(shared), to.get(shared)) {
                let parent = uses.entry(&to[..shared]).or_default();
                parent.entry(user.as_str()).or_default().insert(used.as_str());
            }
        }
    }
    for (parent, edges) in &uses {
        for circle in circles(edges) {
            let names = circle.join(" -> ");
            let home = [parent, &[circle[0].to_owned()][..]].concat();
            let path = homes.get(home.as_slice()).copied().unwrap_or_default();
            found.push(Finding::new("cycle", path, 0, format!("modules in a circle: {names}")));
        }
    }
}

/// The longest prefix of a path that is a module with a file.
fn longest_known<'k>(known: &BTreeSet<&'k [String]>, target: &[String]) -> Option<&'k [String]> {
    (1..=target.len()).rev().find_map(|n| known.get(&target[..n]).copied())
}

/// Paths that the module's code outside tests names, from the crate's root.
fn references(from: &[String], file: &RustFile<'_>) -> Vec<ModulePath> {
    let mut found = Vec::new();
    for (word, base) in [("crate::", 0), ("self::", from.len()), ("super::", from.len().max(1) - 1)]
    {
        for at in file.source.find_all(word) {
            let is_inner = at >= 2 && file.source.code[at - 2..at].iter().all(|c| *c == ':');
            if file.in_tests[file.source.line_of(at)] || is_inner {
                continue;
            }
            let prefix = from[..base.min(from.len())].to_vec();
            collect(&file.source, at + word.len(), prefix, &mut found);
        }
    }
    found
}

/// Modules whose types get inherent `impl` blocks in this file: of the type's path, all but its
/// name.
fn continued_modules(file: &RustFile<'_>, targets: &[ModulePath]) -> Vec<ModulePath> {
    let mut types = BTreeSet::new();
    for at in file.source.find_all("impl") {
        let head: String = file.source.code[at..].iter().take_while(|c| **c != '{').collect();
        let is_at_line_start = at == 0 || file.source.code[at - 1] == '\n';
        if is_at_line_start && !head.contains(" for ") {
            // `impl<'a> Name<'a>`: past the block's own parameters, up to the type's.
            let rest = head.trim_start_matches("impl");
            let rest =
                rest.split_once("> ").filter(|_| rest.starts_with('<')).map_or(rest, |r| r.1);
            let name: String = rest.trim_start().chars().take_while(|c| is_name(*c)).collect();
            types.insert(name);
        }
    }
    let is_continued = |target: &&ModulePath| target.last().is_some_and(|t| types.contains(t));
    let mut found = Vec::new();
    for target in targets.iter().filter(is_continued) {
        found.push(target[..target.len() - 1].to_vec());
    }
    found.retain(|module| !module.is_empty());
    found
}

/// Reads one path, or one group `{a, b::c}` of them, from a position on; returns where it ends.
fn collect(
    source: &Source<'_>,
    at: usize,
    mut prefix: ModulePath,
    found: &mut Vec<ModulePath>,
) -> usize {
    let code = &source.code;
    let mut at = at;
    loop {
        if code.get(at) == Some(&'{') {
            at += 1;
            while at < code.len() && code[at] != '}' {
                at = match is_name(code[at]) || code[at] == '{' {
                    true => collect(source, at, prefix.clone(), found),
                    false => at + 1,
                };
            }
            return at + 1;
        }
        let name: String = code[at.min(code.len())..].iter().take_while(|c| is_name(**c)).collect();
        at += name.chars().count();
        let goes_on = !name.is_empty() && code[at..].starts_with(&[':', ':']);
        match name.as_str() {
            "super" => drop(prefix.pop()),
            "self" | "" => {}
            _ => prefix.push(name),
        }
        if !goes_on {
            found.push(prefix);
            return at.max(1);
        }
        at += 2;
    }
}

/// One shortest circle through each module that is in one and in none reported before.
fn circles<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut found = Vec::new();
    for start in edges.keys().copied() {
        if seen.contains(start) {
            continue;
        }
        if let Some(circle) = shortest_circle(edges, start) {
            seen.extend(&circle);
            found.push(circle);
        }
    }
    found
}

fn shortest_circle<'a>(
    edges: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    start: &'a str,
) -> Option<Vec<&'a str>> {
    let mut paths = vec![vec![start]];
    let mut reached = BTreeSet::new();
    while !paths.is_empty() {
        let mut longer = Vec::new();
        for path in paths {
            let last = *path.last().expect("a path begins with its start");
            for next in edges.get(last).into_iter().flatten().copied() {
                let path = [path.as_slice(), &[next]].concat();
                if next == start {
                    return Some(path);
                }
                if reached.insert(next) {
                    longer.push(path);
                }
            }
        }
        paths = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::tidy::all;
    use crate::tree::Tree;

    fn cycles(files: &[(&str, &str)]) -> Vec<String> {
        all(&Tree::of(files)).into_iter().map(|f| format!("{}: {}", f.path, f.text)).collect()
    }

    #[test]
    fn a_circle_of_siblings_is_found() {
        let found = cycles(&[
            ("crates/x/src/lib.rs", "mod a; mod b; mod c;"),
            ("crates/x/src/a.rs", "use crate::{b::B, d};"),
            ("crates/x/src/b.rs", "fn f() -> super::c::C {}"),
            ("crates/x/src/c/inner.rs", "use super::super::a::A;"),
            ("crates/x/src/c.rs", "mod inner;"),
        ]);
        assert_eq!(found, ["crates/x/src/a.rs: modules in a circle: a -> b -> c -> a"]);
    }

    #[test]
    fn a_file_that_continues_a_type_belongs_to_its_module() {
        let core = ("crates/x/src/core.rs", "use crate::reads::Reads;");
        for (reads, count) in [
            ("use crate::core::{Core, Turn};\nimpl Core {}\n", 0),
            ("use crate::core::{Core, Turn};\nimpl<'a> Core<'a> {}\n", 0),
            ("use crate::core::{Core, Turn};\nimpl Reads for Core {}\n", 1),
            ("use crate::core::{Core, Turn};\nimpl Reads {}\n", 1),
        ] {
            assert_eq!(cycles(&[core, ("crates/x/src/reads.rs", reads)]).len(), count, "{reads}");
        }
    }

    #[test]
    fn parents_tests_and_one_way_imports_are_no_circle() {
        let found = cycles(&[
            ("crates/x/src/lib.rs", "mod a; mod b; use crate::a::A; fn f() { self::b::g() }"),
            ("crates/x/src/a.rs", "mod c; use crate::b::B; use self::c::C;"),
            ("crates/x/src/a/c.rs", "use super::A; use crate::b::{B, D};"),
            ("crates/x/src/b.rs", "// crate::a\n#[cfg(test)]\nmod tests { use crate::a::A; }"),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }
}
