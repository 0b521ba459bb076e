//! Certificates, made by OpenSSL.

use super::peers::directory;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate authority and what it signed, in a directory that goes with it.
pub struct Pki {
    home: PathBuf,
}

/// The files of a certificate.
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// As a value in a configuration: `cert: …, key: …`.
    pub fn yaml(&self) -> String {
        format!("cert: '{}', key: '{}'", self.cert.display(), self.key.display())
    }
}

impl Pki {
    pub fn new() -> Self {
        let pki = Self { home: directory("pki") };
        let ca = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=a test authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
        ];
        pki.openssl(&ca);
        pki
    }

    /// The authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.home.join("ca.crt")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// A certificate for these names (`DNS:a.example,IP:127.0.0.1`), as `file.crt` and `file.key`.
    pub fn sign(&self, file: &str, subject: &str, names: &str) -> Files {
        let (key, request, cert) = (format!("{file}.key"), format!("{file}.csr"), format!("{file}.crt"));
        let make = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-utf8", "-subj", subject];
        self.openssl(&[&make[..], &["-keyout", &key, "-out", &request]].concat());
        let extensions = format!("subjectAltName={names}\n");
        std::fs::write(self.path("extensions"), extensions).expect("written");
        let signs = ["x509", "-req", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30"];
        self.openssl(&[&signs[..], &["-in", &request, "-out", &cert, "-extfile", "extensions"]].concat());
        Files { cert: self.path(&cert), key: self.path(&key) }
    }

    fn openssl(&self, arguments: &[&str]) {
        let out = Command::new("openssl").args(arguments).current_dir(&self.home).output().expect("openssl runs");
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.home);
    }
}

/// What `openssl s_client` says about a connection on which it sends `input`.
pub fn s_client(addr: std::net::SocketAddr, ca: &Path, arguments: &[&str], input: &str) -> String {
    use std::io::Write;
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &addr.to_string(), "-CAfile"])
        .arg(ca)
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("openssl runs");
    let mut stdin = child.stdin.take().expect("piped");
    // A server that refuses the handshake ends it before it has read this.
    let _refused = stdin.write_all(input.as_bytes());
    if !arguments.contains(&"-quiet") {
        drop(stdin);
    }
    let out = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}
