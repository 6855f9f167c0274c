//! Links: what a document points to within the tree exists.

use super::Finding;
use crate::tree::Tree;

pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    for (path, text) in tree.files().filter(|(path, _)| path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (at, line) in text.lines().enumerate() {
            for target in targets(line) {
                if !tree.exists(&resolve(folder, target)) {
                    let text = format!("links to `{target}`, which is not there");
                    found.push(Finding::new("link", path, at + 1, text));
                }
            }
        }
    }
}

/// Targets of `[text](target)` within the tree, without their anchors.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split_once(')')?.0;
        let target = target.split_once('#').map_or(target, |(file, _)| file);
        (!target.is_empty() && !target.contains(':')).then_some(target)
    })
}

fn resolve(folder: &str, target: &str) -> String {
    let (mut parts, target) = match target.strip_prefix('/') {
        Some(target) => (Vec::new(), target),
        None => (folder.split('/').filter(|part| !part.is_empty()).collect(), target),
    };
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_link_is_found() {
        let text = "[a](adr/1.md) [b](../README.md#x) [c](https://x.y/z) [d](#e)\n[f](gone.md)";
        let tree = Tree::of(&[("docs/a.md", text), ("docs/adr/1.md", ""), ("README.md", "")]);
        let mut found = Vec::new();
        check(&tree, &mut found);
        assert_eq!(found.iter().map(|f| f.line).collect::<Vec<_>>(), [2]);
    }
}
