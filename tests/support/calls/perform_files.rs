//! Makes the calls on open files.

use super::call::{Answer, Call, Outcome, runs};
use super::perform::{Performer, errno, returned};
use rustix::fd::AsRawFd;
use rustix::fs::FallocateFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const PAGE: u64 = 4096;

fn number(result: rustix::io::Result<usize>) -> Outcome {
    result.map(|n| Answer::Number(n as i64)).map_err(errno)
}

impl Performer {
    pub(super) fn file(&mut self, call: &Call) -> Outcome {
        match *call {
            Call::Read { slot, len, at } => {
                let (file, mut bytes) = (self.slot(slot)?, vec![0u8; len]);
                let n = match at {
                    Some(at) => rustix::io::pread(file, &mut bytes[..], at as u64),
                    None => rustix::io::read(file, &mut bytes[..]),
                };
                Ok(Answer::Bytes(runs(&bytes[..n.map_err(errno)?])))
            }
            Call::Write {
                slot,
                len,
                at,
                fill,
            } => {
                let (file, bytes) = (self.slot(slot)?, vec![fill; len]);
                number(match at {
                    Some(at) => rustix::io::pwrite(file, &bytes, at as u64),
                    None => rustix::io::write(file, &bytes),
                })
            }
            Call::Seek {
                slot,
                offset,
                whence,
            } => {
                let file = self.slot(slot)?;
                // Positions in a directory are every file system's own numbers.
                if rustix::fs::fstat(file)
                    .is_ok_and(|seen| seen.st_mode & libc::S_IFMT == libc::S_IFDIR)
                {
                    return Err(libc::EISDIR);
                }
                let file = file.as_raw_fd();
                // SAFETY: the call takes numbers only.
                returned(unsafe { libc::lseek(file, offset, whence) })
            }
            Call::Sync { slot, data } => {
                let file = self.slot(slot)?;
                let synced = match data {
                    true => rustix::fs::fdatasync(file),
                    false => rustix::fs::fsync(file),
                };
                synced.map(|()| Answer::Done).map_err(errno)
            }
            Call::SetLen { slot, len } => rustix::fs::ftruncate(self.slot(slot)?, len as u64)
                .map(|()| Answer::Done)
                .map_err(errno),
            Call::Allocate {
                slot,
                mode,
                offset,
                len,
            } => {
                let mode = FallocateFlags::from_bits_retain(mode as u32);
                rustix::fs::fallocate(self.slot(slot)?, mode, offset as u64, len as u64)
                    .map(|()| Answer::Done)
                    .map_err(errno)
            }
            Call::Copy {
                from,
                from_at,
                to,
                to_at,
                len,
            } => {
                let (mut from_at, mut to_at) = (from_at as u64, to_at as u64);
                number(rustix::fs::copy_file_range(
                    self.slot(from)?,
                    Some(&mut from_at),
                    self.slot(to)?,
                    Some(&mut to_at),
                    len,
                ))
            }
            Call::Send {
                from,
                from_at,
                to,
                len,
            } => {
                let mut at = from_at as u64;
                let (from, to) = (self.slot(from)?, self.slot(to)?);
                number(rustix::fs::sendfile(to, from, Some(&mut at), len))
            }
            Call::Mapped {
                slot,
                page,
                len,
                fill,
            } => self.mapped(slot, page * PAGE, len, fill),
            _ => unreachable!("{call:?} is not about an open file"),
        }
    }

    /// Maps a range and touches what of it lies within the file.
    fn mapped(&self, slot: usize, offset: u64, len: usize, fill: Option<u8>) -> Outcome {
        let file = self.slot(slot)?;
        let access = match fill {
            Some(_) => ProtFlags::READ | ProtFlags::WRITE,
            None => ProtFlags::READ,
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice, unmapped below.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                access,
                MapFlags::SHARED,
                file,
                offset,
            )
        }
        .map_err(errno)?;
        let size = rustix::fs::fstat(file).map_err(errno)?.st_size as u64;
        let inside = size.saturating_sub(offset).min(len as u64) as usize;
        // SAFETY: the mapping is `len` bytes long, lives until munmap, and what is touched lies within the file, which
        // nobody cuts meanwhile: the test makes one call at a time.
        let bytes = unsafe { std::slice::from_raw_parts_mut(address.cast::<u8>(), inside) };
        if let Some(fill) = fill {
            bytes.fill(fill);
        }
        let seen = runs(bytes);
        // SAFETY: the same mapping, not used after this.
        unsafe { munmap(address, len) }.map_err(errno)?;
        Ok(Answer::Bytes(seen))
    }
}
