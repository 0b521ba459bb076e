//! The terminal: both phases side by side, redrawn in place while they run.
//!
//! Fits 80 columns and 24 lines. Standard output that is not such a terminal gets one line per
//! event and the same picture once, at the end.

use super::figures::Chance;
use super::outcome::{NewPods, Outcome, Phase, Stage};
use super::summary::grouped;
use super::{Options, Output, Protocol, Way};
use crossterm::{cursor, execute, queue, terminal};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// Columns of one phase; two of them and [`GAP`] are 79.
const COLUMN: usize = 38;
/// Between the phases.
const GAP: &str = " │ ";
/// Cells of a bar.
const BAR: usize = 18;
/// Beside the mark of a Pod without a share.
const NOTHING: &str = " nothing";
/// Lines of the picture apart from the Pods, and the prompt below it.
const FIXED_LINES: usize = 18;
/// Smallest terminal that is redrawn.
const LEAST: (u16, u16) = (80, 24);

/// Where the demo is shown.
#[derive(Debug)]
pub struct Screen {
    mode: Mode,
    options: Options,
    paint: bool,
    /// Lines for Pods.
    rows: usize,
    /// The share a full bar stands for; only grows, so that bars do not jump.
    full: f64,
    /// Skew of the first connections that random placement gives on average.
    chance_skew: f64,
    /// Lines drawn last time, to go back over.
    drawn: u16,
    scaled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Redraw in place.
    Live,
    /// A line per event, the picture at the end.
    Plain,
    /// Nothing: standard output belongs to JSON.
    Silent,
}

/// How a piece of text looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Warm,
    Bad,
    Accent,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warm => "33",
            Self::Bad => "31",
            Self::Accent => "1;36",
        }
    }

    /// By load: even is good, more is warm or bad.
    fn of_ratio(ratio: f64) -> Self {
        match ratio {
            r if r > 1.5 => Self::Bad,
            r if r > 1.2 => Self::Warm,
            _ => Self::Good,
        }
    }
}

/// A line in the making; knows how wide it looks.
#[derive(Default)]
struct Line {
    text: String,
    width: usize,
    paint: bool,
}

impl Line {
    fn new(paint: bool) -> Self {
        Self { paint, ..Self::default() }
    }

    fn put(mut self, style: Style, text: &str) -> Self {
        self.width += text.chars().count();
        if self.paint && style != Style::Plain && !text.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(self.text, "\x1b[{}m{text}\x1b[0m", style.code());
        } else {
            self.text.push_str(text);
        }
        self
    }

    /// Fills up to `width` columns.
    fn to(mut self, width: usize) -> Self {
        let missing = width.saturating_sub(self.width);
        self.text.push_str(&" ".repeat(missing));
        self.width += missing;
        self
    }

    /// Fills up so that `text` ends at `width`.
    fn right(self, width: usize, style: Style, text: &str) -> Self {
        let length = text.chars().count();
        self.to(width.saturating_sub(length)).put(style, text)
    }

    fn join(mut self, other: Self) -> Self {
        self.text.push_str(&other.text);
        self.width += other.width;
        self
    }
}

impl Screen {
    /// Looks at standard output and decides how to show things.
    pub fn open(options: &Options) -> Self {
        let size = terminal::size().ok().filter(|_| io::stdout().is_terminal());
        let mode = match (options.output, size) {
            (Output::Json, _) => Mode::Silent,
            (Output::Text, Some((columns, lines))) if columns >= LEAST.0 && lines >= LEAST.1 => Mode::Live,
            (Output::Text, _) => Mode::Plain,
        };
        let lines = match mode {
            Mode::Live => size.map_or(0, |(_, lines)| usize::from(lines)),
            Mode::Plain | Mode::Silent => usize::MAX,
        };
        Self {
            mode,
            paint: options.color && mode == Mode::Live,
            rows: options.scale_to.min(lines.saturating_sub(FIXED_LINES)),
            full: 1.5 / options.pods as f64,
            options: options.clone(),
            chance_skew: Chance::of(options.clients, options.pods as u64).expected_skew,
            drawn: 0,
            scaled: false,
        }
    }

    /// A phase begins.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn begin(&mut self, way: Way) -> io::Result<()> {
        self.scaled = false;
        if self.mode != Mode::Plain {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "{}: {} clients connect, {} Pods serve them …",
            way.name(),
            self.options.clients,
            self.options.pods
        )?;
        out.flush()
    }

    /// Shows the phases that are over and the one that runs.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn show(&mut self, over: &[Phase], running: Option<Phase>) -> io::Result<()> {
        match self.mode {
            Mode::Silent => Ok(()),
            Mode::Plain => {
                let Some(phase) = running.filter(|phase| phase.scaled_at_ms.is_some() && !self.scaled) else {
                    return Ok(());
                };
                self.scaled = true;
                let mut out = io::stdout().lock();
                writeln!(out, "{}: {} Pods become {} …", phase.way.name(), self.options.pods, self.options.scale_to)?;
                out.flush()
            }
            Mode::Live => {
                let phases: Vec<&Phase> = over.iter().chain(&running).collect();
                let status = running.as_ref().map(|phase| self.status(phase)).unwrap_or_default();
                let picture = self.picture(&phases, &[status]);
                self.redraw(&picture)
            }
        }
    }

    /// Leaves the result on the screen.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn finish(&mut self, outcome: &Outcome) -> io::Result<()> {
        let phases: Vec<&Phase> = outcome.phases.iter().collect();
        let mut picture = self.picture(&phases, &outcome.summary);
        for what in &outcome.disagreements {
            picture.push(format!("COUNTS DISAGREE: {what}"));
        }
        for phase in &phases {
            if let Some(error) = &phase.first_error {
                picture.push(format!("{}: first failure: {error}", phase.way.name()));
            }
        }
        match self.mode {
            Mode::Silent => Ok(()),
            Mode::Live => self.redraw(&picture),
            Mode::Plain => {
                let mut out = io::stdout().lock();
                writeln!(out)?;
                picture.iter().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
            }
        }
    }

    fn redraw(&mut self, picture: &[String]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        queue!(out, terminal::BeginSynchronizedUpdate, cursor::Hide)?;
        if self.drawn > 0 {
            queue!(out, cursor::MoveToPreviousLine(self.drawn))?;
        }
        for line in picture {
            queue!(out, terminal::Clear(terminal::ClearType::UntilNewLine))?;
            writeln!(out, "{line}")?;
        }
        queue!(out, terminal::Clear(terminal::ClearType::FromCursorDown), terminal::EndSynchronizedUpdate)?;
        self.drawn = picture.len() as u16;
        out.flush()
    }

    fn line(&self) -> Line {
        Line::new(self.paint)
    }

    fn status(&self, phase: &Phase) -> String {
        let scaling = match (self.options.scale_at(), phase.scaled_at_ms) {
            (None, _) => format!(": {:.1} of {:.1} s", phase.elapsed_ms / 1e3, self.options.duration.as_secs_f64()),
            (Some(at), None) => format!(
                "; {} new Pods in {:.1} s",
                self.options.scale_to - self.options.pods,
                (at.as_secs_f64() - phase.elapsed_ms / 1e3).max(0.0)
            ),
            (Some(_), Some(at)) => format!(
                "; {} new Pods for {:.1} s, the clients stayed connected",
                self.options.scale_to - self.options.pods,
                (phase.elapsed_ms - at) / 1e3
            ),
        };
        self.line().put(Style::Dim, &format!(" {}{scaling}", phase.way.name())).text
    }

    /// The whole picture, `below` under it.
    fn picture(&mut self, phases: &[&Phase], below: &[String]) -> Vec<String> {
        let highest = phases.iter().flat_map(|phase| phase.last.shares.iter().copied()).fold(0.0, f64::max);
        self.full = self.full.max(highest);
        let columns: Vec<_> = [Way::Service, Way::Evenkeel]
            .map(|way| self.column(way, phases.iter().find(|phase| phase.way == way).copied()))
            .into();
        let mut picture = self.header();
        let mut columns = columns.into_iter();
        let (left, right) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
        for (left, right) in left.into_iter().zip(right) {
            picture.push(left.to(COLUMN).put(Style::Dim, GAP).join(right).text);
        }
        picture.push(String::new());
        picture.extend(below.iter().cloned());
        picture
    }

    fn header(&self) -> Vec<String> {
        let options = &self.options;
        let clients = match options.clients {
            1 => "1 client stays connected".into(),
            n => format!("{n} clients stay connected"),
        };
        let pods = match options.scale_at() {
            Some(_) => format!("{} Pods become {}", options.pods, options.scale_to),
            None => format!("{} Pods", options.pods),
        };
        let stretch = options.last_stretch().as_secs_f64();
        let note = match options.protocol {
            Protocol::Http | Protocol::Http2 => {
                format!("Counted by the Pods. Bars: share of requests in the last {stretch:.1} s")
            }
            Protocol::Grpc => format!("Counted by the Pods. Bars: share of calls in the last {stretch:.1} s"),
            Protocol::WebSocket => "evenkeel asks sessions to move when Pods are added; bars: share of requests".into(),
            Protocol::Tcp => "Opaque connections stay put: only a safe point lets one move".into(),
        };
        vec![
            self.line()
                .put(Style::Accent, " evenkeel demo")
                .put(Style::Plain, &format!("  {clients}, {} req/s each; {pods}", options.rate))
                .text,
            self.line().put(Style::Dim, &format!(" {note}; ┃ fair share")).text,
            String::new(),
        ]
    }

    fn column(&self, way: Way, phase: Option<&Phase>) -> Vec<Line> {
        let time = phase.map_or("next".into(), |phase| format!("{:.1} s", phase.elapsed_ms / 1e3));
        let rule = match (way, self.options.protocol) {
            (Way::Service, _) => "a random Pod per connection, for good",
            (Way::Evenkeel, Protocol::Http | Protocol::Http2) => "a Pod per request; slow start 1 s",
            (Way::Evenkeel, Protocol::Grpc) => "a Pod per call; slow start 1 s",
            (Way::Evenkeel, Protocol::Tcp) => "the Pod with the fewest connections",
            (Way::Evenkeel, Protocol::WebSocket) => "the Pod with fewest sessions; they move",
        };
        let mut lines = vec![
            self.line().put(Style::Bold, &format!(" {}", way.name())).right(COLUMN, Style::Dim, &time),
            self.line().put(Style::Dim, &format!(" {rule}")),
        ];
        let shown = self.shown();
        lines.extend(shown.iter().map(|&index| self.pod(phase, index)));
        if shown.len() < self.rows {
            let share = |index: usize| phase.and_then(|phase| phase.last.shares.get(index)).copied().unwrap_or(0.0);
            let rest = (0..self.options.scale_to).filter(|index| !shown.contains(index)).map(share).sum();
            let text = format!(" … {} more Pods", self.options.scale_to - shown.len());
            lines.push(self.line().put(Style::Dim, &text).right(8 + BAR + 5, Style::Plain, &percent(rest)));
        }
        lines.extend(self.figures(way, phase));
        lines
    }

    /// The Pods there is room for; where there are too many, some of the first and some of the new.
    fn shown(&self) -> Vec<usize> {
        let (first, all) = (self.options.pods, self.options.scale_to);
        if all <= self.rows {
            return (0..all).collect();
        }
        let room = self.rows.saturating_sub(1);
        let new = (all - first).min(room / 2).max(room.saturating_sub(first));
        (0..room - new).chain(first..first + new).collect()
    }

    fn pod(&self, phase: Option<&Phase>, index: usize) -> Line {
        let new = index >= self.options.pods;
        let name = format!("{}pod-{}", if new { '+' } else { ' ' }, index + 1);
        let Some((phase, pod)) = phase.and_then(|phase| Some((phase, phase.pods.get(index)?))) else {
            let line = self.line();
            return if new { line } else { line.put(Style::Dim, &name) };
        };
        let share = phase.last.shares.get(index).copied().unwrap_or(0.0);
        let style = if new { Style::Accent } else { Style::Plain };
        let line = self.line().put(style, &name).to(8);
        let line = self.bar(line, share, phase.last.fair_share).right(8 + BAR + 5, Style::Plain, &percent(share));
        let count = match self.options.protocol {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                let seconds = (phase.last.to_ms - phase.last.from_ms).max(1.0) / 1e3;
                let requests = phase.last.requests_by_pod.get(index).copied().unwrap_or(0);
                format!("{:.0}/s", requests as f64 / seconds)
            }
            Protocol::Tcp => format!("{} conn", pod.connections),
            Protocol::WebSocket => format!("{} up", pod.open_connections),
        };
        line.right(COLUMN, Style::Dim, &count)
    }

    /// A bar with eighths of a cell, and the fair share as a mark in it.
    fn bar(&self, line: Line, share: f64, fair: f64) -> Line {
        const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
        let cells = |part: f64| (part / self.full * BAR as f64).clamp(0.0, BAR as f64);
        let mark = (cells(fair) as usize).min(BAR - 1);
        let filled = cells(share);
        let cell = |index: usize| match filled - index as f64 {
            rest if rest >= 1.0 => '█',
            rest if rest > 0.0 => EIGHTHS[((rest * 8.0) as usize).min(7)],
            _ => ' ',
        };
        let style = Style::of_ratio(if fair > 0.0 { share / fair } else { 0.0 });
        let left: String = (0..mark).map(cell).collect();
        let right: String = (mark + 1..BAR).map(cell).collect();
        let line = line.put(style, &left).put(Style::Bold, "┃");
        if share == 0.0 && right.len() >= NOTHING.len() {
            return line.put(Style::Bad, NOTHING).to(8 + BAR);
        }
        line.put(style, &right)
    }

    fn figures(&self, way: Way, phase: Option<&Phase>) -> Vec<Line> {
        let scaling = self.options.scale_at().is_some();
        let before = phase.map(|phase| &phase.before);
        let after = phase.filter(|phase| phase.after.is_some()).map(|phase| &phase.last);
        let row = |label: &str, value: &dyn Fn(&Stage) -> (Style, String)| {
            let mut line = self.line().put(Style::Dim, label);
            for (end, stage) in [(if scaling { 26 } else { COLUMN }, before), (COLUMN, after)] {
                if let Some((style, text)) = stage.map(value) {
                    line = line.right(end, style, &text);
                }
            }
            line
        };
        let figure =
            |value: Option<f64>, digits: usize| value.map_or("–".into(), |value| format!("{value:.digits$}"));
        let mut lines = vec![
            row("", &|stage| (Style::Dim, format!("{} Pods", stage.pods))),
            row(" skew (1 is even)", &|stage| {
                (stage.skew.map_or(Style::Plain, Style::of_ratio), figure(stage.skew, 2))
            }),
            row(" effective Pods", &|stage| (Style::Plain, figure(stage.effective_pods, 1))),
            row(" Jain index", &|stage| (Style::Plain, figure(stage.jain, 2))),
            row(" p50 / p99 ms", &|stage| {
                (Style::Plain, format!("{} / {}", figure(stage.p50_ms, 1), figure(stage.p99_ms, 1)))
            }),
        ];
        let total = |label: &str, value: Option<(Style, String)>| {
            let line = self.line().put(Style::Dim, label);
            value.into_iter().fold(line, |line, (style, text)| line.right(COLUMN, style, &text))
        };
        lines.push(total(
            " failed / dropped",
            phase.map(|phase| {
                let style = if phase.failed + phase.dropped == 0 { Style::Good } else { Style::Bad };
                (style, format!("{} / {}", grouped(phase.failed), grouped(phase.dropped)))
            }),
        ));
        if self.options.protocol == Protocol::WebSocket {
            lines.push(total(" sessions moved", phase.map(|phase| (Style::Plain, grouped(phase.moved)))));
        }
        if scaling {
            let new = phase.and_then(|phase| phase.new_pods.as_ref());
            let over = phase.is_some_and(|phase| phase.elapsed_ms >= self.options.duration.as_secs_f64() * 1e3);
            let time = |time: fn(&NewPods) -> Option<f64>| {
                new.map(|new| match time(new) {
                    Some(after) => (Style::Good, format!("after {} ms", grouped(after.round() as u64))),
                    None if over => (Style::Bad, "never".into()),
                    None => (Style::Warm, "not yet".into()),
                })
            };
            lines.push(total(" new Pods: first request", time(|new| new.first_request_ms)));
            lines.push(total(" new Pods: 90% of share", time(|new| new.fair_share_ms)));
        } else {
            let line = self.line();
            lines.push(match way {
                Way::Service => line.put(Style::Dim, " skew to be expected of chance").right(
                    COLUMN,
                    Style::Dim,
                    &format!("{:.2}", self.chance_skew),
                ),
                Way::Evenkeel => line,
            });
        }
        lines
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.mode == Mode::Live {
            // The process is about to end; a terminal that is gone needs no cursor.
            let _ = execute!(io::stdout(), terminal::EndSynchronizedUpdate, cursor::Show);
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::outcome::tests::outcome;
    use crate::demo::summary;

    fn screen(options: &Options, paint: bool) -> Screen {
        let rows = options.scale_to.min(usize::from(LEAST.1) - FIXED_LINES);
        let mut screen = Screen::open(options);
        (screen.mode, screen.paint, screen.rows) = (Mode::Silent, paint, rows);
        screen
    }

    fn without_colors(text: &str) -> String {
        let mut pieces = text.split("\x1b[");
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |all, piece| all + piece.split_once('m').map_or("", |(_, rest)| rest))
    }

    #[test]
    fn the_picture_fits_the_smallest_terminal() {
        let (outcome, options) = outcome();
        let mut unscaled = outcome.phases.clone();
        for phase in &mut unscaled {
            (phase.after, phase.new_pods) = (None, None);
        }
        let widest = Options { clients: 256, pods: 64, scale_to: 128, rate: 19.5, ..options.clone() };
        let tcp = Options { protocol: Protocol::Tcp, ..options.clone() };
        let still = Options { pods: 6, ..options.clone() };
        let scaled = &outcome.phases;
        for (options, phases) in [(options, scaled), (widest, scaled), (tcp, scaled), (still, &unscaled)] {
            let mut below = summary::lines(phases, &options);
            let phases: Vec<_> = phases.iter().collect();
            let picture = screen(&options, true).picture(&phases, &below);
            // One line is left for the prompt.
            assert!(picture.len() < usize::from(LEAST.1), "{}", picture.len());
            below.extend(picture);
            for line in below {
                let width = without_colors(&line).chars().count();
                assert!(width < usize::from(LEAST.0), "{width}: {line}");
            }
        }
    }

    #[test]
    fn where_room_is_short_first_and_new_pods_are_both_shown() {
        let shown = |pods, scale_to| screen(&Options { pods, scale_to, ..Options::default() }, false).shown();
        assert_eq!(shown(3, 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(shown(5, 12), [0, 1, 2, 5, 6]);
        assert_eq!(shown(2, 12), [0, 1, 2, 3, 4]);
        assert_eq!(shown(9, 9), [0, 1, 2, 3, 4]);
        assert_eq!(shown(9, 10), [0, 1, 2, 3, 9]);
    }

    #[test]
    fn without_colors_there_is_no_escape() {
        let (outcome, options) = outcome();
        let phases: Vec<_> = outcome.phases.iter().collect();
        let plain = screen(&options, false).picture(&phases, &[]).join("\n");
        assert!(!plain.contains('\x1b'));
        let painted = screen(&options, true).picture(&phases, &[]).join("\n");
        assert!(painted.contains('\x1b'));
        assert_eq!(without_colors(&painted), plain);
    }

    #[test]
    fn an_idle_pod_is_called_so_and_a_hot_one_is_red() {
        let (outcome, options) = outcome();
        let mut screen = screen(&options, true);
        let picture = screen.picture(&[&outcome.phases[0]], &[]).join("\n");
        assert!(picture.contains("\x1b[31m nothing"), "{picture}");
        // Pod 2 has half of all requests, three times its share.
        assert!(picture.lines().any(|line| line.contains("pod-2") && line.contains("\x1b[31m█")));
        assert!(without_colors(&picture).contains("never"));
    }
}
