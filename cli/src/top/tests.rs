//! What a reader sees, and what keys do.

use super::moment::Moment;
use super::state::{Focus, State, Wish};
use super::view::{self, Theme};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

fn endpoint(address: &str, share: f64, fair: f64) -> Value {
    json!({
        "address": address, "name": null, "usable": fair > 0.0, "state": if fair > 0.0 { "well" } else { "ejected" },
        "share": share, "session_share": 0.0, "fair_share": fair, "sessions": 0, "turns_per_second": 100.0 * share,
        "turns_in_flight": 3, "failures": {"connect-failed": if fair > 0.0 { 0 } else { 7 }},
        "first_byte_ms": {"p50": 2.5, "p99": 2500.0}, "why": format!("why of {address}"),
    })
}

fn service(name: &str, skew: f64, endpoints: Vec<Value>) -> Value {
    json!({
        "name": name, "sessions": 12, "turns_per_second": 1234.5, "turns_in_flight": 9,
        "endpoints_known": endpoints.len(), "endpoints_usable": 3, "measure": "turns",
        "skew": {"turns": {"skew": skew}, "sessions": null}, "moves": {"asked": {"moved": 5, "shutdown": 0}},
        "failures": {}, "headline": format!("headline of {name}"), "why": [format!("headline of {name}"), "And more."],
        "endpoints": endpoints, "endpoints_more": 0, "skew_history": [1.0, null, 1.5, skew],
    })
}

fn moment(services: Vec<Value>) -> Moment {
    let value = json!({
        "unix_ms": 1_798_761_599_000_u64, "name": "edge", "version": "0.1.0", "unready": null,
        "config": {"generation": 3, "error": null}, "services": services,
    });
    serde_json::from_value(value).expect("a moment")
}

fn shop() -> Value {
    let endpoints = vec![
        endpoint("10.0.0.1:80", 0.25, 0.25),
        endpoint("10.0.0.2:80", 0.5, 0.25),
        endpoint("10.0.0.3:80", 0.0, 0.0),
        endpoint("10.0.0.4:80", 0.25, 0.25),
    ];
    service("shop", 2.0, endpoints)
}

fn state() -> State {
    State::new(moment(vec![shop(), service("chat", 1.0, vec![endpoint("10.0.1.1:80", 1.0, 1.0)])]), None)
}

fn screen(state: &State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| view::draw(frame, state, Theme { colour: true })).expect("drawn");
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

/// Presses keys; what the last one asks for.
fn press(state: &mut State, keys: &[KeyCode]) -> Wish {
    keys.iter().map(|&key| state.key(KeyEvent::new(key, KeyModifiers::NONE))).last().unwrap_or(Wish::None)
}

#[test]
fn all_there_is_fits_an_ordinary_terminal() {
    let lines = screen(&state(), 80, 24);
    let expected = [
        " evenkeel 0.1.0 edge  ready, configuration 3                       23:59:59 UTC",
        " Service           Endpoints Sessions     Req/s   Skew  Moves In short",
        " shop                 3 of 4       12     1,235   2.00      5 headline of shop",
        " chat                 3 of 1       12     1,235   1.00      5 headline of chat",
        "── shop · 9 in flight · 0 failed                                            ▁ ▅█",
        " headline of shop",
        " And more.",
        " Endpoint          State      ┃ fair     Share Sess.  Req/s  Now  p50  p99  Bad",
        " 10.0.0.3:80       ejected               0.0 %     0    0.0    3  2.5 2.5s    7",
        " 10.0.0.2:80       well       ████┃███  50.0 %     0     50    3  2.5 2.5s    0",
        " 10.0.0.1:80       well       ████┃     25.0 %     0     25    3  2.5 2.5s    0",
        " 10.0.0.4:80       well       ████┃     25.0 %     0     25    3  2.5 2.5s    0",
    ];
    assert_eq!(lines[..expected.len()], expected);
    assert_eq!(lines[21], " 10.0.0.3:80: why of 10.0.0.3:80");
    assert_eq!(lines[23], " q leave  tab list  ↑↓ select  s sort: attention  ? help");
}

#[test]
fn a_wide_terminal_has_the_reason_beside_each_endpoint() {
    assert!(screen(&state(), 140, 30).iter().any(|line| line.ends_with("0 why of 10.0.0.2:80")));
}

#[test]
fn large_counts_keep_to_their_columns() {
    let mut shop = shop();
    shop["endpoints"][1]["failures"] = json!({"connect-failed": 12_345_678});
    shop["endpoints"][1]["sessions"] = json!(54_321);
    let lines = screen(&State::new(moment(vec![shop]), None), 80, 24);
    assert!(lines.iter().any(|line| line.contains(" 54k ") && line.ends_with(" 12M")), "{lines:?}");
}

#[test]
fn no_size_is_too_small() {
    let mut state = state();
    for help in [false, true] {
        state.help = help;
        for (width, height) in [(1, 1), (2, 40), (200, 2), (20, 5), (79, 23)] {
            screen(&state, width, height);
        }
    }
    screen(&State::new(moment(vec![]), None), 80, 24);
}

#[test]
fn keys_select_endpoints_and_services() {
    let mut state = state();
    assert_eq!(state.endpoint.as_deref(), Some("10.0.0.3:80"), "what needs attention is first");
    assert_eq!(press(&mut state, &[KeyCode::Char('j'), KeyCode::Down]), Wish::None);
    assert_eq!(state.endpoint.as_deref(), Some("10.0.0.1:80"));
    press(&mut state, &[KeyCode::Char('G'), KeyCode::Down]);
    assert_eq!(state.endpoint.as_deref(), Some("10.0.0.4:80"), "it stops at the end");
    press(&mut state, &[KeyCode::Home, KeyCode::Up]);
    assert_eq!(state.endpoint.as_deref(), Some("10.0.0.3:80"));
    assert_eq!(press(&mut state, &[KeyCode::Tab, KeyCode::Down]), Wish::Follow, "its endpoints are wanted");
    assert_eq!((state.service.as_deref(), state.endpoint.as_deref()), (Some("chat"), Some("10.0.1.1:80")));
    assert_eq!(press(&mut state, &[KeyCode::Down]), Wish::None, "there is none below");
    press(&mut state, &[KeyCode::Enter]);
    assert_eq!(state.focus, Focus::Endpoints);
    for key in [KeyCode::Char('q'), KeyCode::Esc] {
        assert_eq!(press(&mut state, &[key]), Wish::Quit);
    }
    assert_eq!(state.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Wish::Quit);
}

#[test]
fn endpoints_can_be_sorted() {
    let mut state = state();
    let mut orders = Vec::new();
    for _ in 0..6 {
        orders.push((
            state.sort.as_str(),
            state.endpoints().iter().map(|e| e.address.as_bytes()[7] - b'0').collect::<Vec<_>>(),
        ));
        press(&mut state, &[KeyCode::Char('s')]);
    }
    let expected = [
        ("attention", vec![3, 2, 1, 4]),
        ("address", vec![1, 2, 3, 4]),
        ("load", vec![2, 1, 4, 3]),
        ("sessions", vec![1, 2, 3, 4]),
        ("requests/s", vec![2, 1, 4, 3]),
        ("failed", vec![3, 1, 2, 4]),
    ];
    assert_eq!(orders, expected);
    assert_eq!(state.sort.as_str(), "attention", "and around");
}

#[test]
fn a_thousand_endpoints_scroll() {
    let many = (0..1_000).map(|i| endpoint(&format!("10.0.{}.{}:80", i / 250, i % 250), 0.001, 0.001)).collect();
    let mut state = State::new(moment(vec![service("many", 1.0, many)]), Some("many".into()));
    press(&mut state, &[KeyCode::End]);
    let last = state.endpoint.clone().expect("one is selected");
    assert!(
        screen(&state, 80, 24)[..21].iter().any(|line| line.contains(&last)),
        "it is in the list, not only below it"
    );
    press(&mut state, &[KeyCode::PageUp]);
    assert_eq!(state.endpoint_index(), Some(989));
}

#[test]
fn the_selection_survives_news_and_falls_back_when_its_subject_is_gone() {
    let mut state = state();
    press(&mut state, &[KeyCode::Tab, KeyCode::Down]);
    state.becomes(moment(vec![shop(), service("new", 1.0, vec![]), service("chat", 1.0, vec![])]));
    assert_eq!((state.service.as_deref(), state.endpoint.as_deref()), (Some("chat"), None));
    state.becomes(moment(vec![shop()]));
    assert_eq!((state.service.as_deref(), state.endpoint.as_deref()), (Some("shop"), Some("10.0.0.3:80")));
}

#[test]
fn the_first_line_says_what_is_wrong() {
    let mut state = state();
    state.moment.config.error = Some("evenkeel.yaml:3:5: unknown key\nand more".into());
    assert!(screen(&state, 100, 24)[0].contains("the last reload failed: evenkeel.yaml:3:5: unknown key "));
    state.moment.unready = Some("draining".into());
    assert!(screen(&state, 100, 24)[0].contains("not ready: draining"));
    state.lost = Some((1_798_761_599_000, "connection refused".into()));
    assert!(screen(&state, 100, 24)[0].contains("lost since 23:59:59 UTC, trying again: connection refused"));
    state.becomes(moment(vec![shop()]));
    assert!(screen(&state, 100, 24)[0].contains("ready, configuration 3"));
}

#[test]
fn help_covers_the_lists_until_any_key() {
    let mut state = state();
    press(&mut state, &[KeyCode::Char('?')]);
    assert!(screen(&state, 80, 24).iter().any(|line| line.contains("sort endpoints")));
    assert_eq!(press(&mut state, &[KeyCode::Char('q')]), Wish::None, "it closes the help, no more");
    assert!(!screen(&state, 80, 24).iter().any(|line| line.contains("sort endpoints")));
}

#[test]
fn a_pipe_gets_a_table() {
    let mut odd = shop();
    odd["name"] = json!("odd\u{1b}[2J");
    let text = view::plain(&moment(vec![odd]));
    let expected = "\
evenkeel 0.1.0 edge, ready, 2026-12-31 23:59:59 UTC

odd\\u{1b}[2J: 3 of 4 endpoints, 12 sessions, 1,235 requests/s, 9 in flight, 0 failed, skew 2.00, 5 moves
  headline of shop
  And more.
  ENDPOINT     STATE     SHARE    FAIR  SESSIONS  REQ/S  IN FLIGHT       P50        P99  FAILED  WHY
  10.0.0.1:80  well     25.0 %  25.0 %         0     25          3  ≤ 2.5 ms  ≤ 2500 ms       0  why of 10.0.0.1:80
  10.0.0.2:80  well     50.0 %  25.0 %         0     50          3  ≤ 2.5 ms  ≤ 2500 ms       0  why of 10.0.0.2:80
  10.0.0.3:80  ejected   0.0 %   0.0 %         0    0.0          3  ≤ 2.5 ms  ≤ 2500 ms       7  why of 10.0.0.3:80
  10.0.0.4:80  well     25.0 %  25.0 %         0     25          3  ≤ 2.5 ms  ≤ 2500 ms       0  why of 10.0.0.4:80
";
    assert_eq!(text, expected);
}
