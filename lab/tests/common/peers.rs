//! Servers and clients by other people, as processes of their own.

use super::pki::Files;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Is the program there? `cargo xtask test` installs what is missing and lets nothing be skipped;
/// `cargo test` alone passes over what a machine does not have, and says so.
pub fn have(programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let missing: Vec<_> =
        programs.iter().filter(|p| !path.split(':').any(|d| Path::new(d).join(p).is_file())).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("EVENKEEL_REQUIRE_PEERS").is_none(), "{missing:?} must be installed");
    eprintln!("skipped: {missing:?} is not installed");
    false
}

/// A Python with the packages that the tests need, if `cargo xtask install` made one.
pub fn python() -> Option<PathBuf> {
    let python = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/venv/bin/python"));
    if python.exists() {
        return Some(python);
    }
    assert!(std::env::var_os("EVENKEEL_REQUIRE_PEERS").is_none(), "{} must exist", python.display());
    eprintln!("skipped: cargo xtask install makes the Python environment that this test needs");
    None
}

/// Where `cargo xtask install` puts packages of Node.
pub fn node_modules() -> PathBuf {
    let modules = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/node/node_modules"));
    assert!(modules.join("ws").exists(), "{} must exist: cargo xtask install makes it", modules.display());
    modules
}

/// A program that `cargo xtask interop` built with the Go tool chain, if it did.
pub fn go(program: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/go/bin")).join(program);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("EVENKEEL_REQUIRE_PEERS").is_none(), "{} must exist", path.display());
    eprintln!("skipped: {} is not there, cargo xtask interop makes it", path.display());
    None
}

/// Where `cargo xtask interop` put the jars of grpc-java, if it did: as a class path.
pub fn jars() -> Option<String> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/java"));
    if path.exists() {
        return Some(format!("{}/*", path.display()));
    }
    assert!(std::env::var_os("EVENKEEL_REQUIRE_PEERS").is_none(), "{} must exist", path.display());
    eprintln!("skipped: {} is not there, cargo xtask interop makes it", path.display());
    None
}

/// A directory of the test's own.
pub fn directory(name: &str) -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Relaxed);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id()));
    fs::create_dir_all(&path).expect("a directory");
    path
}

/// A port that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// A process that ends with the test.
pub struct Process {
    child: Child,
    directory: PathBuf,
}

impl Process {
    pub fn start(command: &mut Command, directory: PathBuf) -> Self {
        let log = fs::File::create(directory.join("log")).expect("a log");
        let errors = log.try_clone().expect("a second handle");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        Self { child: child.unwrap_or_else(|e| panic!("{command:?}: {e}")), directory }
    }

    /// Waits until somebody listens.
    pub fn listening(self, addr: SocketAddr) -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(addr).is_err() {
            let log = || fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "nobody listens on {addr}: {}", log());
            std::thread::yield_now();
        }
        self
    }

    /// The same without connecting to it: until the kernel knows a listening socket there.
    pub fn bound(self, addr: SocketAddr) -> Self {
        let listens = format!(":{:04X} 00000000:0000 0A ", addr.port());
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fs::read_to_string("/proc/net/tcp").expect("Linux").contains(&listens) {
            let log = || fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "nobody listens on {addr}: {}", log());
            std::thread::yield_now();
        }
        self
    }

    /// Asks it to end: SIGTERM.
    pub fn terminate(&self) {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(asked.is_ok_and(|status| status.success()), "it runs");
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) {
        self.child.wait().expect("it ends");
    }

    /// Ends it without a word to anybody: SIGKILL.
    pub fn kill(&mut self) {
        // Fails only if it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _removed = fs::remove_dir_all(&self.directory);
    }
}

/// nginx serving one small page, and its own count of requests.
pub struct Nginx {
    pub addr: SocketAddr,
    pub process: Process,
}

impl Nginx {
    pub fn start() -> Self {
        Self::at(free_port())
    }

    pub fn at(port: u16) -> Self {
        Self::with(port, "", "")
    }

    /// Over TLS, with HTTP/2 or without; its pages say in `x-protocol` what they were asked in.
    pub fn tls(files: &Files, http2: bool) -> Self {
        let options = if http2 { "ssl http2" } else { "ssl" };
        let (cert, key) = (files.cert.display(), files.key.display());
        let more = format!(
            "ssl_certificate {cert}; ssl_certificate_key {key}; add_header X-Protocol $server_protocol always;"
        );
        Self::with(free_port(), options, &more)
    }

    /// One that speaks HTTP/2 without TLS, and nothing else.
    pub fn http2() -> Self {
        Self::with(free_port(), "http2", "")
    }

    fn with(port: u16, options: &str, more: &str) -> Self {
        let home = directory("nginx");
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        fs::write(home.join("page"), "a page of nginx\n").expect("written");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};\n", home.display()))
            .concat();
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; {temporary} keepalive_requests 1000000; client_max_body_size 0;\n\
             server {{ listen {addr} backlog=4096 {options}; {more} root {home}; add_header X-Port {port} always;\n\
             location /put/ {{ dav_methods PUT; create_full_put_path on; }} location /status {{ stub_status; }} location /nothing {{ return 204; }} }} }}\n",
            home = home.display()
        );
        let file = home.join("nginx.conf");
        fs::write(&file, config).expect("written");
        let mut command = Command::new("nginx");
        command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin");
        command.arg("-p").arg(&home).arg("-c").arg(&file).arg("-e").arg(home.join("error.log"));
        Self { addr, process: Process::start(&mut command, home).listening(addr) }
    }

    /// Where its pages are, and what is put under `/put/`.
    pub fn home(&self) -> &Path {
        &self.process.directory
    }

    /// Requests that nginx counted, those of this question included.
    pub fn requests(&self) -> u64 {
        let mut stream = super::connect(self.addr);
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
        let page = super::read_all(&mut stream);
        let line = page.lines().skip_while(|l| !l.starts_with("server accepts")).nth(1);
        let number = line.and_then(|l| l.split_whitespace().nth(2)).and_then(|n| n.parse().ok());
        number.unwrap_or_else(|| panic!("no count in {page:?}"))
    }
}

/// nghttpd serving a small page and a large one.
pub fn nghttpd(arguments: &[&str]) -> (SocketAddr, Process) {
    nghttpd_with(&[&["--no-tls"], arguments].concat(), &[])
}

/// The same as it is told: with TLS if the files are a key and a certificate.
pub fn nghttpd_with(arguments: &[&str], files: &[&str]) -> (SocketAddr, Process) {
    let home = directory("nghttpd");
    fs::write(home.join("page"), "a page of nghttpd\n").expect("written");
    fs::write(home.join("large"), "x".repeat(1 << 20)).expect("written");
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Command::new("nghttpd");
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin");
    command.args(["--address", "127.0.0.1", "-d"]).arg(&home).args(arguments).arg(addr.port().to_string()).args(files);
    (addr, Process::start(&mut command, home).listening(addr))
}

/// A server by other people that passes requests and WebSockets on to another: `nginx` or `haproxy`.
pub struct Relay {
    pub addr: SocketAddr,
    _process: Process,
}

impl Relay {
    /// Reads whole requests before it passes them on.
    pub fn start(program: &str, to: SocketAddr) -> Self {
        let home = directory(program);
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (file, config) = (home.join("config"), Self::config(program, addr, to, &home));
        fs::write(&file, config).expect("written");
        let mut command = Command::new(program);
        command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin");
        match program {
            "nginx" => command.arg("-p").arg(&home).arg("-c").arg(&file).arg("-e").arg(home.join("error.log")),
            _ => command.arg("-f").arg(&file),
        };
        Self { addr, _process: Process::start(&mut command, home).listening(addr) }
    }

    fn config(program: &str, addr: SocketAddr, to: SocketAddr, home: &Path) -> String {
        if program == "haproxy" {
            return format!(
                "global\n maxconn 4000\ndefaults\n mode http\n option http-buffer-request\n timeout connect 20s\n \
                 timeout client 1h\n timeout server 1h\n timeout tunnel 1h\nlisten all\n bind {addr}\n server one {to}\n"
            );
        }
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};\n", home.display()))
            .concat();
        format!(
            "daemon off; master_process off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; {temporary} keepalive_requests 1000000; client_max_body_size 0;\n\
             map $http_upgrade $option {{ default upgrade; '' ''; }}\n\
             server {{ listen {addr} backlog=4096; location / {{ proxy_pass http://{to}; proxy_http_version 1.1;\n\
             proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection $option; proxy_read_timeout 1h; proxy_send_timeout 1h; }} }} }}\n",
            home = home.display()
        )
    }
}

/// What wrk saw.
#[derive(Debug)]
pub struct Load {
    pub requests: u64,
    /// Answers other than 2xx and 3xx, and broken or refused connections.
    pub failures: u64,
    /// Of these, requests that had no good answer. (wrk counts a refused connection as a failed write.)
    pub unanswered: u64,
    pub said: String,
}

/// wrk on its way; [`Wrk::done`] waits for it.
pub struct Wrk(Child);

impl Wrk {
    pub fn start(addr: SocketAddr, connections: usize, seconds: u64) -> Self {
        Self::to(&format!("http://{addr}/page"), connections, seconds)
    }

    pub fn to(url: &str, connections: usize, seconds: u64) -> Self {
        let mut command = Command::new("wrk");
        command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--timeout", "10s"]);
        let child = command.arg(url).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self(child.expect("wrk starts"))
    }

    pub fn running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Interrupts it: what it saw up to now.
    pub fn stop(mut self) -> Load {
        assert!(self.running(), "wrk ran all the time");
        let interrupt = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        assert!(interrupt.is_ok_and(|status| status.success()), "wrk can be interrupted");
        self.done()
    }

    pub fn done(self) -> Load {
        let out = self.0.wait_with_output().expect("wrk ends");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let requests = said.lines().find_map(|l| l.trim().split_once(" requests in")?.0.parse().ok());
        let numbers =
            |line: &str| line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
        let failures = said
            .lines()
            .filter(|l| l.contains("Socket errors") || l.contains("Non-2xx"))
            // "Non-2xx or 3xx responses: 7": the digits of the words do not count.
            .map(|l| numbers(l.split_once(':').map_or(l, |(_, counts)| counts)))
            .sum();
        // "Socket errors: connect 3, read 0, write 0, timeout 0".
        let errors = said.lines().find(|l| l.contains("Socket errors")).unwrap_or_default();
        let connecting = errors.split(',').filter(|part| part.contains("connect") || part.contains("write"));
        let unanswered = failures - connecting.map(numbers).sum::<u64>();
        Load { requests: requests.unwrap_or_else(|| panic!("wrk said {said:?}")), failures, unanswered, said }
    }
}

/// A `file://` target that the test rewrites, as a ConfigMap or a controller would: by renaming over it.
pub struct Catalog {
    path: PathBuf,
}

impl Catalog {
    pub fn new(endpoints: &[SocketAddr]) -> Self {
        let catalog = Self { path: directory("catalog").join("endpoints.json") };
        catalog.set(endpoints);
        catalog
    }

    pub fn set(&self, endpoints: &[SocketAddr]) {
        self.set_as_written(endpoints);
    }

    /// The same, with what stands behind an address: `10.0.0.1:80;weight=2`.
    pub fn set_as_written(&self, endpoints: &[impl std::fmt::Display]) {
        let list: Vec<String> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
        let new = self.path.with_extension("new");
        fs::write(&new, format!("[{}]\n", list.join(", "))).expect("written");
        fs::rename(&new, &self.path).expect("renamed");
    }

    pub fn target(&self) -> String {
        format!("file://{}", self.path.display())
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        if let Some(directory) = self.path.parent() {
            let _removed = fs::remove_dir_all(directory);
        }
    }
}
