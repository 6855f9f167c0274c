//! Lint parity: clippy takes the nearest `clippy.toml` and forgets the root's, so every crate that
//! has its own repeats the root's rules, and every core has at least the rules of determinism.

use toml::{Table, Value};

use super::Finding;
use super::floors::PURE;
use crate::tree::Tree;

/// What a core may not call or hold. Its `clippy.toml` may list more.
const CORE_RULES: &[(&str, &[&str])] = &[
    (
        "disallowed-methods",
        &[
            "std::time::Instant::now",
            "std::time::SystemTime::now",
            "std::thread::spawn",
            "std::thread::sleep",
            "std::env::var",
            "std::fs::File::open",
            "std::fs::read",
            "std::fs::write",
        ],
    ),
    (
        "disallowed-types",
        &[
            "std::collections::HashMap",
            "std::collections::HashSet",
            "std::time::Instant",
            "std::time::SystemTime",
            "std::net::TcpStream",
        ],
    ),
];

pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    let root = tree.get("clippy.toml").and_then(|text| text.parse::<Table>().ok());
    for (path, text) in tree.files() {
        let Some(name) = path.strip_suffix("/clippy.toml") else { continue };
        let name = name.strip_prefix("crates/").unwrap_or(name);
        let mut refuse = |text: String| found.push(Finding::new("lint-parity", path, 0, text));
        let Ok(own) = text.parse::<Table>() else {
            refuse("is no TOML".into());
            continue;
        };
        for (key, value) in root.iter().flatten() {
            refuse_missing(&own, key, &entries(value), "of the root's file", &mut refuse);
        }
        for (key, rules) in CORE_RULES.iter().filter(|_| PURE.contains(&name)) {
            let rules: Vec<_> = rules.iter().map(|rule| (*rule).to_owned()).collect();
            refuse_missing(&own, key, &rules, "of a core", &mut refuse);
        }
    }
    for name in PURE {
        let (manifest, lints) =
            (format!("crates/{name}/Cargo.toml"), format!("crates/{name}/clippy.toml"));
        if tree.exists(&manifest) && !tree.exists(&lints) {
            let text = "is a core without a clippy.toml of its own";
            found.push(Finding::new("lint-parity", &manifest, 0, text));
        }
    }
}

fn refuse_missing(
    own: &Table,
    key: &str,
    rules: &[String],
    whose: &str,
    refuse: &mut impl FnMut(String),
) {
    let has = own.get(key).map(entries).unwrap_or_default();
    for rule in rules.iter().filter(|rule| !has.contains(rule)) {
        refuse(format!("lacks `{key}` {rule} {whose}"));
    }
}

/// A setting as comparable words: a list by its paths, anything else by its value.
fn entries(value: &Value) -> Vec<String> {
    let path = |item: &Value| {
        let path = item.get("path").and_then(|p| p.as_str()).or_else(|| item.as_str());
        path.map_or_else(|| item.to_string(), str::to_owned)
    };
    match value {
        Value::Array(items) => items.iter().map(path).collect(),
        other => vec![other.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core_lints() -> String {
        let list = |rules: &[&str]| {
            let items: Vec<_> = rules.iter().map(|r| format!("{{ path = \"{r}\" }}")).collect();
            format!("[{}]", items.join(", "))
        };
        CORE_RULES.iter().map(|(key, rules)| format!("{key} = {}\n", list(rules))).collect()
    }

    fn findings(own: &str) -> Vec<String> {
        let root = "allow-unwrap-in-tests = true\n";
        let tree = Tree::of(&[
            ("clippy.toml", root),
            ("crates/raft/Cargo.toml", ""),
            ("crates/raft/clippy.toml", own),
        ]);
        let mut found = Vec::new();
        check(&tree, &mut found);
        found.into_iter().map(|f| f.text).collect()
    }

    #[test]
    fn a_core_with_all_rules_passes() {
        assert!(findings(&format!("allow-unwrap-in-tests = true\n{}", core_lints())).is_empty());
    }

    #[test]
    fn a_missing_rule_of_core_or_root_is_found() {
        let own = format!("allow-unwrap-in-tests = true\n{}", core_lints());
        let less = own.replace("{ path = \"std::env::var\" }, ", "");
        assert_eq!(findings(&less), ["lacks `disallowed-methods` std::env::var of a core"]);
        let other = own.replace("tests = true", "tests = false");
        assert_eq!(findings(&other).len(), 1);
        assert_eq!(findings(&core_lints()).len(), 1);
    }

    #[test]
    fn a_core_without_a_file_is_found() {
        let mut found = Vec::new();
        check(&Tree::of(&[("crates/machine/Cargo.toml", "")]), &mut found);
        assert_eq!(found.len(), 1);
    }
}
