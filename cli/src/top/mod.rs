//! `evenkeel top`: what the dashboard shows, in a terminal.
//!
//! One task follows `/api/v1/live` and comes back when it is lost; one thread waits for keys; the loop
//! draws what they say. The terminal is given back on every way out: by the loop, and by the panic hook
//! that ratatui sets.

mod moment;
mod state;
#[cfg(test)]
mod tests;
mod view;

use self::moment::Moment;
use self::state::{State, Wish};
use self::view::Theme;
use crate::admin::{Admin, Error};
use crate::why::shown;
use crate::{FAILED, Output, fail, print};
use crossterm::event::{self, Event, KeyEventKind};
use evenkeel_proxy::format::encoded;
use ratatui::DefaultTerminal;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Endpoints of the selected service: as many as the API gives.
const ENDPOINTS: usize = 1000;
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Exit code after SIGTERM: 128 + 15, as a shell expects.
const TERMINATED: u8 = 143;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  evenkeel top                                  watch; ? shows the keys
  evenkeel top --service catalog                begin with this service
  evenkeel top --admin 10.0.0.7:15090           another evenkeel
  evenkeel top --once                           one table, then exit
  evenkeel top --output json | jq .services     every figure, once

Exit codes: 0 shown, 1 no evenkeel at that address or no such service.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    admin: Admin,
    /// The service that is selected at first; with --once the only one that is shown
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Print one table and exit; so it is if standard output is no terminal
    #[arg(long)]
    once: bool,
    /// How it is shown; json is printed once
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), FAILED),
    };
    let once = arguments.once || arguments.output == Output::Json || !io::stdout().is_terminal();
    let shown_once = runtime.block_on(async {
        // Says whether the service exists, and what may have been meant.
        if let Some(service) = &arguments.service {
            arguments.admin.get(&format!("/api/v1/services/{}", encoded(service))).await?;
        }
        let value = arguments.admin.follow(&path(arguments.service.as_deref())).await?.next().await?;
        Ok::<_, Error>(value)
    });
    let mut value = match shown_once {
        Ok(value) => value,
        Err(error) => return fail(&shown(&error.to_string()), FAILED),
    };
    if once && let (Some(wanted), Some(services)) = (&arguments.service, value["services"].as_array_mut()) {
        services.retain(|service| service["name"] == wanted.as_str());
    }
    if arguments.output == Output::Json {
        return print(format!("{value:#}\n").as_bytes());
    }
    let moment: Moment = match serde_json::from_value(value) {
        Ok(moment) => moment,
        Err(error) => return fail(&format!("that evenkeel is of another version: {error}"), FAILED),
    };
    if once {
        return print(view::plain(&moment).as_bytes());
    }
    let mut terminal = match ratatui::try_init() {
        Ok(terminal) => terminal,
        Err(error) => return fail(&format!("cannot use this terminal: {error}: --once prints a table"), FAILED),
    };
    let state = State::new(moment, arguments.service);
    let outcome = runtime.block_on(watch(&mut terminal, arguments.admin, state));
    ratatui::restore();
    // The thread that waits for keys never ends by itself.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => fail(&format!("cannot draw: {error}"), FAILED),
    }
}

/// Where moments come from, with the endpoints of this service.
fn path(service: Option<&str>) -> String {
    let service = service.map(|name| format!("service={}&", encoded(name))).unwrap_or_default();
    format!("/api/v1/live?{service}endpoints={ENDPOINTS}")
}

/// Draws until the reader leaves.
async fn watch(terminal: &mut DefaultTerminal, admin: Admin, mut state: State) -> io::Result<ExitCode> {
    // https://no-color.org: present and not empty.
    let theme = Theme { colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut keys = keys()?;
    let mut news = News::follow(&admin, state.service.as_deref());
    loop {
        terminal.draw(|frame| view::draw(frame, &state, theme))?;
        tokio::select! {
            told = news.told.recv() => match told {
                Some(Ok(moment)) => state.becomes(*moment),
                Some(Err(error)) => {
                    let since = state.lost.take().map_or_else(unix_ms, |(since, _)| since);
                    state.lost = Some((since, error));
                }
                // It panicked, and its last words are on the screen.
                None => return Ok(ExitCode::from(FAILED)),
            },
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind == KeyEventKind::Press => match state.key(key) {
                    Wish::Quit => return Ok(ExitCode::SUCCESS),
                    Wish::Follow => news = News::follow(&admin, state.service.as_deref()),
                    Wish::None => {}
                },
                Some(_) => {}
                // The terminal is gone.
                None => return Ok(ExitCode::from(FAILED)),
            },
            _ = terminate.recv() => return Ok(ExitCode::from(TERMINATED)),
            _ = hangup.recv() => return Ok(ExitCode::from(FAILED)),
        }
    }
}

/// What the terminal sends. Reading it blocks, so it has a thread, which goes with the process.
fn keys() -> io::Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(64);
    std::thread::Builder::new().name("keys".into()).spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Moments as they come, or why they do not.
#[derive(Debug)]
struct News {
    told: mpsc::Receiver<Result<Box<Moment>, String>>,
    task: JoinHandle<()>,
}

impl News {
    /// Follows until it is dropped, however often that fails.
    fn follow(admin: &Admin, service: Option<&str>) -> Self {
        let (tell, told) = mpsc::channel(1);
        let (admin, path) = (admin.clone(), path(service));
        let task = tokio::spawn(async move {
            loop {
                let Err(error) = pass_on(&admin, &path, &tell).await else { return };
                if tell.send(Err(error)).await.is_err() {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
        Self { told, task }
    }
}

impl Drop for News {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes moments on until there are no more, or nobody wants them (`Ok`).
async fn pass_on(admin: &Admin, path: &str, tell: &mpsc::Sender<Result<Box<Moment>, String>>) -> Result<(), String> {
    let reason = |error: Error| match error {
        Error::Unreachable { error, .. } => error,
        refused @ Error::Refused { .. } => refused.to_string(),
    };
    let mut moments = admin.follow(path).await.map_err(reason)?;
    loop {
        let value = moments.next().await.map_err(reason)?;
        let moment = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if tell.send(Ok(Box::new(moment))).await.is_err() {
            return Ok(());
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
