//! TLS settings made from files: certificates by name, roots, client certificates.
//!
//! rustls with the ring provider; TLS 1.2 and 1.3, its default suites.

use crate::config::{CertFiles, ClientAuth, ClientTls, Protocol, ServerTls, TlsVersion};
use evenkeel_core::address::Address;
use evenkeel_core::hash::hash;
use evenkeel_wire::edge::ClientHello;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Larger files are no certificates.
const MAX_FILE: u64 = 1 << 20;

/// How clients of a service are met.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// For clients that offer, in ALPN, something that is spoken here, and those who offer nothing.
    config: Arc<ServerConfig>,
    /// For those who offer other protocols only, where that is not refused: the answer names none.
    other: Arc<ServerConfig>,
    /// Is the subject of a client's certificate wanted?
    pub(crate) subject: bool,
    expires: Option<i64>,
    pub(crate) fingerprint: u64,
}

/// How endpoints of a service are spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) config: Arc<ClientConfig>,
    /// For a connection of HTTP/2.
    pub(crate) http2: Arc<ClientConfig>,
    /// For one of what the endpoint chooses.
    pub(crate) either: Arc<ClientConfig>,
    /// The name that their certificates must have; `None`: their address.
    pub(crate) name: Option<ServerName<'static>>,
    pub(crate) fingerprint: u64,
}

impl Server {
    /// The settings for a client with this ClientHello.
    pub(crate) fn config(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let spoken = self.config.alpn_protocols.iter().any(|protocol| hello.offers(protocol));
        if hello.alpn.is_empty() || spoken { self.config.clone() } else { self.other.clone() }
    }

    /// The settings for a client whose first bytes are no ClientHello: TLS will say so.
    pub(crate) fn fallback(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// The end of the first of the certificates, seconds since 1970.
    pub(crate) fn expires(&self) -> Option<i64> {
        self.expires
    }
}

impl Client {
    /// The name that the certificate of this endpoint must have.
    pub(crate) fn name_of(&self, address: &Address) -> ServerName<'static> {
        match (&self.name, address) {
            (Some(name), _) => name.clone(),
            (None, Address::Ip(addr)) => ServerName::IpAddress(addr.ip().into()),
            // A file has no name; that of the machine is as good as any.
            (None, Address::Unix(_)) => ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into()),
        }
    }
}

/// HTTP/2 in ALPN (RFC 9113, section 3.2).
pub(crate) const HTTP2: &[u8] = b"h2";
/// HTTP/1.1 there (RFC 7301, section 6).
const HTTP1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What clients are met with. `shares`: links may be shared by clients, so HTTP/2 can be spoken.
///
/// # Errors
/// A file that cannot be read or used, named.
pub(crate) fn server(tls: &ServerTls, protocol: Protocol, shares: bool) -> Result<Server, String> {
    let fingerprint = server_fingerprint(tls);
    let certificates = Certificates { named: tls.certs.iter().map(certified).collect::<Result<_, _>>()? };
    let expires = certificates.named.iter().filter_map(|(_, certified)| expires(certified.cert.first()?)).min();
    let versions: &[_] = match tls.min_version {
        TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).map_err(|e| e.to_string())?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider());
            let verifier = match tls.client_auth {
                ClientAuth::Required => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| format!("{}: {e}", path.display()))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.ticketer = ring::Ticketer::new().map_err(|e| e.to_string())?;
    let other = Arc::new(config.clone());
    config.alpn_protocols = match protocol {
        Protocol::Tcp => Vec::new(),
        Protocol::Http2 => vec![HTTP2.to_vec()],
        // The first that the client has, too.
        Protocol::Auto | Protocol::Http if shares => vec![HTTP2.to_vec(), HTTP1.to_vec()],
        Protocol::Auto | Protocol::Http | Protocol::Http1 => vec![HTTP1.to_vec()],
    };
    let config = Arc::new(config);
    // What is HTTP by configuration is nothing else; `auto` passes on whatever it is.
    let other = if matches!(protocol, Protocol::Auto | Protocol::Tcp) { other } else { config.clone() };
    Ok(Server { config, other, subject: tls.client_header.is_some(), expires, fingerprint })
}

/// What endpoints are spoken to with; `host`: the name that their target has, if it has one.
///
/// # Errors
/// A file that cannot be read or used, named.
pub(crate) fn client(tls: &ClientTls, host: Option<&str>, protocol: Protocol) -> Result<Client, String> {
    let fingerprint = client_fingerprint(tls);
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = if tls.verify {
        let roots = match &tls.ca {
            Some(path) => roots(path)?,
            None => system_roots()?,
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        builder.with_webpki_verifier(verifier.build().map_err(|e| e.to_string())?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider())))
    };
    let mut config = match &tls.cert {
        None => builder.with_no_client_auth(),
        Some(files) => builder
            .with_client_auth_cert(chain(&files.cert)?, key(&files.key)?)
            .map_err(|e| format!("{}: {e}", files.cert.display()))?,
    };
    let (mut http2, mut either) = (config.clone(), config.clone());
    http2.alpn_protocols = vec![HTTP2.to_vec()];
    either.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    if protocol != Protocol::Tcp {
        config.alpn_protocols = vec![HTTP1.to_vec()];
    }
    let parse =
        |name: &str| ServerName::try_from(name.trim_end_matches('.').to_owned()).map_err(|e| format!("{name}: {e}"));
    let name = tls.sni.as_deref().or(host).map(parse).transpose()?;
    Ok(Client { config: Arc::new(config), http2: Arc::new(http2), either: Arc::new(either), name, fingerprint })
}

/// Changes when the files do.
pub(crate) fn server_fingerprint(tls: &ServerTls) -> u64 {
    let files = tls.certs.iter().flat_map(|c| [&c.cert, &c.key]).chain(&tls.client_ca);
    fingerprint(files.map(|path| path.as_path()))
}

/// Changes when the files do.
pub(crate) fn client_fingerprint(tls: &ClientTls) -> u64 {
    let files = tls.cert.iter().flat_map(|c| [&c.cert, &c.key]).chain(&tls.ca);
    fingerprint(files.map(|path| path.as_path()))
}

/// What the file system says of the files: whoever writes them changes one or the other.
fn fingerprint<'a>(paths: impl Iterator<Item = &'a Path>) -> u64 {
    paths.fold(0, |sum: u64, path| {
        let about = std::fs::metadata(path).map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
        let words = about.map_or([1; 4], |(inode, length, s, ns)| [inode, length, s as u64, ns as u64]);
        sum.rotate_left(1) ^ hash(words.map(u64::to_ne_bytes).as_flattened())
    })
}

/// The subject of a certificate in one line of text; what is not printable is written `%0A`, so that no
/// name can become a line of a message.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> Option<Box<str>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut line = String::new();
    for byte in parsed.subject().to_string().bytes() {
        match byte {
            b'%' | ..0x20 | 0x7F.. => line.push_str(&format!("%{byte:02X}")),
            byte => line.push(char::from(byte)),
        }
    }
    Some(line.into())
}

/// The last moment at which a certificate is valid, seconds since 1970.
fn expires(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let place = |error: std::io::Error| format!("{}: {error}", path.display());
    if std::fs::metadata(path).map_err(place)?.len() > MAX_FILE {
        return Err(format!("{}: larger than {MAX_FILE} bytes", path.display()));
    }
    std::fs::read(path).map_err(place)
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(format!("{}: no certificate in it: it must be PEM (-----BEGIN CERTIFICATE-----)", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            format!("{}: no private key in it: it must be PEM (-----BEGIN PRIVATE KEY-----)", path.display())
        }
        error => format!("{}: {error}", path.display()),
    })
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in chain(path)? {
        store.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(store)
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    match (store.is_empty(), found.errors.first()) {
        (false, _) => Ok(store),
        (true, Some(error)) => Err(format!("the system's root certificates: {error}: name some with ca:")),
        (true, None) => {
            Err("the system has no root certificates: install ca-certificates, or name some with ca:".into())
        }
    }
}

/// A certificate with its key, and the names that it is for.
fn certified(files: &CertFiles) -> Result<(Vec<String>, Arc<CertifiedKey>), String> {
    let certified = CertifiedKey::from_der(chain(&files.cert)?, key(&files.key)?, &provider());
    let certified = certified.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("{} is not the key of {}", files.key.display(), files.cert.display())
        }
        error => format!("{}: {error}", files.cert.display()),
    })?;
    let names = certified.cert.first().map(names).unwrap_or_default();
    Ok((names, Arc::new(certified)))
}

/// The DNS names of a certificate, in lower case.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// Certificates by name; the first is for those who name none that is there.
#[derive(Debug)]
struct Certificates {
    named: Vec<(Vec<String>, Arc<CertifiedKey>)>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let wanted = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        let is_for = |(names, _): &&(Vec<String>, Arc<CertifiedKey>)| names.iter().any(|name| matches(name, &wanted));
        let found = self.named.iter().find(is_for).or(self.named.first());
        found.map(|(_, certified)| certified.clone())
    }
}

/// Is `name` (both in lower case) the pattern, or one label under its `*.`?
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern == name,
        Some(parent) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
    }
}

/// `verify: false`: whoever answers is believed; signatures are checked all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_one_label() {
        for (pattern, name, fits) in [
            ("a.example", "a.example", true),
            ("a.example", "b.a.example", false),
            ("*.example", "a.example", true),
            ("*.example", "b.a.example", false),
            ("*.example", "example", false),
            ("*.example", ".example", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
