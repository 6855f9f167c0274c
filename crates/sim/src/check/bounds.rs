//! Bounded everything: no queue or table of a node grows beyond its limit, whatever the faults.
//!
//! Source: promise P4; trap T43 (one slow consumer made memory grow without bound).

use std::collections::BTreeMap;

use atoll_base::NodeId;

use super::Violation;

/// The largest sizes seen.
#[derive(Default, Debug)]
pub struct Bounds {
    largest: BTreeMap<&'static str, u64>,
}

impl Bounds {
    /// `what` on `node` has this size now and may not exceed `limit`.
    ///
    /// # Errors
    /// When it does.
    pub fn size(
        &mut self,
        node: NodeId,
        what: &'static str,
        size: u64,
        limit: u64,
    ) -> Result<(), Violation> {
        let largest = self.largest.entry(what).or_default();
        *largest = size.max(*largest);
        if size <= limit {
            return Ok(());
        }
        let text = format!("node {node}: {what} has size {size}, the limit is {limit}");
        Err(Violation::new("bounded queues", text))
    }

    /// The largest sizes seen, by name.
    #[must_use]
    pub fn largest(&self) -> &BTreeMap<&'static str, u64> {
        &self.largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_up_to_the_limit_are_fine_and_beyond_it_are_not() {
        let mut bounds = Bounds::default();
        bounds.size(NodeId(1), "a queue", 3, 5).unwrap();
        bounds.size(NodeId(1), "a queue", 5, 5).unwrap();
        assert!(bounds.size(NodeId(1), "a queue", 6, 5).is_err());
        assert_eq!(bounds.largest()["a queue"], 6);
    }
}
