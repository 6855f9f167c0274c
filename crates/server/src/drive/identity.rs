//! Whose data a folder holds, and that only one process has it open.
//!
//! `IDENTITY` in the data folder names the node, the cluster and the format; it is written once,
//! before anything else, and never changed. `LOCK` is held by the process for as long as it runs.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use atoll_base::NodeId;

/// The version of the folder's layout.
const FORMAT: u64 = 1;

/// What `IDENTITY` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) cluster: u64,
    pub(crate) origin: Origin,
}

/// How the node came into its cluster. Who joined one never founds it, however it is started later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// It is one of those that the cluster began with.
    Founded,
    /// The cluster was there before.
    Joined,
}

/// A data folder that this process owns until it is dropped.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    _lock: File,
}

/// Why a data folder can't be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error(
        "data folder {path} is in use by another process: stop it, or give this node a folder of \
        its own"
    )]
    InUse { path: PathBuf },
    #[error(
        "data folder {path} belongs to node {found}, this is node {wanted}: give the right \
        --node-id or --data; never copy a node's folder to make another node"
    )]
    OtherNode { path: PathBuf, found: NodeId, wanted: NodeId },
    #[error(
        "data folder {path} has format {found}, this build knows up to {FORMAT}: use the version \
        of atoll that wrote it, or a newer one"
    )]
    OtherFormat { path: PathBuf, found: u64 },
    #[error(
        "data folder {path} has an IDENTITY file that can't be read: {why}; restore the file, or \
        remove this node from the cluster and join with a new folder under a new id"
    )]
    Unreadable { path: PathBuf, why: String },
    #[error("data folder {path}: {during} failed: {source}")]
    Io { path: PathBuf, during: &'static str, source: io::Error },
}

impl DataFolder {
    /// Makes the folder if need be and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, FolderError> {
        let failed =
            |during| move |source| FolderError::Io { path: path.to_owned(), during, source };
        std::fs::create_dir_all(path).map_err(failed("making it"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("LOCK"))
            .map_err(failed("opening LOCK"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(FolderError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed("locking it")(source)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the folder says about itself; `None` for a new one.
    pub(crate) fn identity(&self) -> Result<Option<Identity>, FolderError> {
        match std::fs::read_to_string(self.path.join("IDENTITY")) {
            Ok(text) => self.parse(&text).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.failed("reading IDENTITY", source)),
        }
    }

    /// What the folder says about itself, which must be this node's; `None` for a new one.
    pub(crate) fn identity_of(&self, node: NodeId) -> Result<Option<Identity>, FolderError> {
        let found = self.identity()?;
        if let Some(found) = found.filter(|found| found.node != node) {
            return Err(FolderError::OtherNode {
                path: self.path.clone(),
                found: found.node,
                wanted: node,
            });
        }
        Ok(found)
    }

    /// The identity under which the node runs: the folder's own, which must be this node's, or for
    /// a new folder `new`, which is written down first.
    pub(crate) fn claim(&self, new: Identity) -> Result<Identity, FolderError> {
        if let Some(found) = self.identity_of(new.node)? {
            return Ok(found);
        }
        let identity = new;
        self.write(identity).map_err(|source| self.failed("writing IDENTITY", source))?;
        Ok(identity)
    }

    fn write(&self, identity: Identity) -> io::Result<()> {
        let origin = match identity.origin {
            Origin::Founded => "founded",
            Origin::Joined => "joined",
        };
        let text = format!(
            "atoll data folder\nformat {FORMAT}\nnode {}\ncluster {:016x}\norigin {origin}\n",
            identity.node, identity.cluster
        );
        let temporary = self.path.join("IDENTITY.new");
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(temporary, self.path.join("IDENTITY"))?;
        File::open(&self.path)?.sync_all()
    }

    fn parse(&self, text: &str) -> Result<Identity, FolderError> {
        let unreadable =
            |why: &str| FolderError::Unreadable { path: self.path.clone(), why: why.to_owned() };
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let number =
            |name: &str, radix| field(name).and_then(|v| u64::from_str_radix(v.trim(), radix).ok());
        let format = number("format", 10).ok_or_else(|| unreadable("it has no format"))?;
        if format > FORMAT {
            return Err(FolderError::OtherFormat { path: self.path.clone(), found: format });
        }
        Ok(Identity {
            node: NodeId(number("node", 10).ok_or_else(|| unreadable("it has no node"))?),
            cluster: number("cluster", 16).ok_or_else(|| unreadable("it has no cluster"))?,
            origin: match field("origin").map(str::trim) {
                None | Some("founded") => Origin::Founded,
                Some("joined") => Origin::Joined,
                Some(_) => return Err(unreadable("its origin is neither founded nor joined")),
            },
        })
    }

    fn failed(&self, during: &'static str, source: io::Error) -> FolderError {
        FolderError::Io { path: self.path.clone(), during, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_node_and_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let error = DataFolder::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("in use by another process"), "{error}");
        assert_eq!(folder.identity().unwrap(), None);
        let identity = Identity { node: NodeId(2), cluster: 0xabc, origin: Origin::Joined };
        assert_eq!(folder.claim(identity).unwrap(), identity);
        drop(folder);
        let folder = DataFolder::open(dir.path()).unwrap();
        let other = Identity { cluster: 7, origin: Origin::Founded, ..identity };
        assert_eq!(folder.claim(other).unwrap(), identity, "the first cluster id stays");
        let error = folder.claim(Identity { node: NodeId(3), ..other }).unwrap_err();
        assert!(error.to_string().contains("belongs to node 2, this is node 3"), "{error}");
        std::fs::write(dir.path().join("IDENTITY"), "format 9\n").unwrap();
        assert!(matches!(folder.identity(), Err(FolderError::OtherFormat { found: 9, .. })));
        std::fs::write(dir.path().join("IDENTITY"), "what").unwrap();
        assert!(matches!(folder.identity(), Err(FolderError::Unreadable { .. })));
    }
}
