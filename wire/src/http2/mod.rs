//! HTTP/2 (RFC 9113) for a proxy: one connection, of a client or to a server, as a state machine without I/O.
//!
//! A [`Connection`](connection::Connection) is given bytes and makes [`Event`](connection::Event)s of them; it is told
//! what to send and writes that into the [`Out`](crate::out::Out) of its socket. Events borrow what they tell: fields
//! lie in memory of the connection, data are a piece of the input. So an event is passed on before the next one is
//! asked for, and a worker that holds two connections needs nothing between them:
//!
//! ```text
//! while let Some(event) = session.recv(&mut input, &mut to_client, now) {
//!     match event {
//!         Event::Fields { stream, part, fields, end, .. } => {
//!             link.fields(turn.there, part, end, &mut to_link, |writer| {
//!                 fields.iter().for_each(|field| writer.forward(&field)); // but those that stay here
//!             });
//!         }
//!         Event::Data { stream, data, end } => {
//!             let sent = link.data(turn.there, data, end, &mut to_link, now);
//!             session.release(stream, sent, &mut to_client);
//!             turn.waiting.extend_from_slice(&data[sent..]); // at most a stream's window
//!         }
//!         // …
//!     }
//! }
//! ```
//!
//! A field of the header crosses evenkeel with one copy out of a table or the input and one comparison ([`hpack`]);
//! a payload with none if the socket takes it, else with one.
//!
//! # How the proxy uses it
//!
//! **Many turns at once.** Each stream of a session is a turn: it wants a pick, a ticket and a link of its own. What a
//! worker knows of it is found by [`StreamKey::slot`](streams::StreamKey::slot), a small number, in a list that stands
//! beside the connection; nothing is hashed and nothing is allocated for a stream once the list is warm. The key has
//! the stream's identifier too, so that one that is gone cannot be taken for the next in its slot: every call with
//! such a key does nothing.
//!
//! **Links are shared.** A link is a client connection that belongs to a worker and an endpoint; streams of many
//! sessions, and turns of HTTP/1.1, are opened on it with [`request`](connection::Connection::request) as long as
//! there is [`room`](connection::Connection::room). The first session opens it and the others wait until it
//! [`is_ready`](connection::Connection::is_ready), for only then is it known how much it takes. A link that answers
//! [`Event::Goaway`](connection::Event::Goaway) is replaced: streams that it has not looked at end with
//! [`Fault::Unprocessed`](connection::Fault::Unprocessed), like those that it refuses, and run elsewhere.
//!
//! **All of a read, then one write.** Every frame of a read is handled before anything is written; what that makes
//! for a client or a link lies in its buffer until the worker flushes each connection that was touched, once in a
//! turn of its loop. A connection whose peer does not read what lies there is not read from either: so the answers that
//! a peer can make us owe it are bounded by one read.
//!
//! **Credit is passed on.** A peer may send what its windows allow, and gets as much again only when the other side's
//! peer has taken it: by [`release`](connection::Connection::release), with what
//! [`data`](connection::Connection::data) let go at once, and with what went later, when
//! [`writable`](connection::Connection::writable) named the stream. To HTTP/1.1, it is taken when the socket took it.
//! So what waits here for a stream is a stream's window at most, a slow reader slows its own sender, and the window of
//! the connection, which is larger than that of a stream, has room for the others.
//!
//! **From HTTP/1.1 and to it.** What comes has been checked as section 8 wants it, and so that it can be written as
//! HTTP/1.1: names are tokens, values have no line ends, the path has no blank, `host` and `:authority` agree, the
//! length is that of the body. (`cookie` may come in several fields, which HTTP/1.1 wants joined.) Behind a server
//! session, [`Part`](connection::Part)s map to the head and the trailers of a request,
//! [`Event::Reset`](connection::Event::Reset) to a connection that breaks. In the other
//! direction, an [`Upload`](crate::http1::Upload) opens a stream with what `http1` wrote for an endpoint, and
//! [`Session::stream_fields`](crate::session::Session::stream_fields) takes what comes back.
//!
//! **Farewell.** [`leave`](connection::Connection::leave) takes leave in two steps; whoever drives the connection
//! looks at [`is_finished`](connection::Connection::is_finished) after it was touched.
//!
//! **Hostile peers** are bounded by [`Config`](settings::Config): streams, windows, tables, lists, and an
//! [`Allowance`](budget::Allowance) for everything that is done without getting on. What was exceeded is in
//! [`Failure::flood`](connection::Failure::flood) or [`Fault`](connection::Fault), for a metric.
//!
//! # What is where
//!
//! [`frame`] knows frames, [`hpack`] blocks, [`message`] what HTTP wants of them, [`flow`] windows, [`streams`] where
//! streams are kept and who waits, [`budget`] what a peer may do for nothing. `connection` is the whole: `receive`
//! walks from a frame to an event, `send` from a call to frames.

pub mod budget;
mod bytes;
pub mod connection;
pub mod error;
pub mod flow;
pub mod forward;
pub mod frame;
pub mod hpack;
pub mod message;
mod receive;
mod recent;
mod send;
pub mod settings;
pub mod streams;

pub use send::FieldWriter;
