//! A scan reads one state: money moves between accounts and none is made or lost.
//!
//! Source: the bank test of Jepsen (Kingsbury); Adya 2000 on read skew. Transfers are transactions
//! on two accounts of one shard; every scan, however many pages it takes and however long, must
//! find all accounts once, in order, and the whole sum.

use super::Violation;
use crate::history::KeyNumber;

/// A bank in one shard.
#[derive(Clone, Copy, Debug)]
pub struct Bank {
    /// How many accounts there are.
    pub accounts: u32,
    /// What they hold together.
    pub total: u64,
}

impl Bank {
    /// Checks one whole scan, by account number and balance in the order read.
    ///
    /// # Errors
    /// When an account is missing or comes twice, or the sum is wrong.
    pub fn check(&self, scan: &[(KeyNumber, u64)]) -> Result<(), Violation> {
        let in_order = scan.is_sorted_by(|a, b| a.0 < b.0);
        if !in_order || scan.len() != self.accounts as usize {
            let keys: Vec<u32> = scan.iter().map(|(key, _)| key.0).collect();
            let what = format!("a scan of {} accounts found {keys:?}", self.accounts);
            return Err(Violation::new("scan consistency", what));
        }
        let sum: u64 = scan.iter().map(|(_, balance)| balance).sum();
        if sum == self.total {
            return Ok(());
        }
        let balances: Vec<u64> = scan.iter().map(|(_, balance)| *balance).collect();
        let what = format!("a scan sums to {sum}, not {}: {balances:?}", self.total);
        Err(Violation::new("scan consistency", what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANK: Bank = Bank { accounts: 3, total: 30 };

    fn scan(rows: &[(u32, u64)]) -> Result<(), Violation> {
        let rows: Vec<_> = rows.iter().map(|(key, balance)| (KeyNumber(*key), *balance)).collect();
        BANK.check(&rows)
    }

    #[test]
    fn a_whole_scan_is_fine_and_a_torn_one_is_not() {
        assert_eq!(scan(&[(0, 10), (1, 5), (2, 15)]), Ok(()));
        assert!(scan(&[(0, 10), (1, 5), (2, 10)]).is_err());
        assert!(scan(&[(0, 10), (2, 20)]).is_err());
        assert!(scan(&[(0, 10), (2, 5), (1, 15)]).is_err());
        assert!(scan(&[(0, 10), (1, 5), (1, 5), (2, 10)]).is_err());
    }
}
