//! Room for connections: the one that has waited longest for its client makes room for the next.
//!
//! A probe must be answered while others hold connections open and ask nothing: waiting for their header timeout takes
//! longer than an orchestrator's patience. Only a connection without a request in flight is closed for another; while all
//! are answering, the next one waits until an answer is done, which has its own limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::{AbortHandle, JoinSet};

/// Marks the requests of one connection.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    /// When it began to wait for its client, in turns of the listener; 0 while it answers.
    since: Arc<AtomicU64>,
    turns: Arc<AtomicU64>,
}

/// A request in flight: the connection waits for its client again once this is dropped.
#[derive(Debug)]
pub(super) struct Answering(Mark);

impl Mark {
    /// A request has come.
    #[must_use]
    pub(super) fn answering(&self) -> Answering {
        self.since.store(0, Ordering::SeqCst);
        Answering(self.clone())
    }

    fn waits_since(&self) -> Option<u64> {
        Some(self.since.load(Ordering::SeqCst)).filter(|since| *since > 0)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.since.store(self.0.turns.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// The open connections of a listener.
#[derive(Debug)]
pub(super) struct Room {
    most: usize,
    turns: Arc<AtomicU64>,
    tasks: JoinSet<()>,
    open: Vec<(AbortHandle, Mark)>,
}

impl Room {
    /// Room for so many connections at a time, one at least.
    #[must_use]
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), turns: Arc::new(AtomicU64::new(1)), tasks: JoinSet::new(), open: Vec::new() }
    }

    /// Waits until there is room, and makes it where a connection waits for its client.
    pub(super) async fn make(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        // A handle keeps all that its task was made of: some KiB a connection, each probe one.
        self.open.retain(|(task, _)| !task.is_finished());
        while self.tasks.len() >= self.most {
            self.open.retain(|(task, _)| !task.is_finished());
            let waiting = self.open.iter().filter_map(|(task, mark)| Some((mark.waits_since()?, task)));
            if let Some((_, task)) = waiting.min_by_key(|(since, _)| *since) {
                tracing::debug!(most = self.most, "no room for another connection: the one that waited longest for its client is closed");
                task.abort();
            }
            self.tasks.join_next().await;
        }
    }

    /// Opens a connection, in a task that is given what marks its requests.
    pub(super) fn open<F: Future<Output = ()> + Send + 'static>(&mut self, connection: impl FnOnce(Mark) -> F) {
        let since = Arc::new(AtomicU64::new(self.turns.fetch_add(1, Ordering::SeqCst)));
        let mark = Mark { since, turns: Arc::clone(&self.turns) };
        self.open.push((self.tasks.spawn(connection(mark.clone())), mark));
    }

    /// Waits until every connection has ended.
    pub(super) async fn end(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_connections_that_have_ended() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut room = Room::new(3);
            for _ in 0..100 {
                room.make().await;
                room.open(|_| async {});
                tokio::task::yield_now().await;
            }
            room.make().await;
            assert_eq!((room.open.len(), room.tasks.len()), (0, 0));
        });
    }

    #[test]
    fn the_one_that_waits_longest_is_closed_and_none_that_answers() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut room = Room::new(3);
            let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
            for name in ["answers", "asked again", "waits"] {
                let tell = tell.clone();
                room.open(|mark| async move {
                    let answering = (name != "waits").then(|| mark.answering());
                    if name == "asked again" {
                        drop(answering);
                        tell.send(name).unwrap();
                        std::future::pending::<()>().await;
                    }
                    tell.send(name).unwrap();
                    std::future::pending::<()>().await;
                });
            }
            for _ in 0..3 {
                assert!(told.recv().await.is_some());
            }
            let left = |room: &Room| room.open.iter().map(|(task, _)| !task.is_finished()).collect::<Vec<_>>();
            room.make().await;
            assert_eq!(left(&room), [true, true, false], "it opened last, and the second was asked since");
            room.open(|_| async {});
            tokio::task::yield_now().await;
            room.make().await;
            assert_eq!(left(&room)[..2], [true, true], "one had ended by itself");
        });
    }
}
