//! Targets: URIs that say where endpoints come from, the same on the command line, in files and in
//! the library.
//!
//! | Target | Endpoints |
//! |---|---|
//! | `10.0.0.1:80,10.0.0.2:80;weight=2;zone=a`, with or without `static://` | that list |
//! | `file:///etc/evenkeel/catalog.yaml`, `?port=grpc` | what the file says, watched |
//! | `dns://catalog.shop.svc:8080` | the addresses of the name |
//! | `srv://_grpc._tcp.catalog.shop.svc` | the targets of the service record |
//!
//! `dns://` and `srv://` take `?server=127.0.0.1:5353` to ask a server other than the system's.

use evenkeel_core::address::Address;
use evenkeel_core::endpoint::EndpointSpec;
use std::collections::HashSet;
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the endpoints of a service come from.
#[derive(Clone, PartialEq, Debug)]
pub enum Target {
    /// A fixed list.
    Static(Vec<EndpointSpec>),
    /// A file with a list, or with EndpointSlice manifests.
    File {
        /// Absolute.
        path: PathBuf,
        /// Which port of an EndpointSlice, by name or number; may be left out if there is one.
        port: Option<String>,
    },
    /// The A records of a name, or its AAAA records if it has no A.
    Dns {
        /// The name.
        name: String,
        /// The port, which such records do not say.
        port: u16,
        /// Instead of the system's name servers.
        server: Option<SocketAddr>,
    },
    /// The SRV records of a name.
    Srv {
        /// The name, `_service._protocol.domain`.
        name: String,
        /// Instead of the system's name servers.
        server: Option<SocketAddr>,
    },
}

/// A target that cannot be understood, with a remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadTarget(pub String);

impl fmt::Display for BadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadTarget {}

fn bad<T>(message: impl Into<String>) -> Result<T, BadTarget> {
    Err(BadTarget(message.into()))
}

/// Every scheme there is or will be.
const SCHEMES: [&str; 7] = ["static", "file", "dns", "srv", "unix", "k8s", "xds"];

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let text = text.trim();
        if text.is_empty() {
            return bad("empty target: write a list of addresses, or a URI such as dns://name:port");
        }
        let Some((scheme, rest)) = text.split_once("://") else { return endpoints(text).map(Self::Static) };
        match scheme {
            "static" => endpoints(rest).map(Self::Static),
            "unix" => endpoints(text).map(Self::Static),
            "file" => file(rest),
            "dns" => {
                let (name, server) = name_and_server("dns", rest)?;
                let Some((name, port)) = name.rsplit_once(':') else {
                    return bad(format!("dns://{name} has no port: write dns://{name}:8080"));
                };
                let Some(port) = port.parse().ok().filter(|&p| p != 0) else {
                    return bad(format!("dns://{name}: {port:?} is not a port (1 to 65535)"));
                };
                Ok(Self::Dns { name: valid_name(name)?, port, server })
            }
            "srv" => {
                let (name, server) = name_and_server("srv", rest)?;
                if name.contains(':') {
                    return bad(format!("srv://{name}: the port comes from the records: leave it out"));
                }
                Ok(Self::Srv { name: valid_name(name)?, server })
            }
            "k8s" | "xds" => bad(format!("{scheme}:// is not supported in this version: use dns:// or file://")),
            _ if scheme.contains([',', ';']) => endpoints(text).map(Self::Static),
            _ => {
                let near = SCHEMES.iter().map(|s| (strsim::damerau_levenshtein(s, scheme), s)).min();
                match near.filter(|&(distance, _)| distance <= 2) {
                    Some((_, near)) => bad(format!("unknown scheme \"{scheme}\": did you mean \"{near}://\"?")),
                    None => bad(format!("unknown scheme \"{scheme}\": use static://, file://, dns:// or srv://")),
                }
            }
        }
    }
}

/// A list of addresses with attributes.
fn endpoints(list: &str) -> Result<Vec<EndpointSpec>, BadTarget> {
    let specs = list.split(',').map(|item| endpoint(item.trim())).collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::new();
    match specs.iter().find(|spec| !seen.insert(spec.id())) {
        Some(twice) => bad(format!("{} is listed twice", twice.address)),
        None => Ok(specs),
    }
}

/// One address with attributes: `10.0.0.1:80;weight=2;zone=a;name=pod-1`.
///
/// # Errors
/// What is wrong with it, and how to write it.
pub fn endpoint(text: &str) -> Result<EndpointSpec, BadTarget> {
    let mut parts = text.split(';');
    let address = parts.next().unwrap_or_default();
    let address = match address.parse::<Address>() {
        Ok(Address::Ip(addr)) if addr.port() == 0 => return bad(format!("{address}: port 0 cannot be connected to")),
        Ok(address) => address,
        Err(_) if address.is_empty() => return bad("an address is missing: a list has a comma too many"),
        Err(_) if address.parse::<std::net::IpAddr>().is_ok() => {
            return bad(format!("{address} has no port: write {address}:8080"));
        }
        Err(_) if address.starts_with(|c: char| c.is_ascii_alphabetic()) && address.contains(':') => {
            return bad(format!("{address} is not an address: for a name write dns://{address}"));
        }
        Err(error) => return bad(format!("{address:?}: {error}")),
    };
    let mut spec = EndpointSpec::at(address);
    for attribute in parts {
        let Some((key, value)) = attribute.split_once('=') else {
            return bad(format!("{attribute:?}: write attributes as ;key=value"));
        };
        match key {
            "weight" => spec.weight = weight(value)?,
            "zone" => spec.zone = Some(value.into()),
            "name" => spec.name = Some(value.into()),
            _ => {
                let known = ["weight", "zone", "name"];
                let near = known.iter().find(|k| strsim::damerau_levenshtein(k, key) <= 2);
                let hint = near.map_or("known are weight, zone and name".into(), |n| format!("did you mean \"{n}\"?"));
                return bad(format!("unknown attribute \"{key}\": {hint}"));
            }
        }
    }
    Ok(spec)
}

/// A weight: 0 (drain) to 1,000,000.
pub(crate) fn weight(text: &str) -> Result<f64, BadTarget> {
    let weight = text.parse::<f64>().ok().filter(|w| (0.0..=1e6).contains(w));
    weight.ok_or_else(|| BadTarget(format!("weight {text:?} is not a number from 0 to 1000000")))
}

fn file(rest: &str) -> Result<Target, BadTarget> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !path.starts_with('/') || path.contains('\0') {
        return bad(format!("file://{path}: the path must be absolute: file:///etc/evenkeel/endpoints.yaml"));
    }
    let mut port = None;
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        match parameter.split_once('=') {
            Some(("port", value)) if !value.is_empty() => port = Some(value.into()),
            _ => return bad(format!("unknown parameter \"{parameter}\": file:// takes ?port=NAME-OR-NUMBER")),
        }
    }
    Ok(Target::File { path: path.into(), port })
}

fn name_and_server<'a>(scheme: &str, rest: &'a str) -> Result<(&'a str, Option<SocketAddr>), BadTarget> {
    let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut server = None;
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        let address = parameter.strip_prefix("server=").and_then(|value| value.parse().ok());
        match address {
            Some(address) => server = Some(address),
            None => return bad(format!("unknown parameter \"{parameter}\": {scheme}:// takes ?server=IP:PORT")),
        }
    }
    Ok((name, server))
}

/// A domain name (RFC 1035, with underscores as in SRV names).
fn valid_name(name: &str) -> Result<String, BadTarget> {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let bare = name.strip_suffix('.').unwrap_or(name);
    match name.len() <= 253 && bare.split('.').all(label) {
        true => Ok(name.into()),
        false => bad(format!("{name:?} is not a domain name")),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = |server: &Option<SocketAddr>| server.map(|s| format!("?server={s}")).unwrap_or_default();
        match self {
            Self::Static(endpoints) => {
                f.write_str("static://")?;
                for (i, spec) in endpoints.iter().enumerate() {
                    if i > 0 {
                        f.write_char(',')?;
                    }
                    write!(f, "{}", spec.address)?;
                    if spec.weight != 1.0 {
                        write!(f, ";weight={}", spec.weight)?;
                    }
                    if let Some(zone) = &spec.zone {
                        write!(f, ";zone={zone}")?;
                    }
                    if let Some(name) = &spec.name {
                        write!(f, ";name={name}")?;
                    }
                }
                Ok(())
            }
            Self::File { path, port } => {
                write!(f, "file://{}", path.display())?;
                port.iter().try_for_each(|port| write!(f, "?port={port}"))
            }
            Self::Dns { name, port, server: s } => write!(f, "dns://{name}:{port}{}", server(s)),
            Self::Srv { name, server: s } => write!(f, "srv://{name}{}", server(s)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_written_alike() {
        for text in [
            "static://10.0.0.1:80",
            "static://10.0.0.1:80;weight=2;zone=a,[::1]:80;name=pod-1",
            "static://unix:///run/app.sock",
            "file:///etc/evenkeel/catalog.yaml",
            "file:///etc/evenkeel/catalog.yaml?port=grpc",
            "dns://catalog.shop.svc:8080",
            "dns://catalog:8080?server=127.0.0.1:5353",
            "srv://_grpc._tcp.catalog.shop.svc.",
        ] {
            assert_eq!(text.parse::<Target>().map(|t| t.to_string()).as_deref(), Ok(text));
        }
        let bare: Target = "10.0.0.1:80, 10.0.0.2:80".parse().unwrap();
        assert_eq!(bare.to_string(), "static://10.0.0.1:80,10.0.0.2:80");
        assert!("unix:///run/a.sock,10.0.0.1:80".parse::<Target>().is_ok());
        assert!("10.0.0.1:80,unix:///run/a.sock".parse::<Target>().is_ok());
    }

    #[test]
    fn what_is_wrong_comes_with_a_remedy() {
        for (text, error) in [
            ("k8://shop/catalog:grpc", "unknown scheme \"k8\": did you mean \"k8s://\"?"),
            ("ftp2x://a", "unknown scheme \"ftp2x\": use static://, file://, dns:// or srv://"),
            ("k8s://shop/catalog:grpc", "k8s:// is not supported in this version: use dns:// or file://"),
            ("localhost:80", "localhost:80 is not an address: for a name write dns://localhost:80"),
            ("10.0.0.1", "10.0.0.1 has no port: write 10.0.0.1:8080"),
            ("10.0.0.1:0", "10.0.0.1:0: port 0 cannot be connected to"),
            ("10.0.0.1:80,", "an address is missing: a list has a comma too many"),
            ("10.0.0.1:80,10.0.0.1:80", "10.0.0.1:80 is listed twice"),
            ("10.0.0.1:80;wieght=2", "unknown attribute \"wieght\": did you mean \"weight\"?"),
            ("10.0.0.1:80;weight=-1", "weight \"-1\" is not a number from 0 to 1000000"),
            ("10.0.0.1:80;weight=nan", "weight \"nan\" is not a number from 0 to 1000000"),
            ("10.0.0.1:80;heavy", "\"heavy\": write attributes as ;key=value"),
            ("dns://catalog", "dns://catalog has no port: write dns://catalog:8080"),
            ("dns://catalog:http", "dns://catalog: \"http\" is not a port (1 to 65535)"),
            ("dns://cata log:80", "\"cata log\" is not a domain name"),
            ("srv://catalog:80", "srv://catalog:80: the port comes from the records: leave it out"),
            ("file://relative", "file://relative: the path must be absolute: file:///etc/evenkeel/endpoints.yaml"),
            ("file:///a?prot=1", "unknown parameter \"prot=1\": file:// takes ?port=NAME-OR-NUMBER"),
            ("", "empty target: write a list of addresses, or a URI such as dns://name:port"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap_err().to_string(), error, "{text}");
        }
    }
}
