//! The program `evenkeel` as a process of its own: for what concerns signals, its log and its memory.

use super::peers::{directory, free_port};
use super::{PATIENCE, connect, eventually, read_all, status};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

/// The program as it is in the source now.
pub fn binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // What cargo says of this test is none of the other package's business, and would make it build anew.
        for (name, _) in std::env::vars() {
            if name.starts_with("CARGO_PKG") || name.starts_with("CARGO_MANIFEST") {
                cargo.env_remove(name);
            }
        }
        cargo.current_dir(root).args(["build", "--quiet", "--jobs", "2", "--package", "evenkeel"]);
        assert!(cargo.status().expect("cargo runs").success(), "evenkeel is built");
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("../debug/evenkeel")
    })
}

/// A running `evenkeel proxy` with a configuration file.
pub struct Program {
    child: Child,
    pub admin: SocketAddr,
    directory: PathBuf,
}

impl Program {
    /// Starts it, with this after the line that says where the admin API is, and waits until it is ready.
    pub fn start(config: &str) -> Self {
        Self::under(&[], config)
    }

    /// The same, run by a program that becomes it: one that sets limits, or one that watches from outside.
    pub fn under(runner: &[&str], config: &str) -> Self {
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let directory = directory("program");
        let program = Self { child: Self::spawn(&directory, admin, runner, config), admin, directory };
        program.wait_ready();
        program
    }

    fn spawn(directory: &Path, admin: SocketAddr, runner: &[&str], config: &str) -> Child {
        write(directory, &with_admin(admin, config));
        let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).expect("a log");
        let mut command = Command::new(runner.first().map_or(binary(), Path::new));
        command.args(runner.get(1..).unwrap_or_default());
        if !runner.is_empty() {
            command.arg(binary());
        }
        command.args(["proxy", "--log-format", "json", "-c"]).arg(directory.join("evenkeel.yaml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it runs")
    }

    fn wait_ready(&self) {
        // Nobody may be listening yet.
        let is_ready = || std::net::TcpStream::connect(self.admin).is_ok() && self.ready() == 200;
        eventually("evenkeel is ready", is_ready);
    }

    /// Kills it without a word to anybody, and starts another one in its place.
    pub fn replace(&mut self, config: &str) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        self.child = Self::spawn(&self.directory, self.admin, &[], config);
    }

    /// Writes another configuration over the one that it reads, as editors and ConfigMaps do.
    pub fn rewrite(&self, config: &str) {
        write(&self.directory, &with_admin(self.admin, config));
    }

    /// The same, and waits until it runs.
    pub fn becomes(&self, config: &str) {
        let before = self.generation();
        self.rewrite(config);
        eventually("the configuration runs", || self.generation() > before);
        assert_eq!(self.config()["error"], Value::Null);
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).expect("a log")
    }

    /// What the admin API answers.
    pub fn ask(&self, method: &str, path: &str) -> String {
        let mut client = connect(self.admin);
        let request = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).expect("sent");
        read_all(&mut client)
    }

    fn json(&self, path: &str) -> Value {
        let answer = self.ask("GET", path);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e} in {answer:?}"))
    }

    /// A service as the admin API describes it.
    pub fn service(&self, name: &str) -> Value {
        self.json(&format!("/api/v1/services/{name}"))
    }

    /// How reading the configuration went.
    pub fn config(&self) -> Value {
        self.json("/api/v1/config")
    }

    pub fn generation(&self) -> u64 {
        self.config()["generation"].as_u64().expect("a number")
    }

    /// The value of a metric, with its labels as they are written.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.ask("GET", "/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    /// The status of /readyz.
    pub fn ready(&self) -> u16 {
        status(&self.ask("GET", "/readyz"))
    }

    /// Resident memory in bytes, as `ps` shows it.
    pub fn memory(&self) -> u64 {
        self.resident("VmRSS:")
    }

    /// Resident memory in bytes that is no part of a file: heap, stacks, data.
    pub fn own_memory(&self) -> u64 {
        self.resident("RssAnon:")
    }

    fn resident(&self, which: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("Linux");
        let line = status.lines().find_map(|l| l.strip_prefix(which)).expect("a figure");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// Has it ended, and how?
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits until it ends by itself; its exit code.
    pub fn exit(mut self) -> i32 {
        let deadline = Instant::now() + 3 * PATIENCE;
        let status = loop {
            match self.ended() {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "it does not end: {}", self.log()),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert_eq!(status.signal(), None, "{}", self.log());
        assert!(!self.log().contains("panicked"), "{}", self.log());
        status.code().expect("it exits")
    }
}

fn with_admin(admin: SocketAddr, config: &str) -> String {
    format!("admin: {admin}\n{config}")
}

fn write(directory: &Path, config: &str) {
    let new = directory.join("evenkeel.new");
    fs::write(&new, config).expect("written");
    fs::rename(new, directory.join("evenkeel.yaml")).expect("renamed");
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        let _removed = fs::remove_dir_all(&self.directory);
    }
}
