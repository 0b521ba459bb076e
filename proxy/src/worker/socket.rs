//! Non-blocking stream sockets, TCP or Unix, as the worker sees them.

use evenkeel_core::address::Address;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token, event::Source};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::AsFd;

/// A connected (or connecting) stream socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The client address reported for Unix sockets, which have none.
pub(crate) const NO_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Stream {
    /// Starts to connect; the socket becomes writable when it is connected or failed.
    pub(crate) fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Ip(addr) => {
                let stream = TcpStream::connect(*addr)?;
                // Without it, Nagle's algorithm and delayed acknowledgements add 40 ms to a turn.
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => UnixStream::connect(&**path).map(Self::Unix),
        }
    }

    /// Edge-triggered, both directions, once for life: a change of interest would be a system call.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(s) => s.register(registry, token, interest),
            Self::Unix(s) => s.register(registry, token, interest),
        }
    }

    #[inline]
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Self::Tcp(s) => s.read(buf),
                Self::Unix(s) => s.read(buf),
            };
            match result {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Writes `head` and then `tail` with one system call.
    #[inline]
    pub(crate) fn write(&mut self, head: &[u8], tail: &[u8]) -> io::Result<usize> {
        loop {
            let both = [IoSlice::new(head), IoSlice::new(tail)];
            let result = match self {
                Self::Tcp(s) if tail.is_empty() => s.write(head),
                Self::Tcp(s) if head.is_empty() => s.write(tail),
                Self::Tcp(s) => s.write_vectored(&both),
                Self::Unix(s) => s.write_vectored(&both),
            };
            match result {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// The error of a failed connect, if there is one.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(s) => s.take_error(),
            Self::Unix(s) => s.take_error(),
        }
    }

    /// Sends FIN.
    pub(crate) fn finish(&self) {
        // Fails only if the peer is gone already, which the next read reports.
        let _gone = match self {
            Self::Tcp(s) => s.shutdown(Shutdown::Write),
            Self::Unix(s) => s.shutdown(Shutdown::Write),
        };
    }

    /// Makes closing send RST, so that the peer cannot take a truncated message for a whole one.
    pub(crate) fn abort_on_close(&self) {
        if let Self::Tcp(s) = self {
            // Fails only if the peer is gone already.
            let _gone = socket2::SockRef::from(s).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener),
}

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

impl Listener {
    /// Binds and listens.
    pub(crate) fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Ip(addr) => {
                let domain = socket2::Domain::for_address(*addr);
                let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
                socket.set_reuse_address(true)?;
                socket.set_nonblocking(true)?;
                // Accepted sockets inherit it: one system call less for each connection.
                socket.set_tcp_nodelay(true)?;
                socket.bind(&(*addr).into())?;
                socket.listen(BACKLOG)?;
                let listener = TcpListener::from_std(socket.into());
                let addr = listener.local_addr()?;
                Ok(Self::Tcp(listener, addr))
            }
            Address::Unix(path) => {
                remove_stale(path)?;
                UnixListener::bind(&**path).map(Self::Unix)
            }
        }
    }

    /// Another handle to the same socket.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(l, addr) => {
                let fd = l.as_fd().try_clone_to_owned()?;
                Self::Tcp(TcpListener::from_std(fd.into()), *addr)
            }
            Self::Unix(l) => {
                let fd = l.as_fd().try_clone_to_owned()?;
                Self::Unix(UnixListener::from_std(fd.into()))
            }
        })
    }

    /// Where it listens (port resolved).
    pub(crate) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(_, addr) => Ok(Address::Ip(*addr)),
            Self::Unix(l) => {
                let addr = l.local_addr()?;
                let path = addr.as_pathname().and_then(|p| p.to_str()).unwrap_or_default();
                Ok(Address::Unix(path.into()))
            }
        }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Self::Tcp(l, _) => l.register(registry, token, Interest::READABLE),
            Self::Unix(l) => l.register(registry, token, Interest::READABLE),
        }
    }

    pub(crate) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Self::Tcp(l, _) => l.deregister(registry),
            Self::Unix(l) => l.deregister(registry),
        }
    }

    /// The next waiting client: its socket, its address, ours.
    pub(crate) fn accept(&self) -> io::Result<(Stream, SocketAddr, SocketAddr)> {
        match self {
            Self::Tcp(l, local) => {
                let (stream, client) = l.accept()?;
                Ok((Stream::Tcp(stream), client, *local))
            }
            Self::Unix(l) => {
                let (stream, _) = l.accept()?;
                Ok((Stream::Unix(stream), NO_ADDRESS, NO_ADDRESS))
            }
        }
    }
}

/// A socket file that nobody listens on is left over from a process that died.
fn remove_stale(path: &str) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Is this machine, not the peer, in trouble? Then no endpoint is to blame.
pub(crate) fn is_local(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL
                | libc::EACCES
                | libc::EPERM
        )
    )
}
