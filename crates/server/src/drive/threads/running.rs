//! What works for a node until it is told to end.

use std::thread::JoinHandle;

/// Where something works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// On a thread of its own.
    Thread,
    /// On the runtime that started it.
    Task,
}

/// Something that works until its queue is closed and empty.
pub(crate) enum Running {
    Thread(JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

impl Running {
    /// Starts a thread.
    pub(super) fn thread(
        name: String,
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        Ok(Self::Thread(std::thread::Builder::new().name(name).spawn(work)?))
    }

    /// Ready when it has ended. A panic aborts the process before anybody could see it here.
    pub(crate) async fn ended(self) {
        match self {
            Self::Thread(thread) => {
                let _ = tokio::task::spawn_blocking(move || drop(thread.join())).await;
            }
            Self::Task(task) => drop(task.await),
        }
    }
}
