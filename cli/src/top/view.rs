//! Drawing: a frame for the terminal, or a table for a pipe.

use super::moment::{Endpoint, Moment, Service};
use super::state::{Focus, HOT, State};
use crate::why::shown;
use evenkeel_proxy::format::{count, decimals, milliseconds, per_second, percent, utc};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Row, Sparkline, Table, TableState, Wrap};

/// Columns from which on there is room for longer bars, and for the reason beside each endpoint.
const WIDE: u16 = 120;
/// Cells of a share bar, wide and narrow.
const BAR: (usize, usize) = (16, 8);
/// Services that are listed above the endpoints; there may be more to scroll to.
const LISTED: u16 = 6;
/// Lines for what there is to say of the selected service.
const SENTENCES: u16 = 6;

const KEYS: &str = "\
 tab       move between services and endpoints
 ↑↓ jk     select; the selected service's endpoints are shown
 enter     from a service to its endpoints
 g G       first, last; page up and down
 s         sort endpoints: attention, address, load,
           sessions, requests/s, failed
 q esc ^C  leave

 A bar is the share of the work; ┃ is the fair share.
 Now: requests in flight. Bad: requests that failed.
 p50, p99: time to first byte in ms, of all requests.";

/// How things look; without colours only weight tells them apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    pub(super) colour: bool,
}

impl Theme {
    fn paint(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn bad(self) -> Style {
        self.paint(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// By share ÷ fair share.
    fn load(self, load: Option<f64>) -> Style {
        match load {
            Some(load) if load > 1.5 => self.paint(Color::Red),
            Some(load) if load > HOT => self.paint(Color::Yellow),
            _ => self.paint(Color::Blue),
        }
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, theme: Theme) {
    let services = (state.moment.services.len() as u16).clamp(1, LISTED) + 1;
    let width = usize::from(frame.area().width).max(1);
    let lines = |sentence: &String| (sentence.chars().count() + 1).div_ceil(width) as u16;
    let sentences = state.selected().map_or(0, |s| s.why.iter().map(lines).sum::<u16>().min(SENTENCES));
    let [head, list, title, said, endpoints, why, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(services),
        Constraint::Length(1),
        Constraint::Length(sentences),
        Constraint::Min(3),
        Constraint::Length(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    header(frame, head, state, theme);
    service_list(frame, list, state, theme);
    if let Some(service) = state.selected() {
        service_title(frame, title, service, theme);
        let lines: Vec<Line<'_>> = service.why.iter().map(|sentence| Line::raw(format!(" {sentence}"))).collect();
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), said);
        endpoint_list(frame, endpoints, state, service, theme);
        if let Some(endpoint) = state.endpoints().into_iter().find(|e| Some(&e.address) == state.endpoint.as_ref()) {
            let name = endpoint.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
            let text = format!(" {}{name}: {}", endpoint.address, endpoint.why);
            frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), why);
        }
    }
    footer(frame, foot, state, theme);
    if state.help {
        help(frame);
    }
}

fn header(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let moment = &state.moment;
    let mut spans = vec![
        Span::styled(" evenkeel", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!(" {} {}  ", moment.version, moment.name)),
    ];
    spans.push(match (&state.lost, &moment.unready, &moment.config.error) {
        (Some((since, error)), ..) => {
            Span::styled(format!("lost since {}, trying again: {error}", clock(*since)), theme.bad())
        }
        (_, Some(reason), _) => Span::styled(format!("not ready: {reason}"), theme.bad()),
        (.., Some(error)) => {
            let line = error.lines().next().unwrap_or_default();
            Span::styled(format!("the last reload failed: {line}"), theme.bad())
        }
        _ => Span::styled(format!("ready, configuration {}", moment.config.generation), theme.paint(Color::Green)),
    });
    let [left, right] = Layout::horizontal([Constraint::Min(0), Constraint::Length(14)]).areas(area);
    frame.render_widget(Line::from(spans), left);
    let time = Line::from(format!("{} ", clock(moment.unix_ms))).alignment(Alignment::Right);
    frame.render_widget(time.style(theme.dim()), right);
}

fn service_list(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let rows = state.moment.services.iter().map(|service| {
        let skew = service.skew();
        Row::new([
            Line::raw(format!(" {}", service.name)),
            right(format!("{} of {}", service.endpoints_usable, service.endpoints_known)),
            right(count(service.sessions)),
            right(per_second(service.turns_per_second)),
            right(skew.map_or_else(|| "–".into(), decimals)).style(theme.load(skew)),
            right(count(service.moves())),
            Line::raw(service.headline.clone()),
        ])
    });
    let widths = [
        Constraint::Length(18),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Min(10),
    ];
    let head = [" Service", "Endpoints", "Sessions", "Req/s", "Skew", "Moves", "In short"];
    list(frame, area, rows.collect(), &widths, &head, state.service_index(), state.focus == Focus::Services, theme);
}

fn service_title(frame: &mut Frame<'_>, area: Rect, service: &Service, theme: Theme) {
    let title = format!(
        "── {} · {} in flight · {} failed ",
        service.name,
        count(service.turns_in_flight),
        count(service.failed())
    );
    let width = (area.width / 3).min(service.skew_history.len() as u16);
    let [left, right] = Layout::horizontal([Constraint::Min(0), Constraint::Length(width)]).areas(area);
    frame.render_widget(Line::styled(title, Style::new().add_modifier(Modifier::BOLD)), left);
    let known = &service.skew_history[service.skew_history.len() - usize::from(width)..];
    let top = known.iter().flatten().fold(2.0_f64, |top, &skew| top.max(skew));
    // In eighths of a cell; even is one, so that it can be told from no load.
    let level = |skew: &Option<f64>| skew.map(|skew| 1 + ((skew - 1.0).max(0.0) / (top - 1.0) * 7.0).round() as u64);
    let line = Sparkline::default().data(known.iter().map(level)).max(8);
    frame.render_widget(line.style(theme.load(service.skew())), right);
}

fn endpoint_list(frame: &mut Frame<'_>, area: Rect, state: &State, service: &Service, theme: Theme) {
    let endpoints = state.endpoints();
    let full = full_bar(service);
    let wide = area.width >= WIDE;
    let cells = if wide { BAR.0 } else { BAR.1 };
    let rows = endpoints.iter().map(|&endpoint| {
        let load = service.load(endpoint);
        let hot = service.skew().is_some_and(|skew| skew > HOT);
        let style = if endpoint.is_out() { theme.dim() } else { theme.load(load.filter(|_| hot)) };
        let times = endpoint.first_byte_ms;
        Row::new([
            Line::raw(format!(" {}", endpoint.address)),
            Line::styled(endpoint.state.clone(), if endpoint.is_out() { theme.bad() } else { Style::new() }),
            Line::styled(bar(service.share(endpoint) / full, fair(endpoint, full), cells), style),
            right(percent(service.share(endpoint))),
            right(few(endpoint.sessions)),
            right(per_second(endpoint.turns_per_second)),
            right(few(endpoint.turns_in_flight)),
            right(short(times.p50)),
            right(short(times.p99)),
            right(few(endpoint.failed())),
            Line::raw(if wide { endpoint.why.as_str() } else { "" }),
        ])
    });
    let widths = [
        if wide { Constraint::Length(24) } else { Constraint::Min(17) },
        Constraint::Length(10),
        Constraint::Length(cells as u16),
        Constraint::Length(7),
        Constraint::Length(5),
        Constraint::Length(6),
        Constraint::Length(4),
        Constraint::Length(4),
        Constraint::Length(4),
        Constraint::Length(4),
        if wide { Constraint::Min(0) } else { Constraint::Length(0) },
    ];
    let head = [" Endpoint", "State", "┃ fair", "Share", "Sess.", "Req/s", "Now", "p50", "p99", "Bad", "Why"];
    let focus = state.focus == Focus::Endpoints;
    list(frame, area, rows.collect(), &widths, &head, state.endpoint_index(), focus, theme);
}

#[allow(clippy::too_many_arguments, reason = "one place where both lists get their looks")]
fn list(
    frame: &mut Frame<'_>,
    area: Rect,
    rows: Vec<Row<'_>>,
    widths: &[Constraint],
    head: &[&'static str],
    selected: Option<usize>,
    focus: bool,
    theme: Theme,
) {
    let aligned = |(i, text): (usize, &&'static str)| {
        let numbers = !matches!(*text, " Service" | "In short" | " Endpoint" | "State" | "┃ fair" | "Why");
        Line::raw(*text).alignment(if i > 0 && numbers { Alignment::Right } else { Alignment::Left })
    };
    let head = Row::new(head.iter().enumerate().map(aligned)).style(theme.dim());
    let highlight = Style::new().add_modifier(if focus { Modifier::REVERSED } else { Modifier::BOLD });
    let table = Table::new(rows, widths.iter().copied()).header(head).row_highlight_style(highlight).column_spacing(1);
    let mut table_state = TableState::new().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut table_state);
}

fn footer(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let hidden = state.selected().filter(|s| s.endpoints_more > 0);
    let hidden = hidden.map(|s| format!("; {} endpoints are not shown", count(s.endpoints_more))).unwrap_or_default();
    let text = format!(" q leave  tab list  ↑↓ select  s sort: {}  ? help{hidden}", state.sort.as_str());
    frame.render_widget(Line::styled(text, theme.dim()), area);
}

fn help(frame: &mut Frame<'_>) {
    let (width, height) = (58, KEYS.lines().count() as u16 + 2);
    let area = frame.area();
    let area = Rect {
        x: area.width.saturating_sub(width) / 2,
        y: area.height.saturating_sub(height) / 2,
        width: width.min(area.width),
        height: height.min(area.height),
    };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(KEYS).block(Block::new().borders(Borders::ALL).title(" Keys ")), area);
}

/// A count in four columns.
fn few(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{}k", n / 1_000),
        1_000_000..1_000_000_000 => format!("{}M", n / 1_000_000),
        _ => format!("{}G", n / 1_000_000_000),
    }
}

fn right(text: String) -> Line<'static> {
    Line::raw(text).alignment(Alignment::Right)
}

/// Milliseconds in few columns.
fn short(ms: Option<f64>) -> String {
    match ms {
        None => "–".into(),
        Some(ms) if ms >= 1000.0 => format!("{}s", ms / 1000.0),
        Some(ms) => format!("{ms}"),
    }
}

fn clock(unix_ms: u64) -> String {
    utc(unix_ms).split_off("2026-11-24 ".len()) + " UTC"
}

/// The share that a full bar stands for: twice the largest fair share, or the largest share if that is more.
fn full_bar(service: &Service) -> f64 {
    let most = |e: &Endpoint| service.share(e).max(2.0 * e.fair_share);
    service.endpoints.iter().map(most).fold(0.0, f64::max).clamp(f64::MIN_POSITIVE, 1.0)
}

/// Where the fair share is on a bar; nowhere if it is not picked.
fn fair(endpoint: &Endpoint, full: f64) -> Option<f64> {
    endpoint.usable.then(|| endpoint.fair_share / full)
}

/// A bar in eighths of a cell, with a mark.
fn bar(part: f64, mark: Option<f64>, cells: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (part * (cells * 8) as f64).round() as usize;
    let mark = mark.map(|mark| ((mark * cells as f64) as usize).min(cells - 1));
    (0..cells)
        .map(|cell| match eighths.saturating_sub(cell * 8) {
            _ if mark == Some(cell) => '┃',
            8.. => '█',
            part => EIGHTHS[part],
        })
        .collect()
}

/// The same as lines of text, for a pipe: every service, and endpoints where they were asked for.
pub(super) fn plain(moment: &Moment) -> String {
    let mut text = String::new();
    let mut put = |line: &str| {
        text.push_str(line.trim_end());
        text.push('\n');
    };
    let ready = moment.unready.as_deref().map_or_else(|| "ready".into(), |reason| format!("not ready: {reason}"));
    put(&format!("evenkeel {} {}, {ready}, {} UTC", moment.version, shown(&moment.name), utc(moment.unix_ms)));
    if let Some(error) = &moment.config.error {
        put(&format!("the last reload failed: {}", shown(error.trim_end())));
    }
    for service in &moment.services {
        put("");
        put(&format!(
            "{}: {} of {} endpoints, {} sessions, {} requests/s, {} in flight, {} failed, skew {}, {} moves",
            shown(&service.name),
            service.endpoints_usable,
            service.endpoints_known,
            count(service.sessions),
            per_second(service.turns_per_second),
            count(service.turns_in_flight),
            count(service.failed()),
            service.skew().map_or_else(|| "–".into(), decimals),
            count(service.moves()),
        ));
        if service.why.is_empty() {
            put(&format!("  {}", shown(&service.headline)));
        }
        service.why.iter().for_each(|sentence| put(&format!("  {}", shown(sentence))));
        endpoint_lines(service).iter().for_each(|line| put(line));
        if service.endpoints_more > 0 {
            put(&format!("  … and {} more", count(service.endpoints_more)));
        }
    }
    text
}

fn endpoint_lines(service: &Service) -> Vec<String> {
    if service.endpoints.is_empty() {
        return Vec::new();
    }
    let head = ["ENDPOINT", "STATE", "SHARE", "FAIR", "SESSIONS", "REQ/S", "IN FLIGHT", "P50", "P99", "FAILED", "WHY"];
    let row = |e: &Endpoint| {
        [
            shown(&e.address),
            e.state.clone(),
            percent(service.share(e)),
            percent(e.fair_share),
            count(e.sessions),
            per_second(e.turns_per_second),
            count(e.turns_in_flight),
            milliseconds(e.first_byte_ms.p50),
            milliseconds(e.first_byte_ms.p99),
            count(e.failed()),
            shown(&e.why),
        ]
    };
    let rows: Vec<_> = [head.map(str::to_owned)].into_iter().chain(service.endpoints.iter().map(row)).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String; 11]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, &width))| match i {
            0 | 1 | 10 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("  {}", cells.collect::<Vec<_>>().join("  "))
    };
    rows.iter().map(line).collect()
}
