//! What the fuzz targets share: the world that the tests of `wire` drive sessions in, and the pair of engines that
//! its tests of HTTP/2 make talk to each other.

#[path = "../../wire/tests/http2/pair.rs"]
mod pair;
#[path = "../../wire/tests/sessions/world.rs"]
mod world;

pub use pair::{Operation, Pair};
pub use world::{Event, World};
