//! A real browser: headless Chromium, driven by its DevTools protocol over a WebSocket.

use super::PATIENCE;
use super::peers::{Process, directory};
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

/// One tab of a Chromium of its own.
pub struct Tab {
    socket: WebSocket<TcpStream>,
    session: Value,
    next: u64,
    /// What the page complained about: errors of scripts, refused resources.
    complaints: Vec<String>,
    _process: Process,
}

impl Tab {
    pub fn open() -> Self {
        let home = directory("chromium");
        let ready = home.join("DevToolsActivePort");
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]);
        command.args(["--no-first-run", "--remote-debugging-port=0"]);
        let process = Process::start(command.arg(format!("--user-data-dir={}", home.display())), home);
        let mut told = String::new();
        super::eventually("the browser listens", || {
            told = fs::read_to_string(&ready).unwrap_or_default();
            told.lines().count() == 2
        });
        let (port, path) = told.split_once('\n').expect("a port and a path");
        let addr = SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port")));
        let stream = TcpStream::connect(addr).expect("the browser listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (socket, _) = tungstenite::client(format!("ws://{addr}{}", path.trim()), stream).expect("a WebSocket");
        let mut tab = Self { socket, session: Value::Null, next: 0, complaints: Vec::new(), _process: process };
        let target = tab.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].take();
        let attached = tab.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        tab.session = attached["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log"] {
            tab.call(&format!("{domain}.enable"), json!({}));
        }
        tab
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut call = json!({"id": self.next, "method": method, "params": parameters});
        if self.session.is_string() {
            call["sessionId"] = self.session.clone();
        }
        self.socket.send(Message::text(call.to_string())).expect("sent");
        loop {
            let message = self.socket.read().unwrap_or_else(|e| panic!("{method}: {e}"));
            let Ok(text) = message.into_text() else { continue };
            let mut message: Value = serde_json::from_str(&text).expect("JSON");
            match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => self.complaints.push(message["params"].to_string()),
                Some("Log.entryAdded") if message["params"]["entry"]["level"] == "error" => {
                    self.complaints.push(message["params"]["entry"].to_string());
                }
                Some(_) => {}
                None if message["id"] == self.next => {
                    assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                    return message["result"].take();
                }
                None => {}
            }
        }
    }

    /// How large the window is, and which colours its reader prefers.
    pub fn looks(&mut self, width: u32, height: u32, scheme: &str) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// Whether pages may run scripts, from the next one on.
    pub fn scripts(&mut self, allowed: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": !allowed}));
    }

    pub fn go(&mut self, url: &str) {
        let gone = self.call("Page.navigate", json!({"url": url}));
        assert!(gone["errorText"].is_null(), "{gone}");
        super::eventually("the page is there", || {
            self.ask("document.readyState + ' ' + location.href") == format!("complete {url}").as_str()
        });
    }

    /// The value of an expression in the page.
    pub fn ask(&mut self, expression: &str) -> Value {
        let mut answer = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) {
        let mut last = Value::Null;
        let deadline = std::time::Instant::now() + PATIENCE;
        while last != true {
            assert!(std::time::Instant::now() < deadline, "never true: {expression}, in {}", self.text());
            last = self.ask(expression);
        }
    }

    /// The text of the page, as its reader sees it.
    pub fn text(&mut self) -> String {
        self.ask("document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// A picture of the whole page, kept under `target/dashboard` for people to look at: its pixels as
    /// red, green, blue.
    pub fn picture(&mut self, name: &str) -> Vec<[u8; 3]> {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        let data = data_encoding::BASE64.decode(shot["data"].as_str().expect("data").as_bytes()).expect("base64");
        let kept = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/dashboard"));
        fs::create_dir_all(&kept).expect("a directory");
        fs::write(kept.join(format!("{name}.png")), &data).expect("written");
        let mut reader = png::Decoder::new(std::io::Cursor::new(data)).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("it fits")];
        let info = reader.next_frame(&mut pixels).expect("a picture");
        let step = info.color_type.samples();
        pixels[..info.buffer_size()].chunks_exact(step).map(|p| [p[0], p[1], p[2]]).collect()
    }

    /// What the pages complained about so far.
    pub fn complaints(&mut self) -> Vec<String> {
        // Complaints come before the answer to what is asked after them.
        self.ask("0");
        std::mem::take(&mut self.complaints)
    }
}
