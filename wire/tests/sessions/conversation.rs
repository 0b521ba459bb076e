//! A conversation between a client, a session and its endpoints, step by step. Each is played twice: with
//! the bytes of every step in one piece, and byte by byte.

use crate::world::{Event, World};
use evenkeel_core::end::Cause;
use evenkeel_wire::session::{Leave, Settings, TurnLog};
use evenkeel_wire::trace::NewSpan;

/// What somebody says, or is to hear.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// The client sends this.
    Client(&'a str),
    /// The client sends FIN.
    ClientEnds,
    /// The client has got this since the last such step, and nothing else.
    ClientGets(&'a str),
    /// A link opens, and the endpoint has got this.
    NewLinkGets(&'a str),
    /// The endpoint has got this since the last such step, and nothing else.
    LinkGets(&'a str),
    /// The endpoint sends this.
    Endpoint(&'a str),
    /// The endpoint sends FIN.
    EndpointEnds,
    /// The link cannot be had, or breaks.
    LinkFails(Cause),
    /// So many links went back to their pool, safe to use again.
    Reused(usize),
    /// The process begins to leave.
    Drain,
    /// The session is asked to go.
    Ask(Leave),
    /// So many milliseconds pass.
    Wait(u64),
    /// The session is over: with FIN, for this reason.
    Ends(Cause),
    /// The session is over: with a reset, for this reason.
    Breaks(Cause),
}

use Step::{
    Ask, Breaks, Client, ClientEnds, ClientGets, Drain, Endpoint, EndpointEnds, Ends, LinkFails, LinkGets, NewLinkGets,
    Reused, Wait,
};

/// Plays a conversation with these settings.
pub fn play(settings: &Settings, steps: &[Step<'_>]) {
    play_pieces(settings, steps, |_| {}, usize::MAX);
    play_pieces(settings, steps, |_| {}, 1);
}

/// The same where a turn that an endpoint refuses may be run elsewhere.
pub fn play_with_retry(settings: &Settings, steps: &[Step<'_>]) {
    play_pieces(settings, steps, |world| world.may_retry = true, usize::MAX);
    play_pieces(settings, steps, |world| world.may_retry = true, 1);
}

/// The same where evenkeel takes part in traces, with these names for its requests; what there was to log.
pub fn play_traced(settings: &Settings, span: NewSpan, steps: &[Step<'_>]) -> Vec<TurnLog> {
    let logs = play_pieces(settings, steps, |world| world.span = Some(span), usize::MAX);
    assert_eq!(play_pieces(settings, steps, |world| world.span = Some(span), 1), logs);
    logs
}

fn play_pieces(settings: &Settings, steps: &[Step<'_>], begin: impl FnOnce(&mut World), size: usize) -> Vec<TurnLog> {
    let mut world = World::with(settings.clone());
    begin(&mut world);
    let (mut client_heard, mut link_heard) = (0, 0);
    for (number, step) in steps.iter().enumerate() {
        let place = format!("step {number}, pieces of {size}: {step:?}");
        match *step {
            Client(text) => bytes(text).chunks(size).for_each(|piece| world.happen(Event::Client(piece))),
            Endpoint(text) => bytes(text).chunks(size).for_each(|piece| world.happen(Event::Link(piece))),
            ClientEnds => world.happen(Event::ClientEof),
            EndpointEnds => world.happen(Event::LinkEof),
            LinkFails(cause) => world.happen(Event::Failed(cause)),
            Drain => world.happen(Event::Drain),
            Ask(leave) => world.happen(Event::Leave(leave)),
            Wait(millis) => world.happen(Event::Wait(millis)),
            ClientGets(text) => {
                let heard = &world.to_client[client_heard..];
                assert_eq!(one_chunk(heard), one_chunk(&bytes(text)), "{place}");
                client_heard = world.to_client.len();
            }
            NewLinkGets(text) => {
                assert!(world.wanted, "no link was asked for: {place}");
                world.happen(Event::Opened);
                link_heard = 0;
                hears(&world, &mut link_heard, text, &place);
            }
            LinkGets(text) => hears(&world, &mut link_heard, text, &place),
            Reused(times) => assert_eq!(world.reused, times, "{place}"),
            Ends(cause) | Breaks(cause) => {
                let (end, abort) = world.over.expect(&place);
                assert_eq!((end.cause, abort), (cause, matches!(step, Breaks(_))), "{place}");
                assert_eq!(&world.to_client[client_heard..], b"", "{place}");
            }
        }
    }
    assert!(!world.wanted, "a link is still asked for");
    world.logs
}

fn hears(world: &World, heard: &mut usize, text: &str, place: &str) {
    let link = world.links.last().expect(place);
    assert_eq!(one_chunk(&link[*heard..]), one_chunk(&bytes(text)), "{place}");
    *heard = link.len();
}

/// The bytes with chunks that follow each other made one: where a body was cut into chunks is nobody's
/// business. Chunk sizes stand alone in a line of hexadecimal digits, which no body here has.
fn one_chunk(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    let (mut out, mut data) = (String::new(), String::new());
    let mut rest = &text[..];
    while let Some((line, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(line, 16).unwrap_or(0);
        if size > 0 && after.get(size..size + 2) == Some("\r\n") {
            data.push_str(&after[..size]);
            rest = &after[size + 2..];
            continue;
        }
        flush(&mut data, &mut out);
        out.push_str(line);
        out.push_str("\r\n");
        rest = after;
    }
    flush(&mut data, &mut out);
    out.push_str(rest);
    out
}

/// What a text of this file's stands for: its characters are bytes, `\u{88}` being 0x88.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(char).expect("a byte")).collect()
}

fn flush(data: &mut String, out: &mut String) {
    if !data.is_empty() {
        out.push_str(&format!("{:x}\r\n{data}\r\n", data.len()));
        data.clear();
    }
}
