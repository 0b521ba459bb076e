//! The parts of a configuration that are about TLS.

use super::read::Section;
use super::{CertFiles, ClientAuth, ClientTls, ServerTls, TlsVersion};
use evenkeel_upstream::yaml::Node;
use std::path::PathBuf;

/// Could this be the name of a host?
pub(super) fn is_host(name: &str) -> bool {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    !name.is_empty() && name.len() <= 253 && name.bytes().all(valid)
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| text.into())
}

/// `cert` and `key` of a section: both, or none.
fn cert_files(section: &mut Section<'_>) -> Option<CertFiles> {
    let cert = section.value("cert", "the path of a PEM file", path);
    let key = section.value("key", "the path of a PEM file", path);
    match (cert, key) {
        (Some(cert), Some(key)) => Some(CertFiles { cert, key }),
        (None, None) => None,
        (cert, _) => {
            let (here, missing) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
            if section.node.get(missing).is_none() {
                section.problem(section.node, missing, format!("missing: there is a {here}"));
            }
            None
        }
    }
}

/// The section `tls` of a service.
pub(super) fn server_tls(section: &mut Section<'_>) -> Option<ServerTls> {
    let mut found = None;
    section.section("tls", |tls| {
        let mut certs: Vec<CertFiles> = cert_files(tls).into_iter().collect();
        if let Some(node) = tls.take("certs") {
            match node.list() {
                None => tls.problem(node, "certs", format!("expected a list, found {}", node.kind())),
                Some(items) => {
                    for (i, item) in items.iter().enumerate() {
                        tls.element(item, format!("certs[{i}]"), |item| certs.extend(cert_files(item)));
                    }
                }
            }
        }
        if certs.is_empty() && !["cert", "key", "certs"].iter().any(|key| tls.node.get(key).is_some()) {
            tls.problem(tls.node, "cert", "missing: TLS needs a certificate (cert, key), or several (certs)");
        }
        let client_ca = tls.value("client_ca", "the path of a PEM file", path);
        let mut client_auth = ClientAuth::default();
        if client_ca.is_none()
            && let Some(node) = tls.node.get("client_auth")
        {
            tls.problem(node, "client_auth", "needs client_ca: who signs the certificates of clients?");
        }
        tls.set("client_auth", &mut client_auth, "required or optional", |text| match text {
            "required" => Some(ClientAuth::Required),
            "optional" => Some(ClientAuth::Optional),
            _ => None,
        });
        let client_header = tls.value("client_header", "a field name such as X-Client-Subject", |text| {
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            (!text.is_empty() && text.bytes().all(token)).then(|| text.to_owned())
        });
        let mut min_version = TlsVersion::default();
        tls.set("min_version", &mut min_version, "1.2 or 1.3", |text| match text {
            "1.2" => Some(TlsVersion::V12),
            "1.3" => Some(TlsVersion::V13),
            _ => None,
        });
        found = Some(ServerTls { certs, client_ca, client_auth, client_header, min_version });
    });
    found
}

/// The section `tls` for those that are spoken to: endpoints, collectors.
pub(super) fn client_tls(section: &mut Section<'_>) -> Option<ClientTls> {
    let mut found = ClientTls::default();
    match section.node.get("tls").and_then(Node::text) {
        Some("on") => {
            section.take("tls");
            return Some(found);
        }
        Some("off") => {
            section.take("tls");
            return None;
        }
        _ => {}
    }
    section.node.get("tls")?;
    section.section("tls", |tls| {
        found.ca = tls
            .value("ca", "the path of a PEM file, or system", |text| match text {
                "system" => Some(None),
                _ => path(text).map(Some),
            })
            .flatten();
        found.sni = tls.value("sni", "a host name", |text| is_host(text).then(|| text.to_owned()));
        tls.boolean("verify", &mut found.verify);
        found.cert = cert_files(tls);
    });
    Some(found)
}
