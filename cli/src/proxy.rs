//! `evenkeel proxy`: serve until told to stop.

use crate::logging::{self, Format, Level};
use crate::{BAD_CONFIG, FAILED, USAGE, check, fail};
use evenkeel_proxy::config::{self, AccessLog, Config, Policy, Protocol, Service};
use evenkeel_proxy::{Running, start};
use evenkeel_upstream::discover::file::Watch;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  evenkeel proxy --listen 127.0.0.1:8080 --to 10.0.0.1:80,10.0.0.2:80
  evenkeel proxy --listen 127.0.0.1:8080 --to dns://catalog.shop.svc:8080 --policy least-request
  evenkeel proxy --listen 127.0.0.1:6379 --to 10.0.0.1:6379,10.0.0.2:6379 --protocol tcp
  evenkeel proxy -c evenkeel.yaml --access-log json

SIGHUP, or a changed FILE: the configuration is read again; what did not change is not touched.
SIGTERM: /readyz turns, after drain.delay listeners close, requests finish, clients are told to go within
drain.grace; a second one cuts. Ctrl-C is the same without the delay.")]
pub(crate) struct Arguments {
    /// A configuration file with any number of services
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["listen", "to", "protocol", "policy"])]
    config: Option<PathBuf>,
    /// Where clients connect: IP:PORT, or unix:///path (repeat with --to for several services)
    #[arg(long, value_name = "ADDRESS", required_unless_present = "config")]
    listen: Vec<String>,
    /// Where the endpoints come from: a list of addresses, file://, dns:// or srv://
    #[arg(long, value_name = "TARGET", required_unless_present = "config")]
    to: Vec<String>,
    /// What clients speak: auto, http, http1, http2, grpc, websocket or tcp
    #[arg(long)]
    protocol: Option<String>,
    /// Who gets the next request: peak-ewma, least-request, round-robin, weighted, least-session,
    /// ring-hash, maglev, random [default: peak-ewma for requests, least-session for sessions]
    #[arg(long)]
    policy: Option<String>,
    /// Where the admin API listens, or off [default: 127.0.0.1:15090]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Threads that move bytes: auto, or a number
    #[arg(long)]
    workers: Option<String>,
    /// What this evenkeel calls itself
    #[arg(long)]
    name: Option<String>,
    /// One line a request on standard output
    #[arg(long, value_enum, value_name = "FORMAT")]
    access_log: Option<Format>,
    /// How logs look
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,
    /// How much is logged
    #[arg(long, value_enum, default_value_t = Level::Info)]
    log_level: Level,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    if let Err(error) = logging::start(arguments.log_format, arguments.log_level) {
        return fail(&format!("cannot start logging: {error}"), FAILED);
    }
    // Before it is read: what is written to the file after that is a change.
    let source = arguments.config.as_deref().map(Source::new);
    let config = match &arguments.config {
        Some(file) => match config::load(file) {
            Ok(config) => config,
            Err(problems) => {
                check::explain(&problems);
                return ExitCode::from(BAD_CONFIG);
            }
        },
        None => match from_flags(&arguments) {
            Ok(config) => config,
            Err(error) => return fail(&error, USAGE),
        },
    };
    let config = match overridden(config, &arguments) {
        Ok(config) => config,
        Err(error) => return fail(&error, USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), FAILED),
    };
    runtime.block_on(serve(config, source, arguments))
}

fn from_flags(arguments: &Arguments) -> Result<Config, String> {
    if arguments.listen.len() != arguments.to.len() {
        let (listen, to) = (arguments.listen.len(), arguments.to.len());
        return Err(format!("{listen} --listen but {to} --to: they come in pairs"));
    }
    let mut config = Config { admin: config::DEFAULT_ADMIN.parse().ok(), ..Config::new() };
    for (i, (listen, to)) in arguments.listen.iter().zip(&arguments.to).enumerate() {
        let listen = listen.parse().map_err(|error| format!("--listen {listen}: {error}"))?;
        let target = to.parse().map_err(|error| format!("--to {to}: {error}"))?;
        let name = if i == 0 { "default".into() } else { format!("default-{}", i + 1) };
        let mut service = Service::new(name, vec![listen], vec![target]);
        if let Some(protocol) = &arguments.protocol {
            service.protocol = match protocol.as_str() {
                "auto" => Protocol::Auto,
                "http" | "websocket" => Protocol::Http,
                "http1" => Protocol::Http1,
                "http2" | "grpc" => Protocol::Http2,
                "tcp" => Protocol::Tcp,
                other => {
                    return Err(format!(
                        "--protocol {other}: expected auto, http, http1, http2, grpc, websocket or tcp"
                    ));
                }
            };
        }
        if let Some(name) = &arguments.policy {
            let names = || Policy::ALL.map(Policy::as_str).join(", ");
            let policy = config::policy(name).ok_or_else(|| format!("--policy {name}: expected one of {}", names()))?;
            (service.balance.core.turn_policy, service.balance.core.session_policy) = (policy, policy);
        }
        config.services.push(service);
    }
    Ok(config)
}

/// Flags that also go with a file.
fn overridden(mut config: Config, arguments: &Arguments) -> Result<Config, String> {
    if let Some(admin) = &arguments.admin {
        config.admin = match admin.as_str() {
            "off" => None,
            address => Some(address.parse().map_err(|_| format!("--admin {address}: expected IP:PORT, or off"))?),
        };
    }
    if let Some(workers) = &arguments.workers {
        config.workers = match workers.as_str() {
            "auto" => None,
            number => match number.parse() {
                Ok(n @ 1..=256) => Some(n),
                _ => return Err(format!("--workers {number}: expected auto, or a number from 1 to 256")),
            },
        };
    }
    if let Some(name) = &arguments.name {
        config.name.clone_from(name);
    }
    if let Some(format) = arguments.access_log {
        config.access_log = Some(if format == Format::Json { AccessLog::Json } else { AccessLog::Text });
    }
    Ok(config)
}

async fn serve(config: Config, mut source: Option<Source>, arguments: Arguments) -> ExitCode {
    let signals = || {
        Ok::<_, std::io::Error>((
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ))
    };
    let (mut terminate, mut interrupt, mut hangup) = match signals() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot listen to signals: {error}"), FAILED),
    };
    let running = match start(config) {
        Ok(running) => running,
        Err(error) => return fail(&error.to_string(), FAILED),
    };
    for (service, addresses) in &running.listening {
        for address in addresses {
            info!(%service, %address, "listening");
        }
    }
    if let Some(source) = &source {
        running.note_file(&source.path.display().to_string());
    }
    let delays = loop {
        tokio::select! {
            _ = terminate.recv() => break true,
            // Nobody sends clients to somebody's terminal by what /readyz says.
            _ = interrupt.recv() => break false,
            _ = hangup.recv() => match &mut source {
                Some(source) => source.reload(&running, &arguments, true).await,
                None => warn!("SIGHUP: the configuration is on the command line; there is no file to read again"),
            },
            () = changed(&mut source) => {
                if let Some(source) = &mut source {
                    source.reload(&running, &arguments, false).await;
                }
            }
        }
    };
    leave(running, delays, terminate, interrupt).await
}

async fn changed(source: &mut Option<Source>) {
    match source {
        Some(source) => source.watch.changed().await,
        None => std::future::pending().await,
    }
}

/// The file that the configuration came from.
struct Source {
    path: PathBuf,
    watch: Watch,
    /// What it said when it was last looked at.
    text: Option<Vec<u8>>,
}

impl Source {
    fn new(path: &Path) -> Self {
        Self { path: path.into(), watch: Watch::new(path), text: std::fs::read(path).ok() }
    }

    /// Reads the file again: if it says something else, or if an operator asks for it.
    async fn reload(&mut self, running: &Running, arguments: &Arguments, asked: bool) {
        let text = std::fs::read(&self.path).ok();
        if std::mem::replace(&mut self.text, text) == self.text && !asked {
            return;
        }
        let config = config::load(&self.path).map_err(|problems| problems.to_string());
        let applied = match config.and_then(|config| overridden(config, arguments)) {
            Ok(config) => running.reload(config).await.map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        match applied {
            Ok(changes) if changes.is_empty() => info!("configuration read again: nothing changed"),
            Ok(changes) => info!(changes = changes.join("; "), "configuration read again"),
            Err(error) => {
                running.reload_failed(error.trim_end());
                for line in error.lines().filter(|line| !line.is_empty()) {
                    error!("the configuration that runs stays: {line}");
                }
            }
        }
    }
}

/// Lets it be known, then finishes what there is, all within the grace; a second signal cuts.
async fn leave(mut running: Running, delays: bool, mut terminate: Signal, mut interrupt: Signal) -> ExitCode {
    let delay = if delays { running.drain_delay() } else { Duration::ZERO };
    running.retire();
    let deadline = tokio::time::Instant::now() + running.grace_left();
    if !delay.is_zero() {
        info!(?delay, "leaving: /readyz says so; clients are accepted for a while yet");
    }
    let cut = tokio::select! {
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        () = tokio::time::sleep(delay) => false,
    };
    if cut {
        warn!("second signal: cutting everything");
        running.cut();
        return ExitCode::SUCCESS;
    }
    info!(grace = ?running.grace_left(), "draining: finishing what there is; a second signal cuts");
    running.drain();
    let step = Duration::from_millis(20);
    loop {
        if running.wait(Duration::ZERO) {
            info!("drained");
            break;
        }
        tokio::select! {
            _ = terminate.recv() => break warn!("second signal: cutting what is left"),
            _ = interrupt.recv() => break warn!("second signal: cutting what is left"),
            () = tokio::time::sleep_until(deadline) => break warn!("the grace is over: cutting what is left"),
            () = tokio::time::sleep(step) => {}
        }
    }
    running.cut();
    ExitCode::SUCCESS
}
