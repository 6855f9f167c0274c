//! Floors: a crate depends on crates of lower floors only, and pure crates build without the shell.

use toml::Table;

use super::Finding;
use crate::tree::Tree;

/// What stands where. `docs/ARCHITECTURE.md` shows the same map.
const FLOORS: &[(&str, u8)] = &[
    ("base", 0),
    ("raft", 1),
    ("storage", 1),
    ("replica", 2),
    ("machine", 2),
    ("coord", 3),
    ("wire", 3),
    ("node", 4),
    ("transport", 4),
    ("client", 5),
    ("server", 6),
    ("sim", DEV),
    ("bench", DEV),
];

/// The floor of what is not shipped as a library: it may use everything.
const DEV: u8 = 7;

/// Edges within a floor or upwards that are meant.
const EDGES: &[(&str, &str, &str)] = &[
    ("transport", "node", "links carry what a node's step gives and takes"),
    ("server", "sim", "`atoll sim` is in the shipped binary"),
    ("bench", "sim", "simulated runs are measured too"),
];

/// Crates that decide and never act; see `lints` for the same list's clippy rules.
pub(super) const PURE: &[&str] =
    &["base", "raft", "replica", "machine", "coord", "wire", "node", "sim"];

/// What would let a pure crate act. `storage` is no core, but has no runtime either.
const SHELL: &[&str] = &[
    "tokio",
    "tonic",
    "axum",
    "hyper",
    "tower",
    "rand",
    "async-std",
    "smol",
    "mio",
    "futures",
    "rayon",
    "crossbeam",
];

const TABLES: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    for (path, text) in tree.files() {
        let name = path.strip_prefix("crates/").and_then(|p| p.strip_suffix("/Cargo.toml"));
        let Some(name) = name.filter(|name| !name.contains('/')) else { continue };
        let mut refuse = |text: String| found.push(Finding::new("floors", path, 0, text));
        let Some(floor) = floor_of(name) else {
            refuse(format!("crate `{name}` has no floor: give it one in xtask and the design"));
            continue;
        };
        let manifest: Table = match text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                refuse(format!("is no manifest: {}", error.to_string().replace('\n', " ")));
                continue;
            }
        };
        if manifest.get("lints").and_then(|l| l.get("workspace")?.as_bool()) != Some(true) {
            refuse("does not take the workspace's lints: add `[lints] workspace = true`".into());
        }
        for dependency in dependencies(&manifest) {
            match dependency.strip_prefix("atoll-") {
                Some(other) => refuse_upward(name, floor, other, &mut refuse),
                None if is_shell(name, &dependency) => {
                    refuse(format!("pure crate `{name}` depends on `{dependency}`"));
                }
                None => {}
            }
        }
    }
}

fn refuse_upward(name: &str, floor: u8, other: &str, refuse: &mut impl FnMut(String)) {
    let is_meant = EDGES.iter().any(|(from, to, _)| (*from, *to) == (name, other));
    match floor_of(other) {
        None => refuse(format!("depends on `atoll-{other}`, which has no floor")),
        Some(below) if below < floor || is_meant => {}
        Some(below) => refuse(format!(
            "`{name}` on floor {floor} depends on `{other}` on floor {below}: only lower floors"
        )),
    }
}

fn is_shell(name: &str, dependency: &str) -> bool {
    let is_core = PURE.contains(&name) || name == "storage";
    is_core
        && SHELL.iter().any(|shell| {
            dependency
                .strip_prefix(shell)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
}

fn floor_of(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(known, _)| *known == name).map(|(_, floor)| *floor)
}

/// The names of all dependencies, also those of targets, by their package names.
fn dependencies(manifest: &Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(|t| t.as_table());
    let per_target = targets.into_iter().flat_map(|t| t.values()).filter_map(|t| t.as_table());
    let mut found = Vec::new();
    for owner in std::iter::once(manifest).chain(per_target) {
        for table in TABLES.iter().filter_map(|name| owner.get(*name)?.as_table()) {
            for (name, value) in table {
                let package = value.get("package").and_then(|p| p.as_str());
                found.push(package.unwrap_or(name).to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(name: &str, dependencies: &str) -> Vec<String> {
        let path = format!("crates/{name}/Cargo.toml");
        let text = format!("[lints]\nworkspace = true\n{dependencies}");
        let mut found = Vec::new();
        check(&Tree::of(&[(&path, &text)]), &mut found);
        found.into_iter().map(|f| f.text).collect()
    }

    #[test]
    fn downward_and_listed_edges_pass() {
        let deps = "[dependencies]\natoll-raft = {}\natoll-base.workspace = true";
        assert!(findings("replica", deps).is_empty());
        assert!(findings("server", "[dependencies]\natoll-sim = {}").is_empty());
    }

    #[test]
    fn upward_and_sideways_edges_are_found() {
        for deps in [
            "[dependencies]\natoll-node.workspace = true",
            "[dev-dependencies]\natoll-sim.workspace = true",
            "[dependencies]\natoll-storage = {}",
            "[target.'cfg(unix)'.dependencies]\natoll-wire = {}",
            "[dependencies]\nx = { package = \"atoll-wire\" }",
        ] {
            assert_eq!(findings("raft", deps).len(), 1, "{deps}");
        }
    }

    #[test]
    fn a_runtime_in_a_pure_crate_is_found() {
        assert_eq!(findings("machine", "[dependencies]\ntokio = \"1\"").len(), 1);
        assert_eq!(findings("wire", "[build-dependencies]\ntonic-build = \"1\"").len(), 1);
        assert!(findings("transport", "[dependencies]\ntokio = \"1\"").is_empty());
    }

    #[test]
    fn a_crate_without_floor_or_lints_is_found() {
        assert_eq!(findings("attic", "").len(), 1);
        let mut found = Vec::new();
        check(&Tree::of(&[("crates/base/Cargo.toml", "")]), &mut found);
        assert_eq!(found.len(), 1);
    }
}
