//! Logs: to standard error, through a queue that drops and counts rather than block a worker.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written.
const QUEUE: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// Sends what the program logs to standard error.
pub(crate) fn start(format: Format, level: Level) -> io::Result<()> {
    let (queue, lines) = sync_channel(QUEUE);
    std::thread::Builder::new().name("log".into()).spawn(move || write(&lines))?;
    let level = match level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
    };
    let colour = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_ansi(colour);
    let builder = builder.with_writer(Queue(queue));
    match format {
        Format::Text => builder.init(),
        Format::Json => builder.json().init(),
    }
    Ok(())
}

static DROPPED: AtomicU64 = AtomicU64::new(0);

fn write(lines: &Receiver<Vec<u8>>) {
    while let Ok(line) = lines.recv() {
        let mut stderr = io::stderr().lock();
        // With standard error gone there is nobody to tell.
        let _closed = stderr.write_all(&line);
        let dropped = DROPPED.swap(0, Relaxed);
        if dropped > 0 {
            let _closed = writeln!(stderr, "evenkeel: {dropped} log lines were dropped: standard error is too slow");
        }
    }
}

#[derive(Clone)]
struct Queue(SyncSender<Vec<u8>>);

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(line.to_vec()).is_err() {
            DROPPED.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
