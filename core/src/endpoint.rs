//! An address that can serve, and its live counters.

use crate::address::Address;
use crate::hash;
use alloc::boxed::Box;
use alloc::string::ToString;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64};

/// Identity of an endpoint: the hash of its Pod UID or name if known, else of its address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EndpointId(pub u64);

/// May the endpoint take turns, as far as discovery knows?
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Readiness {
    /// Known, but not to be used.
    NotReady,
    /// Leaving: finishes what it has, gets nothing new (unless nothing else is left).
    Terminating,
    /// May take turns.
    #[default]
    Ready,
}

/// What discovery says of one endpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct EndpointSpec {
    /// Where it listens.
    pub address: Address,
    /// Stable name: Pod UID, StatefulSet name; `None`: the address is the name.
    pub name: Option<Box<str>>,
    /// Relative share, 1.0 is normal. 0 means: drain.
    pub weight: f64,
    /// Topology zone.
    pub zone: Option<Box<str>>,
    /// May it take turns?
    pub readiness: Readiness,
}

impl EndpointSpec {
    /// A ready endpoint of weight 1 at `address`, without name or zone.
    pub fn at(address: impl Into<Address>) -> Self {
        Self { address: address.into(), name: None, weight: 1.0, zone: None, readiness: Readiness::Ready }
    }

    /// The identity that counters, ranks and rings use.
    pub fn id(&self) -> EndpointId {
        EndpointId(match &self.name {
            Some(name) => hash::hash(name.as_bytes()),
            None => hash::hash(self.address.to_string().as_bytes()),
        })
    }
}

/// An endpoint, shared by successive pickers (and workers) so that its counters outlive rebuilds.
pub struct Endpoint {
    /// Identity.
    pub id: EndpointId,
    /// Where it listens.
    pub address: Address,
    /// Stable name, if discovery gave one.
    pub name: Option<Box<str>>,
    /// Topology zone.
    pub zone: Option<Box<str>>,
    /// Live counters.
    pub load: Load,
}

/// The 64-byte line of counters that picks read and tickets write.
#[derive(Default)]
#[repr(align(64))]
pub struct Load {
    /// Turns in flight.
    pub turns: AtomicU32,
    /// Sessions placed whole on the endpoint, without those that were asked to go.
    pub sessions: AtomicU32,
    /// `peak-ewma`: ln v + t/τ, fixed point with 32 fractional bits.
    pub score: AtomicU64,
    /// Turns that ended well.
    pub completions: AtomicU64,
    /// Turns that the endpoint failed.
    pub failures: AtomicU64,
    /// Failures since the last success.
    pub streak: AtomicU32,
    /// 1 while a probe turn is under way on an ejected endpoint.
    pub probe: AtomicU32,
    /// When `turns` last left 0 (nanoseconds).
    pub busy_since: AtomicU64,
    /// When a turn last ended (nanoseconds).
    pub last_completion: AtomicU64,
    /// Sessions that were asked to go and are not gone yet.
    pub leaving: AtomicU32,
    /// Sessions ever placed here (wraps around).
    pub opened: AtomicU32,
}

const _: () = assert!(size_of::<Load>() == 64);

impl Endpoint {
    /// A fresh endpoint with zero counters.
    pub fn new(spec: &EndpointSpec) -> Self {
        Self {
            id: spec.id(),
            address: spec.address.clone(),
            name: spec.name.clone(),
            zone: spec.zone.clone(),
            load: Load::default(),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.address)
    }
}
