//! WebSocket (RFC 6455) after its handshake. Frames are written as characters: `\u{81}\u{5}hello` is a
//! text frame from an endpoint, `\u{81}\u{85}KEYShello` one from a client (its payload, masked or not, is
//! nobody's business here).

use crate::conversation::Step::{
    Ask, Breaks, Client, ClientEnds, ClientGets, Drain, Endpoint, EndpointEnds, Ends, LinkFails, LinkGets, NewLinkGets,
    Reused, Wait,
};
use crate::conversation::{Step, play};
use crate::http1::plain;
use evenkeel_core::end::Cause;
use evenkeel_wire::session::Leave;

pub const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\
                       Sec-WebSocket-Extensions: permessage-deflate\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
pub const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: y\r\n\
                      Sec-WebSocket-Extensions: permessage-deflate\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A frame from an endpoint.
const HELLO: &str = "\u{81}\u{5}hello";
/// A masked one, from a client.
const HI: &str = "\u{81}\u{82}KEYShi";
/// Closes of both, with code 1000.
const END_OF_SERVER: &str = "\u{88}\u{2}\u{3}\u{e8}";
const END_OF_CLIENT: &str = "\u{88}\u{82}KEYS\u{3}\u{e8}";
/// Closes of ours.
const MOVE: &str = "\u{88}\u{20}\u{3}\u{f4}come back, to another endpoint";
const LEAVE: &str = "\u{88}\u{11}\u{3}\u{e9}evenkeel leaves";
const GONE: &str = "\u{88}\u{16}\u{3}\u{f4}the endpoint is gone";

/// Plays a conversation behind a handshake that succeeds.
fn open(steps: &[Step<'_>]) {
    let handshake = [Client(UPGRADE), NewLinkGets(UPGRADE), Endpoint(SWITCH), ClientGets(SWITCH)];
    play(&plain(), &[&handshake, steps].concat());
}

#[test]
fn frames_of_every_kind_are_relayed_as_they_are() {
    for frame in [
        "\u{81}\u{0}",
        "\u{82}\u{5}hello",
        "\u{1}\u{2}he\u{89}\u{1}p\u{0}\u{1}l\u{80}\u{2}lo",
        // Compressed, reserved bits, reserved opcodes.
        "\u{c1}\u{5}hello",
        "\u{f1}\u{1}x",
        "\u{83}\u{1}x\u{8b}\u{1}x",
        // Wrong, and the business of the two ends: a fragment that continues nothing, a message inside a
        // message, a fragmented ping, a long ping.
        "\u{80}\u{1}x",
        "\u{1}\u{1}x\u{81}\u{1}y",
        "\u{9}\u{1}x",
    ] {
        // An unmasked frame from a client is for the endpoint to refuse.
        open(&[Client(frame), LinkGets(frame), Endpoint(frame), ClientGets(frame), Client(HI), LinkGets(HI)]);
    }
    let long = format!("\u{82}\u{7e}\u{1}\u{0}{}", "x".repeat(256));
    let longer = format!("\u{82}\u{7f}\0\0\0\0\0\u{1}\0\0{}", "x".repeat(65_536));
    let ping = format!("\u{89}\u{7e}\u{0}\u{7e}{}", "x".repeat(126));
    for frame in [&*long, &longer, &ping] {
        open(&[Endpoint(frame), ClientGets(frame), Client(frame), LinkGets(frame)]);
    }
}

#[test]
fn the_first_frame_may_come_with_the_handshake() {
    let both = format!("{SWITCH}{HELLO}");
    play(
        &plain(),
        &[Client(&format!("{UPGRADE}{HI}")), NewLinkGets(UPGRADE), Endpoint(&both), ClientGets(&both), LinkGets(HI)],
    );
}

#[test]
fn a_close_of_either_side_ends_it_and_bad_codes_are_relayed() {
    open(&[
        Client(END_OF_CLIENT),
        LinkGets(END_OF_CLIENT),
        Endpoint(END_OF_SERVER),
        ClientGets(END_OF_SERVER),
        EndpointEnds,
        ClientEnds,
        Ends(Cause::Done),
        Reused(0),
    ]);
    for code in ["\u{3}\u{ed}", "\u{0}\u{0}", "\u{ff}\u{ff}", "x"] {
        let close = format!("\u{88}{}{code}", char::from(code.chars().count() as u8));
        open(&[Endpoint(&close), ClientGets(&close), EndpointEnds, ClientEnds, Ends(Cause::Done)]);
    }
}

#[test]
fn a_session_that_is_to_move_is_told_at_once_if_nothing_is_under_way() {
    open(&[
        Endpoint(HELLO),
        ClientGets(HELLO),
        Ask(Leave::Move),
        ClientGets(MOVE),
        // What the client says until it answers reaches the endpoint; the other way nothing does.
        Endpoint(HELLO),
        Client(HI),
        LinkGets(HI),
        ClientGets(""),
        Client(END_OF_CLIENT),
        LinkGets(END_OF_CLIENT),
        Endpoint(END_OF_SERVER),
        EndpointEnds,
        Ends(Cause::Moved),
    ]);
}

#[test]
fn our_close_waits_for_the_end_of_a_message() {
    open(&[
        Endpoint("\u{1}\u{2}he"),
        ClientGets("\u{1}\u{2}he"),
        Ask(Leave::Move),
        ClientGets(""),
        // A control frame between two fragments is no end.
        Endpoint("\u{89}\u{0}\u{80}\u{3}l"),
        ClientGets("\u{89}\u{0}\u{80}\u{3}l"),
        Endpoint(&format!("lo{HELLO}")),
        ClientGets(&format!("lo{MOVE}")),
        Client(END_OF_CLIENT),
        LinkGets(END_OF_CLIENT),
        EndpointEnds,
        Ends(Cause::Moved),
    ]);
}

#[test]
fn a_message_without_end_is_interrupted_between_two_fragments() {
    open(&[
        Endpoint("\u{1}\u{2}he"),
        ClientGets("\u{1}\u{2}he"),
        Ask(Leave::Move),
        Wait(1_999),
        ClientGets(""),
        Wait(1),
        ClientGets(MOVE),
    ]);
    // And one without an end of its frame is cut.
    open(&[
        Endpoint("\u{82}\u{5}he"),
        ClientGets("\u{82}\u{5}he"),
        Ask(Leave::Move),
        Wait(2_000),
        Endpoint("l"),
        ClientGets("l"),
        Wait(4_999),
        ClientGets(""),
        Wait(1),
        Breaks(Cause::Moved),
    ]);
}

#[test]
fn a_client_that_does_not_answer_is_left() {
    open(&[Ask(Leave::Move), ClientGets(MOVE), Wait(4_999), Client(HI), LinkGets(HI), Wait(1), Ends(Cause::Moved)]);
    open(&[Ask(Leave::Move), ClientGets(MOVE), ClientEnds, EndpointEnds, Ends(Cause::Moved)]);
    // Nor is an endpoint that does not close waited for for long.
    open(&[
        Ask(Leave::EndpointDrained),
        ClientGets("\u{88}\u{15}\u{3}\u{f4}the endpoint leaves"),
        Client(END_OF_CLIENT),
        LinkGets(END_OF_CLIENT),
        Wait(999),
        ClientGets(""),
        Wait(1),
        Ends(Cause::EndpointDrained),
    ]);
}

#[test]
fn leaving_says_1001() {
    open(&[
        Drain,
        ClientGets(LEAVE),
        Client(END_OF_CLIENT),
        LinkGets(END_OF_CLIENT),
        EndpointEnds,
        Ends(Cause::Shutdown),
    ]);
}

#[test]
fn a_session_that_is_ending_is_not_asked_to() {
    open(&[
        Endpoint(END_OF_SERVER),
        ClientGets(END_OF_SERVER),
        Ask(Leave::Move),
        ClientGets(""),
        Client(END_OF_CLIENT),
        LinkGets(END_OF_CLIENT),
        EndpointEnds,
        ClientEnds,
        Ends(Cause::Done),
    ]);
    open(&[Ask(Leave::Move), ClientGets(MOVE), Ask(Leave::Shutdown), ClientGets("")]);
}

#[test]
fn the_endpoints_close_takes_the_place_of_ours() {
    open(&[
        Endpoint("\u{1}\u{2}he"),
        ClientGets("\u{1}\u{2}he"),
        Ask(Leave::Move),
        Endpoint(END_OF_SERVER),
        ClientGets(END_OF_SERVER),
        EndpointEnds,
        ClientEnds,
        Ends(Cause::Done),
    ]);
}

#[test]
fn an_endpoint_that_dies_is_a_close_to_its_client_not_a_reset() {
    for event in [EndpointEnds, LinkFails(Cause::EndpointClosed)] {
        open(&[
            Endpoint(HELLO),
            event,
            ClientGets(&format!("{HELLO}{GONE}")),
            Client(END_OF_CLIENT),
            Ends(Cause::EndpointClosed),
        ]);
        open(&[Endpoint("\u{82}\u{5}he"), event, ClientGets("\u{82}\u{5}he"), Breaks(Cause::EndpointClosed)]);
    }
}

#[test]
fn lengths_that_two_readers_could_read_in_two_ways_end_the_session() {
    for header in ["\u{82}\u{fe}\u{0}\u{5}", "\u{82}\u{ff}\0\0\0\0\0\0\u{ff}\u{ff}", "\u{82}\u{ff}\u{80}\0\0\0\0\0\0\0"]
    {
        open(&[
            Client(HI),
            Client(header),
            ClientGets("\u{88}\u{e}\u{3}\u{ea}frame length"),
            Ends(Cause::ClientProtocol),
        ]);
    }
    open(&[
        Endpoint(HELLO),
        Endpoint("\u{82}\u{7e}\u{0}\u{5}hello"),
        ClientGets(&format!("{HELLO}\u{88}!\u{3}\u{f3}the endpoint broke the protocol")),
        Client(END_OF_CLIENT),
        Ends(Cause::EndpointProtocol),
    ]);
}

#[test]
fn a_frame_without_boundaries_in_place_of_an_answer_ends_the_session() {
    // What stands behind it is no frame, even if it looks like one.
    open(&[
        EndpointEnds,
        ClientGets(GONE),
        Client("\u{82}\u{ff}\u{80}\0\0\0\0\0\0\0"),
        Client(HI),
        Ends(Cause::EndpointClosed),
    ]);
}

#[test]
fn a_declared_length_takes_no_memory() {
    open(&[
        Endpoint("\u{82}\u{7f}\u{7f}\u{ff}\u{ff}\u{ff}\u{ff}\u{ff}\u{ff}\u{ff}abc"),
        ClientGets("\u{82}\u{7f}\u{7f}\u{ff}\u{ff}\u{ff}\u{ff}\u{ff}\u{ff}\u{ff}abc"),
    ]);
}

#[test]
fn silence_is_idle_after_its_time() {
    open(&[Wait(3_599_999), Client(HI), LinkGets(HI), Wait(3_600_000), ClientGets("\u{88}\u{6}\u{3}\u{e9}idle")]);
}
