//! Names of modules: a module is named after its noun, not after being left over.

use super::{Finding, RustFile};

const REFUSED: &[&str] =
    &["utils", "util", "common", "types", "helpers", "helper", "manager", "misc"];

pub(super) fn check(files: &[RustFile<'_>], found: &mut Vec<Finding>) {
    for file in files {
        let parts = file.path.trim_end_matches(".rs").split('/');
        for name in parts.filter(|part| REFUSED.contains(part)) {
            let text = format!("a module named `{name}` says nothing: name it after its noun");
            found.push(Finding::new("module-name", file.path, 0, text));
        }
        for at in file.source.find_all("mod ") {
            let rest: String = file.source.code[at + 4..].iter().take(40).collect();
            let Some((name, body)) = rest.split_once(' ') else { continue };
            if body.trim_start().starts_with('{') && REFUSED.contains(&name) {
                let text = format!("a module named `{name}` says nothing: name it after its noun");
                let line = file.source.line_of(at) + 1;
                found.push(Finding::new("module-name", file.path, line, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tidy::all;
    use crate::tree::Tree;

    #[test]
    fn leftover_names_are_found() {
        let tree = Tree::of(&[
            ("crates/x/src/utils.rs", ""),
            ("crates/x/src/common/a.rs", ""),
            ("crates/x/src/b.rs", "mod types { }"),
            ("crates/x/src/commons.rs", ""),
        ]);
        let found: Vec<_> = all(&tree).into_iter().map(|f| (f.rule, f.path)).collect();
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|(rule, path)| *rule == "module-name" && !path.contains("s.rs/")));
    }
}
