//! What callers still wait for, so that a stopping node knows when it may leave.
//!
//! Every call counts until its answer, or the head of its stream of answers, is there; a session
//! and a scan until their stream has ended. An idle connection, a watch, or somebody who follows
//! the node's health does not: there is nothing that waiting would bring them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::service::Routes;

/// Counts what is under way on one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flight {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    count: AtomicUsize,
    landed: Notify,
}

/// One call or session that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct Flying {
    shared: Arc<Shared>,
}

impl Flight {
    /// Something begins.
    pub(crate) fn begin(&self) -> Flying {
        self.shared.count.fetch_add(1, Ordering::SeqCst);
        Flying { shared: self.shared.clone() }
    }

    /// Counts the calls of these services.
    pub(super) fn over(&self, routes: Routes) -> Counted {
        Counted { routes, flight: self.clone() }
    }

    /// Ready when nothing is under way. Cancel safe: yes. For one waiter at a time.
    pub(crate) async fn is_over(&self) {
        while self.shared.count.load(Ordering::SeqCst) > 0 {
            self.shared.landed.notified().await;
        }
    }
}

/// Services whose calls count.
#[derive(Clone)]
pub(super) struct Counted {
    routes: Routes,
    flight: Flight,
}

type Answered<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<Body>> for Counted {
    type Response = <Routes as Service<http::Request<Body>>>::Response;
    type Error = <Routes as Service<http::Request<Body>>>::Error;
    type Future = Answered<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.routes, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let flying = self.flight.begin();
        let answer = self.routes.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(flying);
            answer
        })
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        if self.shared.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Kept for a waiter that has not begun to wait.
            self.shared.landed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_is_over_when_the_last_one_has_landed_and_not_before() {
        let flight = Flight::default();
        flight.is_over().await;
        let (first, second) = (flight.begin(), flight.begin());
        drop(first);
        let over = tokio::time::timeout(Duration::from_millis(5), flight.is_over()).await;
        assert!(over.is_err(), "one is still under way");
        let waiter = tokio::spawn({
            let flight = flight.clone();
            async move { flight.is_over().await }
        });
        drop(second);
        tokio::time::timeout(Duration::from_secs(10), waiter).await.unwrap().unwrap();
    }
}
