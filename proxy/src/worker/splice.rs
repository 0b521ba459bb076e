//! Bulk moves inside the kernel: from one socket into a pipe, from there into the other (`splice(2)`), so that
//! no byte of it comes to us.
//!
//! That is for payload which the engine need not see ([`Session::may_pass_link`]) and which comes in large pieces.
//! What is read decides: one large read makes a direction *bulk*, small moves make it ordinary again.
//! A pipe is filled only when it is empty, and emptied at once, as far as the other socket takes it. So a session
//! has one only while its reader is the slower side, and what a slow reader can hold up is one pipe's worth.
//!
//! Bytes in a pipe go before those in the buffer of their direction: a pipe is filled only when nothing waits
//! there, and what comes behind it waits there until it is empty.
//!
//! [`Session::may_pass_link`]: evenkeel_wire::session::Session::may_pass_link

use super::Worker;
use super::buffer::SendBuf;
use super::descriptors::Descriptors;
use super::drive::Tails;
use super::link::LinkState;
use super::slab::Key;
use super::socket::Stream;
use evenkeel_core::end::Cause;
use rustix::io::Errno;
use rustix::pipe::{self, PipeFlags, SpliceFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tracing::info;

/// From this size on a piece is worth one more system call, for only that shows that the socket is empty now; smaller
/// ones are cheaper read and written.
pub(super) const BULK: usize = 16 * 1024;

/// Less than this is not worth a move.
const TRICKLE: usize = 4 * 1024;

/// A bulk direction becomes ordinary again after so many moves of less than that. One is no sign yet: it is what is
/// left behind a large one, while the sender goes on.
const PATIENCE: u8 = 4;

/// What a pipe is asked to hold. The kernel counts pieces, one for each page of this, and a piece of a file that
/// was sent with `sendfile` is a page.
const PIPE_BYTES: usize = 256 * 1024;

/// A pipe that holds less is of no use. The kernel makes smaller ones when a user has many.
const LEAST_PIPE_BYTES: usize = 64 * 1024;

/// Pipes of one worker. They hold what slow readers hold up; when there are as many, the next one's bytes are
/// read and written.
const MOST_PIPES: usize = 64;

/// Empty pipes that a worker keeps.
const SPARE: usize = 8;

/// A pipe and what it holds.
#[derive(Debug)]
struct Pipe {
    exit: OwnedFd,
    entry: OwnedFd,
    size: usize,
    held: usize,
}

/// A worker's pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    spare: Vec<Pipe>,
    /// Spare ones, and those in use.
    open: usize,
    /// The kernel, or who guards it, does not let us: everything is read and written from now on.
    refused: bool,
}

/// What a session moves inside the kernel.
#[derive(Debug, Default)]
pub(super) struct Splice {
    to_client: Flow,
    to_link: Flow,
}

/// One direction of it.
#[derive(Debug, Default)]
struct Flow {
    /// Small moves left until it is bulk no more; 0: it is not.
    patience: u8,
    /// With something in it.
    pipe: Option<Pipe>,
}

/// Where something goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Toward {
    Client,
    Link,
}

impl Pipe {
    fn open() -> rustix::io::Result<Self> {
        let (exit, entry) = pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let size = match pipe::fcntl_setpipe_size(&entry, PIPE_BYTES) {
            Ok(size) => size,
            // This user's pipes hold enough already.
            Err(_) => pipe::fcntl_getpipe_size(&entry)?,
        };
        Ok(Self { exit, entry, size, held: 0 })
    }

    /// Moves up to `most` bytes in. A pipe that was empty has room, so "would block" means an empty socket.
    fn fill(&mut self, from: impl AsFd, most: usize) -> rustix::io::Result<usize> {
        debug_assert_eq!(self.held, 0);
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let n = retry(|| pipe::splice(from.as_fd(), None, &self.entry, None, most.min(self.size), flags))?;
        self.held = n;
        Ok(n)
    }

    /// Moves out what the socket takes.
    fn empty(&mut self, to: impl AsFd) -> rustix::io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let n = retry(|| pipe::splice(&self.exit, None, to.as_fd(), None, self.held, flags))?;
        self.held -= n;
        Ok(n)
    }

    /// Reads out what it holds.
    fn read_out(&mut self, into: &mut Vec<u8>) -> rustix::io::Result<()> {
        let begin = into.len();
        into.resize(begin + self.held, 0);
        let mut at = begin;
        while at < into.len() {
            match retry(|| rustix::io::read(&self.exit, &mut into[at..]))? {
                0 => return Err(Errno::IO),
                n => at += n,
            }
        }
        self.held = 0;
        Ok(())
    }
}

/// A call that a signal interrupted is made again.
fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> rustix::io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Is it the call that fails, and not one of the sockets?
fn is_refusal(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::INVAL | Errno::PERM | Errno::OPNOTSUPP)
}

impl Pipes {
    /// An empty pipe, if there may be one more.
    fn take(&mut self, descriptors: &Descriptors) -> Option<Pipe> {
        if self.refused {
            return None;
        }
        if let Some(pipe) = self.spare.pop() {
            return Some(pipe);
        }
        if self.open >= MOST_PIPES || !descriptors.has_room() {
            return None;
        }
        let pipe = Pipe::open().ok().filter(|pipe| pipe.size >= LEAST_PIPE_BYTES)?;
        self.open += 1;
        descriptors.take();
        descriptors.take();
        Some(pipe)
    }

    /// Gives up for good.
    fn refuse(&mut self, error: &io::Error) {
        self.refused = true;
        info!(%error, "large bodies cannot be moved inside the kernel here; they are read and written");
    }

    /// Takes it back, to be used again if nothing is left in it.
    fn give(&mut self, pipe: Pipe, descriptors: &Descriptors) {
        if pipe.held == 0 && self.spare.len() < SPARE && !self.refused {
            return self.spare.push(pipe);
        }
        self.open -= 1;
        descriptors.give();
        descriptors.give();
    }
}

impl Flow {
    fn is_bulk(&self) -> bool {
        self.patience > 0
    }

    /// So much came at once.
    fn came(&mut self, pipe: Pipe, n: usize) {
        self.pipe = Some(pipe);
        self.patience = match n {
            BULK.. => PATIENCE,
            TRICKLE.. => self.patience,
            _ => self.patience.saturating_sub(1),
        };
    }
}

impl Splice {
    fn flow(&mut self, toward: Toward) -> &mut Flow {
        match toward {
            Toward::Client => &mut self.to_client,
            Toward::Link => &mut self.to_link,
        }
    }

    /// Something waits in a pipe.
    pub(super) fn holds(&self, toward: Toward) -> bool {
        match toward {
            Toward::Client => self.to_client.pipe.is_some(),
            Toward::Link => self.to_link.pipe.is_some(),
        }
    }

    /// Nothing is left to remember.
    pub(super) fn is_over(&self) -> bool {
        let is_over = |flow: &Flow| !flow.is_bulk() && flow.pipe.is_none();
        is_over(&self.to_client) && is_over(&self.to_link)
    }

    /// The turn is over: what did not reach its link will not. What the client has to get stays.
    pub(super) fn end_turn(&mut self, pipes: &mut Pipes, descriptors: &Descriptors) {
        (self.to_client.patience, self.to_link.patience) = (0, 0);
        self.drop_pipe(Toward::Link, pipes, descriptors);
    }

    /// Nobody will get what waits.
    pub(super) fn drop_pipe(&mut self, toward: Toward, pipes: &mut Pipes, descriptors: &Descriptors) {
        if let Some(pipe) = self.flow(toward).pipe.take() {
            pipes.give(pipe, descriptors);
        }
    }

    /// Moves from the pipe to the socket what that takes; returns how much it was. Afterwards the pipe is empty, or
    /// the socket is full.
    ///
    /// # Errors
    /// The socket is broken.
    pub(super) fn pour(
        &mut self,
        toward: Toward,
        to: &Stream,
        writable: &mut bool,
        behind: &mut SendBuf,
        pipes: &mut Pipes,
        descriptors: &Descriptors,
    ) -> io::Result<usize> {
        let Some(mut pipe) = self.flow(toward).pipe.take() else { return Ok(0) };
        let mut total = 0;
        // A move can be short for other reasons than a full socket, so the socket is asked until it says so.
        while *writable && pipe.held > 0 {
            match to.plain().and_then(|socket| Ok(pipe.empty(socket)?)) {
                Ok(n) if n > 0 => total += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => *writable = false,
                Err(error) if Errno::from_io_error(&error).is_some_and(is_refusal) => {
                    pipes.refuse(&error);
                    let mut bytes = std::mem::take(&mut behind.bytes).split_off(behind.sent);
                    let mut front = Vec::with_capacity(pipe.held + bytes.len());
                    let read = pipe.read_out(&mut front);
                    front.append(&mut bytes);
                    (behind.bytes, behind.sent) = (front, 0);
                    if let Err(error) = read {
                        pipes.give(pipe, descriptors);
                        return Err(error.into());
                    }
                }
                broken => {
                    pipes.give(pipe, descriptors);
                    return Err(broken.err().unwrap_or(io::ErrorKind::WriteZero.into()));
                }
            }
        }
        if pipe.held == 0 {
            pipes.give(pipe, descriptors);
        } else {
            self.flow(toward).pipe = Some(pipe);
        }
        Ok(total)
    }
}

/// How an attempt to fill a pipe went.
enum Filled {
    /// That much is in it.
    With(Pipe, usize),
    /// The socket is empty.
    Nothing,
    /// The other side will send no more.
    End,
    /// The socket is broken.
    Broken,
    /// Read and write it.
    Not,
}

impl Worker {
    /// Much came at once from the side across: the next bytes towards here need not come to us, if the engine and the
    /// sockets allow that.
    pub(super) fn expect_bulk(&mut self, key: Key, toward: Toward) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        let may = match toward {
            Toward::Client => client.engine.may_pass_link(),
            Toward::Link => client.engine.may_pass_client(),
        };
        if may < BULK as u64 || self.pipes.refused {
            return;
        }
        let link = client.link.and_then(|key| self.links.get(key));
        if client.stream.plain().is_ok() && link.is_some_and(|link| link.stream.plain().is_ok()) {
            client.splice.get_or_insert_default().flow(toward).patience = PATIENCE;
        }
    }

    fn fill(pipes: &mut Pipes, descriptors: &Descriptors, from: &Stream, may: u64, budget: usize) -> Filled {
        if may < BULK as u64 {
            return Filled::Not;
        }
        let Ok(socket) = from.plain() else { return Filled::Not };
        let Some(mut pipe) = pipes.take(descriptors) else { return Filled::Not };
        let most = usize::try_from(may).unwrap_or(usize::MAX).min(budget.max(BULK));
        let filled = match pipe.fill(socket, most) {
            Ok(0) => Filled::End,
            Ok(n) => return Filled::With(pipe, n),
            Err(Errno::AGAIN) => Filled::Nothing,
            Err(error) if is_refusal(error) => {
                pipes.refuse(&error.into());
                Filled::Not
            }
            Err(_) => Filled::Broken,
        };
        pipes.give(pipe, descriptors);
        filled
    }

    /// Moves what the client sent, if that is how it is to be done; returns how many bytes came.
    pub(super) fn splice_client(&mut self, key: Key, budget: usize) -> Option<usize> {
        let Self { sessions, links, pipes, descriptors, .. } = self;
        let client = sessions.get_mut(key)?;
        let flow = client.splice.as_mut().map(|splice| &mut splice.to_link).filter(|flow| flow.is_bulk())?;
        let link = links.get(client.link?).filter(|link| link.state == LinkState::Busy && !link.broken)?;
        let waits = !client.buffers.input.is_empty() || !client.buffers.to_link.unsent().is_empty();
        // What may have to be sent again must be kept.
        if waits || client.buffers.to_link.keep || link.stream.plain().is_err() {
            return None;
        }
        let may = client.engine.may_pass_client();
        let n = match Self::fill(pipes, descriptors, &client.stream, may, budget) {
            Filled::With(pipe, n) => {
                flow.came(pipe, n);
                if let Some(turn) = &mut client.turn {
                    turn.dropped = true;
                }
                n
            }
            Filled::Nothing => {
                client.readable = false;
                return Some(0);
            }
            Filled::End => {
                self.client_finished(key);
                return Some(0);
            }
            Filled::Broken => {
                self.client_lost(key);
                return Some(0);
            }
            Filled::Not => return None,
        };
        if let Some(Some(served)) = self.services.get(client.service as usize) {
            served.tally.bytes_received.add(n as u64);
        }
        self.call_engine(key, |engine, io, context| engine.client_passed(n as u64, io, context));
        self.carry_out(key, Tails::default());
        Some(n)
    }

    /// Moves what the endpoint sent, if that is how it is to be done; returns how many bytes came.
    pub(super) fn splice_link(&mut self, key: Key, budget: usize) -> Option<usize> {
        let Self { sessions, links, pipes, descriptors, .. } = self;
        let client = sessions.get_mut(key)?;
        let flow = client.splice.as_mut().map(|splice| &mut splice.to_client).filter(|flow| flow.is_bulk())?;
        let link = links.get_mut(client.link?)?;
        let waits = !client.buffers.answer.is_empty() || !client.buffers.to_client.unsent().is_empty();
        if waits || client.stream.plain().is_err() {
            return None;
        }
        let may = client.engine.may_pass_link();
        let n = match Self::fill(pipes, descriptors, &link.stream, may, budget) {
            Filled::With(pipe, n) => {
                flow.came(pipe, n);
                n
            }
            Filled::Nothing => {
                link.readable = false;
                return Some(0);
            }
            Filled::End => {
                link.readable = false;
                self.link_finished(key);
                return Some(0);
            }
            Filled::Broken => {
                self.link_lost(key, Cause::EndpointClosed);
                return Some(0);
            }
            Filled::Not => return None,
        };
        // A link that goes back to its pool must have nothing more to say.
        if n as u64 == may && !link.closed {
            link.readable = !link.stream.is_drained();
        }
        self.heard(key, n);
        self.call_engine(key, |engine, io, context| engine.link_passed(n as u64, io, context));
        self.carry_out(key, Tails::default());
        Some(n)
    }
}
