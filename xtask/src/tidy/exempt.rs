//! What may break a rule, and why.

use super::Finding;

/// One rule that one file may break.
pub(super) struct Exemption {
    /// The rule's name as findings print it.
    pub(super) rule: &'static str,
    /// The file, or a folder with its final `/`.
    pub(super) path: &'static str,
    /// Why this is right there.
    pub(super) reason: &'static str,
}

/// The whole table. Keep it small: a rule with many exemptions is the wrong rule.
pub(super) const EXEMPT: &[Exemption] = &[];

/// Drops what is exempt and adds a finding for every exemption that dropped nothing.
pub(super) fn apply(found: Vec<Finding>, table: &[Exemption]) -> Vec<Finding> {
    let mut used = vec![false; table.len()];
    let mut kept = Vec::new();
    for finding in found {
        match table.iter().position(|exemption| exemption.covers(&finding)) {
            Some(at) => used[at] = true,
            None => kept.push(finding),
        }
    }
    for (exemption, _) in table.iter().zip(used).filter(|(_, used)| !used) {
        let text = format!("nothing breaks `{}` here: drop the exemption", exemption.rule);
        kept.push(Finding::new("exempt", exemption.path, 0, text));
    }
    for exemption in table.iter().filter(|exemption| exemption.reason.is_empty()) {
        let text = format!("the exemption from `{}` has no reason", exemption.rule);
        kept.push(Finding::new("exempt", exemption.path, 0, text));
    }
    kept
}

impl Exemption {
    fn covers(&self, finding: &Finding) -> bool {
        let is_place = match self.path.strip_suffix('/') {
            Some(_) => finding.path.starts_with(self.path),
            None => finding.path == self.path,
        };
        is_place && self.rule == finding.rule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exemption_covers_its_rule_and_place_only() {
        let found = vec![
            Finding::new("width", "a/b.rs", 1, "x"),
            Finding::new("width", "c.rs", 1, "x"),
            Finding::new("sleep", "a/b.rs", 1, "x"),
        ];
        let table = [Exemption { rule: "width", path: "a/", reason: "tables" }];
        let kept = apply(found, &table);
        assert_eq!(
            kept.iter().map(|f| (f.rule, f.path.as_str())).collect::<Vec<_>>(),
            [("width", "c.rs"), ("sleep", "a/b.rs"),]
        );
    }

    #[test]
    fn an_exemption_without_use_or_reason_is_found() {
        let table = [Exemption { rule: "width", path: "a.rs", reason: "" }];
        assert_eq!(apply(Vec::new(), &table).len(), 2);
    }
}
