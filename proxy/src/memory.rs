//! Memory that is not needed any more goes back to the kernel.
//!
//! Two things do not go by themselves: pages of the program that only the start ran through, and what the
//! allocator keeps of sessions that are over. The control thread says once a second how many are open.

use std::ffi::{c_int, c_void};

/// Seconds after which everything has run that runs once.
const STARTED: u32 = 3;
/// So many sessions must have ended before the allocator is searched for whole pages that are free: it holds
/// up workers that allocate meanwhile, by about a millisecond for each ten megabytes.
const MANY: usize = 500;

/// Knows when there is something to give back.
#[derive(Default, Debug)]
pub(crate) struct Keeper {
    /// Seconds since the start, up to [`STARTED`].
    age: u32,
    /// The most sessions that were open since the allocator was asked.
    most: usize,
}

/// Has the allocator keep what turns and buffers were in as it is. Otherwise it joins each with its neighbours and
/// parts it again for the next: more than two of a hundred instructions of a worker with a thousand busy sessions.
pub(crate) fn keep_small() {
    /// The most that it takes.
    #[cfg(target_env = "gnu")]
    const BYTES: c_int = 160;
    // SAFETY: it may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MXFAST, BYTES)
    };
}

/// What is to be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unneeded {
    /// Code and heap of the start.
    Start,
    /// Heap of sessions.
    Sessions,
}

impl Keeper {
    /// A second has passed; so many sessions are open.
    pub(crate) fn tick(&mut self, sessions: usize) {
        match self.unneeded(sessions) {
            Some(Unneeded::Start) => {
                unmap_code();
                trim();
            }
            Some(Unneeded::Sessions) => trim(),
            None => {}
        }
    }

    fn unneeded(&mut self, sessions: usize) -> Option<Unneeded> {
        self.most = self.most.max(sessions);
        if self.age < STARTED {
            self.age += 1;
            return (self.age == STARTED).then_some(Unneeded::Start);
        }
        let ended = self.most - sessions;
        (ended >= MANY && ended >= self.most / 2).then(|| {
            self.most = sessions;
            Unneeded::Sessions
        })
    }
}

/// Unmaps what was never written of program and libraries. What is needed again comes from the page cache,
/// 64 KiB with each fault: some forty faults of about a microsecond.
fn unmap_code() {
    // SAFETY: the callback is what is asked for, and there is no data.
    unsafe { libc::dl_iterate_phdr(Some(unmap_object), std::ptr::null_mut()) };
}

/// Unmaps what was never written of one object. In the type of a callback of `dl_iterate_phdr`, which goes on
/// as long as the answer is 0.
unsafe extern "C" fn unmap_object(object: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    // SAFETY: it is given by the dynamic linker, which keeps it and the headers as long as the call lasts.
    let (base, segments) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)))
    };
    let page = rustix::param::page_size() as u64;
    for segment in segments {
        // A segment that must not be written to has no relocations, so that its pages are those of the file.
        if segment.p_type == libc::PT_LOAD && segment.p_flags & libc::PF_W == 0 {
            let from = (base + segment.p_vaddr) & !(page - 1);
            let length = base + segment.p_vaddr + segment.p_memsz - from;
            // SAFETY: a private mapping of a file, and unchanged: the next access finds what was there. Where
            // it is not (the kernel's own object) the call fails, and nothing has happened.
            unsafe { libc::madvise(from as *mut c_void, length as usize, libc::MADV_DONTNEED) };
        }
    }
    0
}

/// Asks the allocator to give back whole pages that are free.
fn trim() {
    // SAFETY: it may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_given_back_once_and_sessions_when_half_of_many_ended() {
        let mut keeper = Keeper::default();
        let said: Vec<_> = (0..10).map(|_| keeper.unneeded(4 * MANY)).collect();
        assert_eq!(said.iter().flatten().collect::<Vec<_>>(), [&Unneeded::Start]);
        assert_eq!(keeper.unneeded(2 * MANY + 1), None);
        assert_eq!(keeper.unneeded(2 * MANY), Some(Unneeded::Sessions));
        assert_eq!(keeper.unneeded(2 * MANY), None);
        assert_eq!(keeper.unneeded(MANY), Some(Unneeded::Sessions));
        // What is left is not worth a search.
        assert_eq!(keeper.unneeded(0), Some(Unneeded::Sessions));
        assert_eq!((keeper.unneeded(MANY - 1), keeper.unneeded(0)), (None, None));
    }

    #[test]
    fn code_runs_on_when_its_pages_are_gone() {
        let before: u64 = (0..1000).sum();
        unmap_code();
        trim();
        assert_eq!((0..1000).sum::<u64>(), before);
    }
}
