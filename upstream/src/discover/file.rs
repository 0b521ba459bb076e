//! Endpoints from a file: a list, or EndpointSlice manifests, watched.
//!
//! The *directory* is watched, so that a file that is replaced by a rename, or swapped by a symbolic
//! link as Kubernetes does with mounted ConfigMaps, is seen. A slow poll catches what a watch misses
//! (network file systems).

use super::Sink;
use crate::target::{self, BadTarget};
use crate::yaml::{self, Node, Value};
use evenkeel_core::endpoint::{EndpointSpec, Readiness};
use notify::{RecursiveMode, Watcher};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Writers often take several steps: wait for the last of them.
const SETTLE: Duration = Duration::from_millis(20);
/// How often the file is looked at without an event.
const POLL: Duration = Duration::from_secs(5);

/// A file that may change.
#[derive(Debug)]
pub struct Watch {
    directory: PathBuf,
    watcher: Option<notify::RecommendedWatcher>,
    watching: bool,
    changed: mpsc::Receiver<()>,
}

impl Watch {
    /// Watches the file, whether it exists or not.
    pub fn new(path: &Path) -> Self {
        let (events, changed) = mpsc::channel(1);
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| event.kind.is_access()) {
                // Perhaps our own.
                return;
            }
            // One waiting event is enough: the file is read as it is then.
            let _pending = events.try_send(());
        });
        let mut watch = Self { directory, watcher: watcher.ok(), watching: false, changed };
        watch.begin();
        watch
    }

    fn begin(&mut self) {
        if !self.watching
            && let Some(watcher) = &mut self.watcher
        {
            // Again with every poll until the directory exists.
            self.watching = watcher.watch(&self.directory, RecursiveMode::NonRecursive).is_ok();
        }
    }

    /// Waits until the file may have changed; it is worth looking at it then. Cancelling loses nothing.
    pub async fn changed(&mut self) {
        self.begin();
        // A poll that finds nothing new costs one read.
        if tokio::time::timeout(POLL, self.changed.recv()).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
            let _seen = self.changed.try_recv();
        }
    }
}

pub(super) async fn run(path: PathBuf, port: Option<String>, sink: Sink) {
    let mut watch = Watch::new(&path);
    let mut last = None;
    loop {
        let update = read(&path, port.as_deref()).await;
        if last.as_ref() != Some(&update) {
            last = Some(update.clone());
            sink.say(update).await;
        }
        watch.changed().await;
    }
}

async fn read(path: &Path, port: Option<&str>) -> Result<Vec<EndpointSpec>, String> {
    let size = tokio::fs::metadata(path).await.map_err(|error| format!("{}: {error}", path.display()))?.len();
    if size > yaml::MAX_BYTES as u64 {
        return Err(format!("{}: larger than {} bytes", path.display(), yaml::MAX_BYTES));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text, port).map_err(|error| format!("{}:{error}", path.display()))
}

/// A file that says something else than endpoints, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadFile {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for BadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

fn bad<T>(node: &Node, message: impl Into<String>) -> Result<T, BadFile> {
    Err(BadFile { line: node.line, column: node.column, message: message.into() })
}

/// Reads a list of endpoints, or EndpointSlice manifests (one, a `List`, several documents). An
/// empty file has no endpoints.
///
/// `port` says which port of an EndpointSlice is meant, by name or number.
///
/// # Errors
/// The first thing that is wrong, with line and column.
pub fn parse(text: &str, port: Option<&str>) -> Result<Vec<EndpointSpec>, BadFile> {
    let documents = yaml::parse(text).map_err(|error| BadFile {
        line: error.line,
        column: error.column,
        message: error.message,
    })?;
    let mut specs = Vec::new();
    for document in documents.iter().filter(|d| !d.is_null()) {
        match &document.value {
            Value::List(items) => items.iter().try_for_each(|item| specs.push_ok(item_spec(item)))?,
            Value::Map(_) => manifest(document, port, &mut specs)?,
            Value::Scalar { .. } => return bad(document, "expected a list of endpoints or an EndpointSlice"),
        }
    }
    Ok(merge(specs))
}

/// Collects results.
trait PushOk<T, E> {
    fn push_ok(&mut self, result: Result<T, E>) -> Result<(), E>;
}

impl<T, E> PushOk<T, E> for Vec<T> {
    fn push_ok(&mut self, result: Result<T, E>) -> Result<(), E> {
        result.map(|value| self.push(value))
    }
}

/// Slices overlap while an endpoint moves from one to another: the best readiness wins.
fn merge(specs: Vec<EndpointSpec>) -> Vec<EndpointSpec> {
    let mut merged: Vec<EndpointSpec> = Vec::with_capacity(specs.len());
    let mut places = std::collections::HashMap::new();
    for spec in specs {
        match places.get(&spec.id()) {
            Some(&place) => {
                let known: &mut EndpointSpec = &mut merged[place];
                if spec.readiness > known.readiness {
                    *known = spec;
                }
            }
            None => {
                places.insert(spec.id(), merged.len());
                merged.push(spec);
            }
        }
    }
    merged
}

/// One item of a list: `10.0.0.1:80;weight=2`, or a map.
fn item_spec(item: &Node) -> Result<EndpointSpec, BadFile> {
    let at = |node: &Node| {
        let (line, column) = (node.line, node.column);
        move |BadTarget(message)| BadFile { line, column, message }
    };
    let pairs = match &item.value {
        Value::Scalar { text, .. } => return target::endpoint(text).map_err(at(item)),
        Value::List(_) => return bad(item, "expected an address or a map with one"),
        Value::Map(pairs) => pairs,
    };
    let Some(address) = item.get("address") else { return bad(item, "address is missing") };
    let Some(text) = address.text() else {
        return bad(address, format!("address: expected a word, found {}", address.kind()));
    };
    let mut spec = target::endpoint(text).map_err(at(address))?;
    for (key, value) in pairs {
        let name = key.text().unwrap_or_default();
        let Some(text) = value.text() else {
            return bad(value, format!("{name}: expected a word, found {}", value.kind()));
        };
        match name {
            "address" => {}
            "weight" => spec.weight = target::weight(text).map_err(at(value))?,
            "zone" => spec.zone = Some(text.into()),
            "name" => spec.name = Some(text.into()),
            "ready" => match value.boolean() {
                Some(ready) => spec.readiness = if ready { Readiness::Ready } else { Readiness::NotReady },
                None => return bad(value, format!("ready: expected true or false, found {text:?}")),
            },
            _ => {
                let known = ["address", "weight", "zone", "name", "ready"];
                let near = known.iter().find(|k| strsim::damerau_levenshtein(k, name) <= 2);
                let hint = near.map_or(String::new(), |near| format!(": did you mean {near:?}?"));
                return bad(key, format!("unknown key {name:?}{hint}"));
            }
        }
    }
    Ok(spec)
}

fn manifest(node: &Node, port: Option<&str>, specs: &mut Vec<EndpointSpec>) -> Result<(), BadFile> {
    match node.get("kind").and_then(Node::text) {
        Some("EndpointSlice") => slice(node, port, specs),
        Some("List" | "EndpointSliceList") => {
            let items = node.get("items").and_then(Node::list).unwrap_or_default();
            items.iter().try_for_each(|item| match item.get("kind").and_then(Node::text) {
                // Items of a typed list do not repeat their kind.
                None | Some("EndpointSlice") => slice(item, port, specs),
                Some(other) => bad(item, format!("kind {other} has no endpoints: expected EndpointSlice")),
            })
        }
        Some(other) => bad(node, format!("kind {other} has no endpoints: expected EndpointSlice, or a List of them")),
        None => bad(node, "expected a list of endpoints or an EndpointSlice (which has a kind)"),
    }
}

/// One EndpointSlice (discovery.k8s.io/v1).
fn slice(node: &Node, wanted: Option<&str>, specs: &mut Vec<EndpointSpec>) -> Result<(), BadFile> {
    let endpoints = match node.get("endpoints") {
        Some(endpoints) if !endpoints.is_null() => endpoints,
        _ => return Ok(()),
    };
    let Some(endpoints_list) = endpoints.list() else {
        return bad(endpoints, format!("endpoints: expected a list, found {}", endpoints.kind()));
    };
    if endpoints_list.is_empty() {
        return Ok(());
    }
    if let Some(kind) = node.get("addressType").filter(|k| k.text() == Some("FQDN")) {
        return bad(kind, "addressType FQDN is not supported: use dns:// for names");
    }
    let port = slice_port(node, wanted)?;
    for endpoint in endpoints_list {
        let addresses = endpoint.get("addresses").and_then(Node::list).unwrap_or_default();
        // They are fungible, and kube-proxy uses the first.
        let Some(address) = addresses.first() else { return bad(endpoint, "addresses is missing or empty") };
        let ip = address.text().and_then(|text| text.parse::<IpAddr>().ok());
        let Some(ip) = ip else { return bad(address, "not an IP address") };
        let mut spec = EndpointSpec::at(SocketAddr::new(ip, port));
        spec.readiness = readiness(endpoint.get("conditions"));
        spec.zone = endpoint.get("zone").and_then(Node::text).map(Into::into);
        let pod = endpoint.get("targetRef");
        spec.name = pod.and_then(|p| p.get("uid").or_else(|| p.get("name"))).and_then(Node::text).map(Into::into);
        specs.push(spec);
    }
    Ok(())
}

/// Unknown (absent) means ready; terminating Pods may still serve.
fn readiness(conditions: Option<&Node>) -> Readiness {
    let condition = |name| conditions.and_then(|c| c.get(name)).and_then(Node::boolean);
    match (condition("terminating"), condition("ready"), condition("serving")) {
        (Some(true), _, Some(false)) => Readiness::NotReady,
        (Some(true), ..) => Readiness::Terminating,
        (_, Some(false), _) => Readiness::NotReady,
        _ => Readiness::Ready,
    }
}

fn slice_port(node: &Node, wanted: Option<&str>) -> Result<u16, BadFile> {
    let ports = node.get("ports").and_then(Node::list).unwrap_or_default();
    let name = |port: &Node| port.get("name").and_then(Node::text).unwrap_or_default().to_owned();
    let number = |port: &Node| port.get("port").and_then(Node::text).and_then(|n| n.parse::<u16>().ok());
    let found = match wanted {
        Some(wanted) => ports.iter().find(|p| name(p) == wanted || number(p).is_some_and(|n| n.to_string() == wanted)),
        None if ports.len() <= 1 => ports.first(),
        None => {
            let names: Vec<String> = ports.iter().map(name).collect();
            return bad(
                node,
                format!("several ports ({}): choose one with ?port=NAME in the target", names.join(", ")),
            );
        }
    };
    match found.and_then(number) {
        Some(port) if port != 0 => Ok(port),
        _ => bad(node, format!("no port {}", wanted.map_or("at all".into(), |w| format!("{w:?}")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str, port: Option<&str>) -> Result<Vec<String>, String> {
        let specs = parse(text, port).map_err(|e| e.to_string())?;
        Ok(specs.iter().map(|s| format!("{} {:?} {}", s.address, s.readiness, s.weight)).collect())
    }

    #[test]
    fn lists_of_addresses_and_of_maps() {
        let text = "- 10.0.0.1:80\n- 10.0.0.2:80;weight=2\n- {address: '10.0.0.3:80', weight: 0.5, ready: false}\n";
        let expected = ["10.0.0.1:80 Ready 1", "10.0.0.2:80 Ready 2", "10.0.0.3:80 NotReady 0.5"];
        assert_eq!(addresses(text, None).unwrap(), expected);
        assert_eq!(addresses("[\"10.0.0.1:80\"]", None).unwrap(), ["10.0.0.1:80 Ready 1"]);
        assert_eq!(addresses("", None).unwrap(), Vec::<String>::new());
        assert_eq!(addresses("[]", None).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn slices_merge_and_the_best_readiness_wins() {
        let slice = |name: &str, endpoints: &str| {
            format!(
                "kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\nmetadata: {{name: {name}}}\naddressType: IPv4\n\
                 ports: [{{name: grpc, port: 8080}}, {{name: metrics, port: 9090}}]\nendpoints:\n{endpoints}"
            )
        };
        let one = slice(
            "a",
            "- addresses: [10.0.0.1]\n  conditions: {ready: false, serving: true, terminating: true}\n  targetRef: {uid: u1}\n- addresses: [10.0.0.2]\n",
        );
        let two = slice(
            "b",
            "- addresses: [10.0.0.1]\n  conditions: {ready: true}\n  targetRef: {uid: u1}\n- addresses: [10.0.0.3]\n  conditions: {ready: false}\n",
        );
        let both = format!("{one}\n---\n{two}");
        let expected = ["10.0.0.1:8080 Ready 1", "10.0.0.2:8080 Ready 1", "10.0.0.3:8080 NotReady 1"];
        assert_eq!(addresses(&both, Some("grpc")).unwrap(), expected);
        assert_eq!(addresses(&both, Some("8080")).unwrap(), expected);
        assert_eq!(addresses(&one, Some("metrics")).unwrap()[0], "10.0.0.1:9090 Terminating 1");
        assert!(
            addresses(&both, None)
                .unwrap_err()
                .ends_with("several ports (grpc, metrics): choose one with ?port=NAME in the target")
        );
        let list = "{\"kind\": \"EndpointSliceList\", \"items\": [{\"addressType\": \"IPv6\", \"ports\": [{\"port\": 80}], \"endpoints\": [{\"addresses\": [\"fd00::1\"], \"zone\": \"a\"}]}]}";
        assert_eq!(addresses(list, None).unwrap(), ["[fd00::1]:80 Ready 1"]);
        assert_eq!(addresses("kind: EndpointSlice\nendpoints: null\n", None).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn errors_say_where() {
        for (text, error) in [
            (
                "- 10.0.0.1:80\n- nowhere\n",
                "2:3: \"nowhere\": not an address: write ip:port, [ipv6]:port or unix:///path",
            ),
            ("- {address: 10.0.0.1:80, wieght: 2}\n", "1:26: unknown key \"wieght\": did you mean \"weight\"?"),
            ("- {weight: 2}\n", "1:3: address is missing"),
            ("kind: Service\n", "1:1: kind Service has no endpoints: expected EndpointSlice, or a List of them"),
            ("hello\n", "1:1: expected a list of endpoints or an EndpointSlice"),
            (
                "kind: EndpointSlice\nports: [{port: 80}]\nendpoints: [{addresses: [pod-1]}]\n",
                "3:26: not an IP address",
            ),
            (
                "kind: EndpointSlice\naddressType: FQDN\nendpoints: [{addresses: [a]}]\n",
                "2:14: addressType FQDN is not supported: use dns:// for names",
            ),
        ] {
            assert_eq!(addresses(text, None).unwrap_err(), error, "{text}");
        }
    }
}
