//! What happened lately: a bounded memory of facts, and a stream of new ones.

use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::SystemTime;
use tokio::sync::broadcast;

/// Facts remembered.
const MEMORY: usize = 1000;
/// Facts that a slow reader of the stream may be behind.
const BEHIND: usize = 256;

/// One fact.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Event {
    /// Counts up from 1.
    pub(crate) id: u64,
    /// Milliseconds since 1970.
    pub(crate) unix_ms: u64,
    pub(crate) service: String,
    /// A closed list: added, removed, ejected, readmitted, healthy, unhealthy, panic, calm,
    /// source-failed, source-recovered, drained, undrained, certificate-renewed, certificate-failed,
    /// rebalancing, rebalanced, rebalance-paused, reloaded, reload-failed.
    pub(crate) kind: &'static str,
    /// The endpoint or target that it is about.
    pub(crate) subject: String,
    pub(crate) detail: String,
}

/// The memory and the stream.
#[derive(Debug)]
pub(crate) struct Events {
    memory: Mutex<(u64, VecDeque<Event>)>,
    counts: Mutex<std::collections::BTreeMap<(String, &'static str), u64>>,
    stream: broadcast::Sender<Event>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { memory: Mutex::default(), counts: Mutex::default(), stream: broadcast::channel(BEHIND).0 }
    }

    pub(crate) fn note(&self, service: &str, kind: &'static str, subject: String, detail: String) {
        if let Ok(mut counts) = self.counts.lock() {
            *counts.entry((service.to_owned(), kind)).or_default() += 1;
        }
        let Ok(mut memory) = self.memory.lock() else { return };
        memory.0 += 1;
        let unix_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let event = Event { id: memory.0, unix_ms, service: service.into(), kind, subject, detail };
        if memory.1.len() == MEMORY {
            memory.1.pop_front();
        }
        memory.1.push_back(event.clone());
        // Nobody may be listening.
        let _unheard = self.stream.send(event);
    }

    /// What is remembered, oldest first, and the stream that goes on from there.
    pub(crate) fn follow(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let Ok(memory) = self.memory.lock() else { return (Vec::new(), self.stream.subscribe()) };
        (memory.1.iter().cloned().collect(), self.stream.subscribe())
    }

    /// Facts that came after the one with this id, oldest first; only the last `limit` of them.
    pub(crate) fn after(&self, id: u64, limit: usize) -> Vec<Event> {
        let Ok(memory) = self.memory.lock() else { return Vec::new() };
        let mut after: Vec<Event> = memory.1.iter().rev().take_while(|e| e.id > id).take(limit).cloned().collect();
        after.reverse();
        after
    }

    /// How often each kind happened to each service.
    pub(crate) fn counts(&self) -> Vec<((String, &'static str), u64)> {
        self.counts.lock().map(|c| c.iter().map(|(k, v)| (k.clone(), *v)).collect()).unwrap_or_default()
    }
}
