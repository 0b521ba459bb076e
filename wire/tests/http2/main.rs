//! HTTP/2: RFC examples, conversations, hostile peers, and two engines that talk to each other.

mod conversation;
mod hostile;
mod hpack;
mod model;
mod pair;
mod upload;
mod world;
