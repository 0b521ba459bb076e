//! Discovery: one task per target that says what its endpoints are, as often as that changes.
//!
//! A source that fails keeps the last good set and says so.

mod dns;
pub mod file;

use crate::target::Target;
use evenkeel_core::endpoint::EndpointSpec;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// What a source says: its whole present set, or why it cannot tell.
pub(crate) type Update = Result<Vec<EndpointSpec>, String>;

/// A running source; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Source {
    task: JoinHandle<()>,
    refresh: Arc<Notify>,
}

impl Source {
    /// Starts a source; `send` gets its updates, tagged with `tag`. Needs a tokio runtime.
    pub(crate) fn start(target: Target, tag: u64, send: mpsc::Sender<(u64, Update)>) -> Self {
        let refresh = Arc::new(Notify::new());
        let again = refresh.clone();
        let task = tokio::spawn(async move {
            let sink = Sink { tag, send };
            match target {
                Target::Static(endpoints) => sink.say(Ok(endpoints)).await,
                Target::File { path, port } => file::run(path, port, sink).await,
                Target::Dns { name, port, server } => {
                    dns::run(dns::Question::Addresses(name, port), server, again, sink).await
                }
                Target::Srv { name, server } => dns::run(dns::Question::Services(name), server, again, sink).await,
            }
        });
        Self { task, refresh }
    }

    /// Something the source said may have become wrong: look again soon.
    pub(crate) fn refresh(&self) {
        self.refresh.notify_one();
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a source's updates go.
pub(crate) struct Sink {
    tag: u64,
    send: mpsc::Sender<(u64, Update)>,
}

impl Sink {
    async fn say(&self, update: Update) {
        // The pump may be stopping; then so is this task.
        let _gone = self.send.send((self.tag, update)).await;
    }
}
