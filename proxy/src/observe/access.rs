//! The access log: one line a turn, written by a thread of its own so that a full disk or a stuck
//! pipe never stops a worker. What does not fit its queue is dropped and counted.

use super::turn::TurnRecord;
use crate::config::AccessLog as Format;
use serde::Serialize;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;

/// Records that wait to be written.
const QUEUE: usize = 8192;

/// A worker's end of the access log.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    queue: SyncSender<TurnRecord>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Starts the writer; it ends when the last clone of the log is gone. `dropped` counts records dropped
    /// because it did not keep up.
    pub(crate) fn start(format: Format, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let (queue, records) = sync_channel(QUEUE);
        std::thread::Builder::new().name("access-log".into()).spawn(move || run(&records, format))?;
        Ok(Self { queue, dropped })
    }

    pub(crate) fn write(&self, record: TurnRecord) {
        if self.queue.try_send(record).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

fn run(records: &Receiver<TurnRecord>, format: Format) {
    let mut out = BufWriter::new(io::stdout());
    while let Ok(first) = records.recv() {
        let mut next = Some(first);
        // As many as there are, then one flush.
        while let Some(record) = next {
            let line = match format {
                Format::Json => json(&record),
                Format::Text => text(&record),
            };
            if writeln!(out, "{line}").is_err() {
                return;
            }
            next = records.try_recv().ok();
        }
        if out.flush().is_err() {
            return;
        }
    }
}

#[derive(Serialize)]
struct Json<'a> {
    time: String,
    service: &'a str,
    endpoint: Option<&'a str>,
    client: SocketAddr,
    method: &'a str,
    target: &'a str,
    host: &'a str,
    status: Option<u16>,
    /// Only calls have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u8>,
    cause: &'static str,
    phase: Option<&'static str>,
    first_byte_us: Option<u64>,
    duration_us: u64,
    received: u64,
    sent: u64,
    tries: u32,
    user_agent: &'a str,
    traceparent: &'a str,
}

fn json(record: &TurnRecord) -> String {
    let turn = &record.log;
    let line = Json {
        time: timestamp(record.ended),
        service: &record.service,
        endpoint: record.endpoint.as_deref(),
        client: record.client,
        method: &turn.method,
        target: &turn.target,
        host: &turn.host,
        status: record.status,
        grpc_status: turn.grpc_status,
        cause: record.end.map_or("done", |end| end.cause.as_str()),
        phase: record.end.map(|end| end.phase.as_str()),
        first_byte_us: record.first_byte.map(|d| d.as_micros() as u64),
        duration_us: record.duration.as_micros() as u64,
        received: turn.received,
        sent: turn.sent,
        tries: record.tries,
        user_agent: &turn.user_agent,
        traceparent: &turn.traceparent,
    };
    serde_json::to_string(&line).unwrap_or_default()
}

fn text(record: &TurnRecord) -> String {
    let turn = &record.log;
    let status = record.status.map_or_else(|| "-".into(), |s| s.to_string());
    let cause = record.end.map_or("done", |end| end.cause.as_str());
    let call = turn.grpc_status.map(|status| format!(" grpc-status {status}")).unwrap_or_default();
    format!(
        "{} {} {} {} {} {} {} {} {}us {}B {}B \"{}\"{call}",
        timestamp(record.ended),
        record.client,
        record.service,
        record.endpoint.as_deref().unwrap_or("-"),
        printable(&turn.method),
        printable(&turn.target),
        status,
        cause,
        record.duration.as_micros(),
        turn.received,
        turn.sent,
        printable(&turn.user_agent),
    )
}

/// What a client sent cannot break a line or a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c == '"' || c == '\\' || c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

/// RFC 3339 in UTC, milliseconds.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Civil date from day number: Howard Hinnant's algorithm, for the Gregorian calendar.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::end::{Cause, End, Phase};
    use evenkeel_wire::session::TurnLog;
    use std::time::Duration;

    fn record(target: &str) -> TurnRecord {
        TurnRecord {
            service: "shop".into(),
            endpoint: Some("10.0.0.1:80".into()),
            client: ([127, 0, 0, 1], 4000).into(),
            tls: false,
            status: Some(502),
            end: Some(End { cause: Cause::EndpointClosed, phase: Phase::Wait }),
            waited: None,
            first_byte: None,
            duration: Duration::from_micros(1500),
            tries: 1,
            ended: SystemTime::UNIX_EPOCH,
            log: Box::new(TurnLog { method: "GET".into(), target: target.into(), ..TurnLog::default() }),
        }
    }

    #[test]
    fn times_are_civil() {
        let at = |s, ms| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(s) + Duration::from_millis(ms));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_798_761_599, 999), "2026-12-31T23:59:59.999Z");
    }

    #[test]
    fn only_calls_of_grpc_have_a_status_of_it() {
        let mut record = record("/a.B/C");
        assert!(!json(&record).contains("grpc"));
        record.log.grpc_status = Some(14);
        let parsed: serde_json::Value = serde_json::from_str(&json(&record)).expect("valid JSON");
        assert_eq!(parsed["grpc_status"], 14);
        assert!(text(&record).ends_with("\"\" grpc-status 14"), "{}", text(&record));
    }

    #[test]
    fn a_client_cannot_forge_a_line() {
        let line = text(&record("/\n1970 forged \u{1b}[31m\""));
        assert!(!line.contains('\n') && !line.contains('\u{1b}'), "{line}");
        let line = json(&record("/\n\"x"));
        let parsed: serde_json::Value = serde_json::from_str(&line).expect("valid JSON");
        assert_eq!(parsed["target"], "/\n\"x");
        assert_eq!((parsed["cause"].as_str(), parsed["status"].as_u64()), (Some("endpoint-closed"), Some(502)));
    }
}
