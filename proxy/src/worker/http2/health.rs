//! `grpc.health.v1`, answered here for a service that wants it (`grpc.health`).
//!
//! Such a call is a turn that no endpoint is chosen for. Who watches is told again when endpoints come or go, and
//! when the process or the service leaves.

use super::{Http2, Line, Place};
use crate::worker::Worker;
use crate::worker::slab::Key;
use evenkeel_wire::grpc::health::{self, Health};
use evenkeel_wire::grpc::status;
use evenkeel_wire::http2::connection::Part;
use evenkeel_wire::http2::forward::{is_grpc, put_call_head, well};
use evenkeel_wire::http2::hpack::{Fields, Form, Name};
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;

/// Bytes of a question that are kept; a longer one is none.
const QUESTION: usize = 1024;

/// A call that asks how a service is.
#[derive(Debug)]
pub(super) struct Inquiry {
    /// It wants to hear of every change.
    watches: bool,
    question: Vec<u8>,
    /// What it was told last.
    said: Option<Health>,
}

impl Inquiry {
    /// If this is one.
    pub(super) fn of(request: &Fields) -> Option<Box<Self>> {
        let path = request.get(Name::PATH).filter(|_| is_grpc(request))?;
        let watches = path == health::WATCH.as_bytes();
        let asks = watches || path == health::CHECK.as_bytes();
        asks.then(|| Box::new(Self { watches, question: Vec::new(), said: None }))
    }

    /// Some of its question came.
    pub(super) fn hear(&mut self, data: &[u8]) {
        // One byte more than there may be: then it is none.
        let room = (QUESTION + 1).saturating_sub(self.question.len());
        self.question.extend_from_slice(&data[..data.len().min(room)]);
    }

    /// It was told something, and waits for more.
    pub(super) fn is_watching(&self) -> bool {
        self.watches && self.said.is_some()
    }
}

impl Worker {
    /// How a service is.
    fn health(&self, service: u32) -> Health {
        let served = self.services.get(service as usize).and_then(Option::as_ref);
        match served.filter(|served| !self.retiring && served.leaves_by.is_none() && served.picker.size() > 0) {
            Some(_) => Health::Serving,
            None => Health::NotServing,
        }
    }

    /// Answers a call that asks how a service is, once its question is whole.
    pub(super) fn answer_inquiry(&mut self, key: Key, http2: &mut Http2, at: StreamKey) {
        let Some(service) = self.sessions.get(key).map(|client| client.service) else { return };
        let health = self.health(service);
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
        let Some(stream) = http2.get(at).filter(|stream| stream.up.ended) else { return };
        let Some(inquiry) = stream.inquiry.as_mut().filter(|inquiry| inquiry.said.is_none()) else { return };
        let asked = health::asked(&inquiry.question).filter(|_| inquiry.question.len() <= QUESTION);
        let known = asked.map(|name| name.is_empty() || name == served.shared.config.name.as_bytes());
        let watches = inquiry.watches;
        stream.up.done = true;
        if watches && known.is_some() {
            served.watchers.push((key, at));
        }
        match known {
            None => self.refuse_inquiry(key, http2, at, status::INVALID_ARGUMENT, "this is no HealthCheckRequest"),
            Some(false) if watches => self.say_health(key, http2, at, Health::ServiceUnknown),
            Some(false) => self.refuse_inquiry(key, http2, at, status::NOT_FOUND, "no service has this name here"),
            Some(true) => self.say_health(key, http2, at, health),
        }
    }

    fn refuse_inquiry(&mut self, key: Key, http2: &mut Http2, at: StreamKey, status: u8, why: &str) {
        if let Some(call) = http2.get(at).and_then(|stream| stream.call.as_mut()) {
            call.status = Some(status);
        }
        let Line { connection, out, .. } = &mut http2.line;
        connection.fields(at, Part::Head, true, &mut Out::new(out.lend(&mut self.pool)), |writer| {
            put_call_head(writer);
            writer.put("grpc-status", status.to_string().as_bytes(), Form::Indexed);
            writer.put("grpc-message", format!("evenkeel: {why}").as_bytes(), Form::Indexed);
        });
        self.end_stream(key, http2, at, Some(200), None);
    }

    /// Says how a service is: as the answer, or as one of several.
    fn say_health(&mut self, key: Key, http2: &mut Http2, at: StreamKey, health: Health) {
        let Some(service) = self.sessions.get(key).map(|client| client.service) else { return };
        let room = self.room(service);
        let Http2 { line, streams, .. } = http2;
        let Some(stream) = super::find(streams, at) else { return };
        let Some(inquiry) = &mut stream.inquiry else { return };
        let first = inquiry.said.replace(health).is_none();
        stream.since = self.now;
        if first {
            stream.turn.status = Some(200);
            let Line { connection, out, .. } = line;
            connection.fields(at, Part::Head, false, &mut Out::new(out.lend(&mut self.pool)), put_call_head);
        }
        if let Some(call) = stream.call.as_mut() {
            call.answered = true;
            call.status = Some(status::OK).filter(|_| !inquiry.watches);
        }
        if !inquiry.watches {
            (stream.down.trailers, stream.down.ended) = (Some(well()), true);
        }
        line.data(at, &mut stream.down, &health::response(health), room, &mut self.pool);
        line.resume(at, &mut stream.down, room, &mut self.pool);
        if stream.down.done {
            self.complete(key, http2, at);
        }
    }

    /// Tells those who watch a service, if it is otherwise than they were told.
    pub(in crate::worker) fn tell_watchers(&mut self, service: u32) {
        let health = self.health(service);
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
        let watchers = served.watchers.clone();
        for (key, at) in watchers {
            self.with_session(key, |worker, http2| {
                let said = http2.get(at).and_then(|stream| stream.inquiry.as_ref()?.said);
                // Of a service that there is not, nothing is new.
                if said.is_some_and(|said| said != health && said != Health::ServiceUnknown) {
                    worker.say_health(key, http2, at, health);
                }
            });
        }
    }

    /// The process is about to leave.
    pub(in crate::worker) fn retire(&mut self) {
        self.retiring = true;
        for service in 0..self.services.len() as u32 {
            self.tell_watchers(service);
        }
    }

    /// A call that is answered here has no place to go.
    pub(super) fn begin_inquiry(&mut self, key: Key, http2: &mut Http2, at: StreamKey) -> bool {
        let Some(service) = self.sessions.get(key).map(|client| client.service) else { return false };
        let Some(Some(served)) = self.services.get(service as usize) else { return false };
        let Some(stream) = http2.get(at).filter(|_| served.shared.config.grpc_health) else { return false };
        let Some(inquiry) = stream.request.as_deref().and_then(Inquiry::of) else { return false };
        (stream.place, stream.inquiry) = (Place::Done, Some(inquiry));
        self.answer_inquiry(key, http2, at);
        true
    }
}
