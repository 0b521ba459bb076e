//! Discovery and checks as a service sees them: through its pump, with real files, sockets and DNS
//! messages.

mod checks;
mod dns;
mod files;
mod service;
