//! Non-blocking stream sockets, TCP or Unix, with TLS or without, as the worker sees them.

use super::tls::TlsStream;
use evenkeel_core::address::Address;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token, event::Source};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A connected (or connecting) stream socket, with TLS on it or without.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Plain),
    Tls(Box<TlsStream>),
    /// Between the two; never seen outside of [`Stream::accept_tls`] and [`Stream::connect_tls`].
    Gone,
}

/// A stream socket.
#[derive(Debug)]
pub(crate) enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The client address reported for Unix sockets, which have none.
pub(crate) const NO_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Stream {
    /// Starts to connect; the socket becomes writable when it is connected or failed.
    pub(crate) fn connect(address: &Address) -> io::Result<Self> {
        Ok(Self::Plain(match address {
            Address::Ip(addr) => {
                let stream = TcpStream::connect(*addr)?;
                // Without it, Nagle's algorithm and delayed acknowledgements add 40 ms to a turn.
                stream.set_nodelay(true)?;
                Plain::Tcp(stream)
            }
            Address::Unix(path) => Plain::Unix(UnixStream::connect(&**path)?),
        }))
    }

    /// Puts TLS on a client's connection, of which `first` was read already.
    ///
    /// # Errors
    /// It does not begin with TLS.
    pub(crate) fn accept_tls(&mut self, config: Arc<rustls::ServerConfig>, first: &[u8]) -> io::Result<()> {
        let connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
        match std::mem::replace(self, Self::Gone) {
            Self::Plain(socket) => *self = Self::Tls(Box::new(TlsStream::server(socket, connection, first)?)),
            other => *self = other,
        }
        Ok(())
    }

    /// Puts TLS on our connection to an endpoint with that name.
    ///
    /// # Errors
    /// The settings do not fit together.
    pub(crate) fn connect_tls(
        &mut self,
        config: Arc<rustls::ClientConfig>,
        name: rustls::pki_types::ServerName<'static>,
    ) -> io::Result<()> {
        let connection = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        match std::mem::replace(self, Self::Gone) {
            Self::Plain(socket) => *self = Self::Tls(Box::new(TlsStream::client(socket, connection))),
            other => *self = other,
        }
        Ok(())
    }

    /// Goes on with the TLS handshake; true: it is done, or there is none.
    ///
    /// # Errors
    /// It failed.
    pub(crate) fn handshake(&mut self) -> io::Result<bool> {
        match self {
            Self::Tls(tls) => tls.handshake(),
            _ => Ok(true),
        }
    }

    pub(crate) fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Tls(tls) => Some(tls),
            _ => None,
        }
    }

    /// The socket, if bytes are on it as they are here.
    ///
    /// # Errors
    /// It has TLS on it.
    pub(super) fn plain(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Plain(Plain::Tcp(s)) => Ok(s.as_fd()),
            Self::Plain(Plain::Unix(s)) => Ok(s.as_fd()),
            Self::Tls(_) | Self::Gone => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Is there nothing to read now, not even an end?
    pub(super) fn is_drained(&self) -> bool {
        let Ok(socket) = self.plain() else { return false };
        let peeked = socket2::SockRef::from(&socket).peek(&mut [std::mem::MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The socket itself.
    fn socket(&self) -> io::Result<&Plain> {
        match self {
            Self::Plain(socket) => Ok(socket),
            Self::Tls(tls) => Ok(&tls.socket),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Edge-triggered, both directions, once for life: a change of interest would be a system call.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Plain(Plain::Tcp(s)) => s.register(registry, token, interest),
            Self::Plain(Plain::Unix(s)) => s.register(registry, token, interest),
            // TLS comes later.
            Self::Tls(_) | Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    #[inline]
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buf),
            Self::Tls(tls) => tls.read(buf),
            Self::Gone => Ok(0),
        }
    }

    /// Writes `head` and then `tail` with one system call.
    #[inline]
    pub(crate) fn write(&mut self, head: &[u8], tail: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write_both(head, tail),
            Self::Tls(tls) => tls.write(head, tail),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Has it taken bytes that the socket has not?
    #[inline]
    pub(crate) fn holds_output(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.holds_output())
    }

    /// The error of a failed connect, if there is one.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self.socket()? {
            Plain::Tcp(s) => s.take_error(),
            Plain::Unix(s) => s.take_error(),
        }
    }

    /// Sends FIN; with TLS, a goodbye before it.
    pub(crate) fn finish(&mut self) {
        match self {
            Self::Plain(socket) => socket.finish(),
            Self::Tls(tls) => tls.finish(),
            Self::Gone => {}
        }
    }

    /// With TLS, says that this is the end, for it is about to be closed.
    pub(crate) fn goodbye(&mut self) {
        if let Self::Tls(tls) = self {
            tls.finish();
        }
    }

    /// Makes closing send RST, so that the peer cannot take a truncated message for a whole one.
    pub(crate) fn abort_on_close(&self) {
        if let Ok(Plain::Tcp(s)) = self.socket() {
            // Fails only if the peer is gone already.
            let _gone = socket2::SockRef::from(s).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

impl Plain {
    #[inline]
    fn write_both(&mut self, head: &[u8], tail: &[u8]) -> io::Result<usize> {
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

    /// Sends FIN.
    pub(super) fn finish(&self) {
        // Fails only if the peer is gone already, which the next read reports.
        let _gone = match self {
            Self::Tcp(s) => s.shutdown(Shutdown::Write),
            Self::Unix(s) => s.shutdown(Shutdown::Write),
        };
    }
}

impl Read for Plain {
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
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
}

impl Write for Plain {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_both(buf, &[])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write_vectored(bufs),
            Self::Unix(s) => s.write_vectored(bufs),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    /// With its address, which all that are accepted there have in common.
    Tcp(TcpListener, Arc<SocketAddr>),
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
                Ok(Self::Tcp(listener, Arc::new(addr)))
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
                Self::Tcp(TcpListener::from_std(fd.into()), addr.clone())
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
            Self::Tcp(_, addr) => Ok(Address::Ip(**addr)),
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
    pub(crate) fn accept(&self) -> io::Result<(Stream, SocketAddr, Arc<SocketAddr>)> {
        match self {
            Self::Tcp(l, local) => {
                let (stream, client) = l.accept()?;
                Ok((Stream::Plain(Plain::Tcp(stream)), client, local.clone()))
            }
            Self::Unix(l) => {
                let (stream, _) = l.accept()?;
                Ok((Stream::Plain(Plain::Unix(stream)), NO_ADDRESS, Arc::new(NO_ADDRESS)))
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
