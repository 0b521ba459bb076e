//! What the fuzz targets share: the world that the tests of `wire` drive sessions in.

#[path = "../../wire/tests/sessions/world.rs"]
mod world;

pub use world::{Event, World};
