//! Mistakes that real servers have made, to be planted into the crates that ship, so that the
//! simulator's checkers can be seen to catch them.
//!
//! `planted!(LogCutTooFar)` is `false` at compile time, unless the crate is built with the feature
//! `planted-bugs`, and then only true on a thread that asked for that mistake ([`plant`]). The
//! consensus core has a list of its own.

/// One mistake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mistake {
    /// Acknowledgements and votes leave before the write that makes them true (trap T13).
    AcknowledgedUnsynced,
    /// A write is answered when it is proposed, with what it will probably come to.
    AnsweredUnapplied,
    /// A read is served before its index is applied.
    ReadUnapplied,
    /// Snapshots leave the replies out that clients may still ask for (trap T11).
    SessionsNotInSnapshot,
    /// The engine's record of what is applied lags behind what it holds.
    EngineAhead,
    /// Logs are cut up to what is applied, not to what the engine has persisted.
    LogCutTooFar,
    /// Recovery takes records whose checksums are wrong.
    TornRecordTaken,
    /// A watch that resumes begins one revision too late.
    WatchResumesLate,
    /// Leases begin with a quarter of their time, under a new leader too (trap T29).
    LeasesCutShort,
    /// A lease is kept alive though its end is proposed.
    KeptAliveTooLate,
    /// Writes are not held to the tokens that they name (trap T26).
    FencingIgnored,
    /// An expired holder's lock opens at once.
    DelayIgnored,
    /// A replica of the catalog that is rebuilt takes whom it hears for a source of the catalog.
    CatalogHeardRebuilding,
    /// Where the last snapshot ended is not looked up when the log does not go on from there.
    SnapshotEndForgotten,
    /// A replica that lost the count of its log's lives is not told it.
    LivesNotTold,
    /// What a dropped keyspace held goes at once, before gravestones are durable.
    DroppedAtOnce,
    /// Founders don't remember with whom they founded their group.
    FoundingForgotten,
}

impl Mistake {
    /// Every mistake.
    pub const ALL: [Self; 17] = [
        Self::AcknowledgedUnsynced,
        Self::AnsweredUnapplied,
        Self::ReadUnapplied,
        Self::SessionsNotInSnapshot,
        Self::EngineAhead,
        Self::LogCutTooFar,
        Self::TornRecordTaken,
        Self::WatchResumesLate,
        Self::LeasesCutShort,
        Self::KeptAliveTooLate,
        Self::FencingIgnored,
        Self::DelayIgnored,
        Self::CatalogHeardRebuilding,
        Self::SnapshotEndForgotten,
        Self::LivesNotTold,
        Self::DroppedAtOnce,
        Self::FoundingForgotten,
    ];
}

/// True when this mistake is planted on this thread; `false` at compile time in any build that can
/// ship.
#[macro_export]
macro_rules! planted {
    ($mistake:ident) => {
        $crate::planted::is_planted($crate::planted::Mistake::$mistake)
    };
}

pub use switch::{is_planted, plant};

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use super::Mistake;

    thread_local! {
        static PLANTED: Cell<Option<Mistake>> = const { Cell::new(None) };
    }

    /// Plants a mistake on this thread, or none.
    pub fn plant(mistake: Option<Mistake>) {
        PLANTED.set(mistake);
    }

    /// Use [`planted!`](crate::planted!).
    #[must_use]
    pub fn is_planted(mistake: Mistake) -> bool {
        PLANTED.get() == Some(mistake)
    }
}

#[cfg(not(feature = "planted-bugs"))]
mod switch {
    use super::Mistake;

    /// Nothing: this build has no mistakes to plant.
    pub fn plant(_mistake: Option<Mistake>) {}

    /// Never. Use [`planted!`](crate::planted!).
    #[inline(always)]
    #[must_use]
    pub const fn is_planted(_mistake: Mistake) -> bool {
        false
    }
}
