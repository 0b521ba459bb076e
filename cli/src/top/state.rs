//! What `evenkeel top` shows: the last moment, and what the reader chose to see of it.

use super::moment::{Endpoint, Moment, Service};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// The list that keys move in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Focus {
    Services,
    Endpoints,
}

/// The order of endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    /// What has something against it, then what is hot, then the others; each by address.
    Attention,
    Address,
    Load,
    Sessions,
    Rate,
    Failed,
}

impl Sort {
    const ALL: [Self; 6] = [Self::Attention, Self::Address, Self::Load, Self::Sessions, Self::Rate, Self::Failed];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Address => "address",
            Self::Load => "load",
            Self::Sessions => "sessions",
            Self::Rate => "requests/s",
            Self::Failed => "failed",
        }
    }

    fn next(self) -> Self {
        Self::ALL[(self as usize + 1) % Self::ALL.len()]
    }
}

/// What a key asks for beyond the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    None,
    Quit,
    /// Another service is selected: its endpoints are wanted.
    Follow,
}

/// Everything that is drawn.
#[derive(Debug)]
pub(super) struct State {
    pub(super) moment: Moment,
    /// Name of the selected service; indices would point at another when the configuration changes.
    pub(super) service: Option<String>,
    /// Address of the selected endpoint.
    pub(super) endpoint: Option<String>,
    pub(super) focus: Focus,
    pub(super) sort: Sort,
    pub(super) help: bool,
    /// Since when there are no news, and why.
    pub(super) lost: Option<(u64, String)>,
}

impl State {
    pub(super) fn new(moment: Moment, service: Option<String>) -> Self {
        let mut state = Self {
            moment,
            service,
            endpoint: None,
            focus: Focus::Endpoints,
            sort: Sort::Attention,
            help: false,
            lost: None,
        };
        state.settle();
        state
    }

    /// There are news.
    pub(super) fn becomes(&mut self, moment: Moment) {
        (self.moment, self.lost) = (moment, None);
        self.settle();
    }

    /// Selects what there is, if what was selected is gone.
    fn settle(&mut self) {
        if self.selected().is_none() {
            self.service = self.moment.services.first().map(|s| s.name.clone());
            self.endpoint = None;
        }
        let endpoints = self.endpoints();
        if !endpoints.iter().any(|e| Some(&e.address) == self.endpoint.as_ref()) {
            self.endpoint = endpoints.first().map(|e| e.address.clone());
        }
    }

    pub(super) fn selected(&self) -> Option<&Service> {
        self.moment.services.iter().find(|s| Some(&s.name) == self.service.as_ref())
    }

    pub(super) fn service_index(&self) -> Option<usize> {
        self.moment.services.iter().position(|s| Some(&s.name) == self.service.as_ref())
    }

    /// Endpoints of the selected service, in the order that was chosen.
    pub(super) fn endpoints(&self) -> Vec<&Endpoint> {
        let Some(service) = self.selected() else { return Vec::new() };
        let mut endpoints: Vec<&Endpoint> = service.endpoints.iter().collect();
        let load = |e: &Endpoint| service.load(e).unwrap_or(0.0);
        let uneven = service.skew().is_some_and(|skew| skew > HOT);
        let attention = |e: &Endpoint| (!e.is_out(), e.state == "well", !(uneven && load(e) > HOT));
        endpoints.sort_by(|a, b| {
            let by = match self.sort {
                Sort::Attention => attention(a).cmp(&attention(b)),
                Sort::Address => std::cmp::Ordering::Equal,
                Sort::Load => load(b).total_cmp(&load(a)),
                Sort::Sessions => b.sessions.cmp(&a.sessions),
                Sort::Rate => b.turns_per_second.total_cmp(&a.turns_per_second),
                Sort::Failed => b.failed().cmp(&a.failed()),
            };
            by.then_with(|| a.address.cmp(&b.address))
        });
        endpoints
    }

    pub(super) fn endpoint_index(&self) -> Option<usize> {
        self.endpoints().iter().position(|e| Some(&e.address) == self.endpoint.as_ref())
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if control => return Wish::Quit,
            _ if self.help => self.help = false,
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Tab | KeyCode::BackTab => {
                self.focus = if self.focus == Focus::Services { Focus::Endpoints } else { Focus::Services };
            }
            KeyCode::Enter => self.focus = Focus::Endpoints,
            KeyCode::Down | KeyCode::Char('j') => return self.step(1),
            KeyCode::Up | KeyCode::Char('k') => return self.step(-1),
            KeyCode::PageDown => return self.step(10),
            KeyCode::PageUp => return self.step(-10),
            KeyCode::Home | KeyCode::Char('g') => return self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => return self.step(isize::MAX),
            _ => {}
        }
        Wish::None
    }

    /// Moves the selection of the list in focus; it stops at the ends.
    fn step(&mut self, by: isize) -> Wish {
        let moved = |index: Option<usize>, len: usize| {
            Some(index.unwrap_or(0).saturating_add_signed(by).min(len.checked_sub(1)?))
        };
        match self.focus {
            Focus::Services => {
                let to = moved(self.service_index(), self.moment.services.len());
                let name = to.map(|i| self.moment.services[i].name.clone());
                if name == self.service {
                    return Wish::None;
                }
                (self.service, self.endpoint) = (name, None);
                self.settle();
                Wish::Follow
            }
            Focus::Endpoints => {
                let endpoints = self.endpoints();
                let to = moved(self.endpoint_index(), endpoints.len());
                self.endpoint = to.map(|i| endpoints[i].address.clone());
                Wish::None
            }
        }
    }
}

/// Share ÷ fair share above which something is hot.
pub(super) const HOT: f64 = 1.10;
