//! Targets: URIs that say where endpoints come from.

use evenkeel_core::endpoint::EndpointSpec;
use std::fmt;
use std::str::FromStr;

/// Where the endpoints of a service come from.
#[derive(Clone, PartialEq, Debug)]
pub enum Target {
    /// `static://10.0.0.1:80,10.0.0.2:80;weight=2;zone=a`, or the same without a scheme.
    Static(Vec<EndpointSpec>),
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

impl FromStr for Target {
    type Err = BadTarget;
    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let list = text.strip_prefix("static://").unwrap_or(text);
        let specs = list
            .split(',')
            .map(|a| {
                a.parse::<std::net::SocketAddr>().map(EndpointSpec::at).map_err(|e| BadTarget(format!("{a}: {e}")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::Static(specs))
    }
}
