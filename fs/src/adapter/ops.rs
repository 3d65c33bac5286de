//! Request by request. Each one converts, calls the engine once and replies.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use weldrfs_meta::{AttrChange, FallocMode, SeekTo, XattrMode};

use super::announce::Part;
use super::convert::{ino, ns, time_set};
use super::{Adapter, GENERATION, Readdirplus, asker, convert, empty, errno};
use crate::engine::{Caller, Kind};
use crate::error::FsError;

/// Requests the kernel may have under way in the background (read-ahead, write-back).
const MAX_BACKGROUND: u16 = 64;
/// Most bytes one `copy_file_range` answers for; the kernel asks again.
const MAX_COPY_BYTES: u64 = 1 << 30;

fn caller(req: &Request) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
    }
}

impl Adapter {
    fn capabilities(&self) -> InitFlags {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO
            // Nobody but this kernel changes files; where the engine does, it says so.
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            // The kernel then need not ask for capabilities before every write.
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        if self.manners.no_open {
            wanted |= InitFlags::FUSE_NO_OPEN_SUPPORT;
        }
        if self.manners.no_opendir {
            wanted |= InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        }
        if self.manners.kernel_writeback {
            wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
        }
        if self.manners.idmapped {
            wanted |= InitFlags::FUSE_ALLOW_IDMAP;
        }
        match self.manners.readdirplus {
            Readdirplus::Off => {}
            Readdirplus::On => wanted |= InitFlags::FUSE_DO_READDIRPLUS,
            Readdirplus::Auto => {
                wanted |= InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO
            }
        }
        wanted
    }
}

impl Adapter {
    /// What the kernel is told of a file that it opens.
    fn file_flags(&self) -> FopenFlags {
        match self.engine.close_waits() {
            true => FopenFlags::FOPEN_KEEP_CACHE,
            false => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = self.capabilities();
        if let Err(missing) = config.add_capabilities(wanted) {
            tracing::info!(
                ?missing,
                "the kernel lacks some FUSE features; going on without them"
            );
            let _ = config.add_capabilities(wanted & !missing);
        }
        // Each setter answers with the nearest value it takes.
        if let Err(nearest) = config.set_max_write(self.manners.max_write) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(self.manners.max_readahead) {
            let _ = config.set_max_readahead(nearest);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if self.kernel.script.is_spoken_by(req) {
            match self.kernel.script.lookup(ino(parent), name.as_bytes()) {
                Part::Real => {}
                Part::Nothing => return reply.error(Errno::ENOENT),
                Part::Shown(attr) => return self.show(&attr, reply),
            }
        }
        match self.asked().find(ino(parent), name.as_bytes()) {
            Ok(Some(attr)) => self.entry("lookup", Ok(attr), reply),
            // Inode 0 is FUSE's way of saying "no, and you may remember that".
            // What is being announced is asked for again.
            Ok(None) if !self.manners.negative_timeout.is_zero() && !self.kernel.is_telling() => {
                let nothing = convert::nothing();
                let ttl = &self.manners.negative_timeout;
                reply.entry_with_ttls(ttl, ttl, &nothing, GENERATION);
            }
            Ok(None) => reply.error(Errno::ENOENT),
            Err(error) => reply.error(errno("lookup", &error)),
        }
    }

    fn forget(&self, _req: &Request, node: INodeNo, nlookup: u64) {
        self.engine.forget(ino(node), nlookup);
    }

    fn getattr(&self, _req: &Request, node: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.attr("getattr", self.asked().getattr(ino(node)), reply);
    }

    fn setattr(
        &self,
        req: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = AttrChange {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(time_set),
            mtime: mtime.map(time_set),
            ctime_ns: ctime.map(ns),
            // fuser does not hand on the kernel's flag for truncation; who is not root may not keep the bits.
            kill_priv: size.is_some() && self.loses_set_id(req, node),
        };
        if self.kernel.script.is_spoken_by(req) {
            return self.attr("setattr", self.engine.getattr(ino(node)), reply);
        }
        self.attr("setattr", self.asked().setattr(ino(node), set), reply);
    }

    fn readlink(&self, _req: &Request, node: INodeNo, reply: ReplyData) {
        match self.asked().readlink(ino(node)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno("readlink", &error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = Kind::of_mode(mode);
        if self.kernel.script.is_spoken_by(req) {
            return self.made(ino(parent), name.as_bytes(), kind, reply);
        }
        let made = self
            .asked()
            .mknod(ino(parent), name.as_bytes(), kind, mode, rdev, &caller(req));
        self.entry("mknod", made, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        if self.kernel.script.is_spoken_by(req) {
            return self.made(ino(parent), name.as_bytes(), Kind::Dir, reply);
        }
        self.entry(
            "mkdir",
            self.asked()
                .mkdir(ino(parent), name.as_bytes(), mode, &caller(req)),
            reply,
        );
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if self.kernel.script.is_spoken_by(req) {
            return self.gone(ino(parent), name.as_bytes(), reply);
        }
        empty(
            "unlink",
            self.asked().unlink(ino(parent), name.as_bytes()),
            reply,
        );
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if self.kernel.script.is_spoken_by(req) {
            return self.gone(ino(parent), name.as_bytes(), reply);
        }
        empty(
            "rmdir",
            self.asked().rmdir(ino(parent), name.as_bytes()),
            reply,
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        if self.kernel.script.is_spoken_by(req) {
            return self.made(ino(parent), link_name.as_bytes(), Kind::Symlink, reply);
        }
        let target = target.as_os_str().as_bytes();
        let made = self
            .asked()
            .symlink(ino(parent), link_name.as_bytes(), target, &caller(req));
        self.entry("symlink", made, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let known = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        if !known.contains(flags) {
            return reply.error(Errno::EINVAL);
        }
        let flags = weldrfs_meta::RenameFlags {
            noreplace: flags.contains(RenameFlags::RENAME_NOREPLACE),
            exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
        };
        let (from, to) = (ino(parent), ino(newparent));
        empty(
            "rename",
            self.asked()
                .rename(from, name.as_bytes(), to, newname.as_bytes(), flags),
            reply,
        );
    }

    fn link(
        &self,
        _req: &Request,
        node: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.entry(
            "link",
            self.asked()
                .link(ino(node), ino(newparent), newname.as_bytes()),
            reply,
        );
    }

    fn open(&self, _req: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.manners.no_open {
            true => reply.error(Errno::ENOSYS),
            false => reply.opened(FileHandle(0), self.file_flags()),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        // Without opens there is nothing to open: the kernel makes the file with MKNOD from then on.
        if self.manners.no_open {
            return reply.error(Errno::ENOSYS);
        }
        match self.asked().mknod(
            ino(parent),
            name.as_bytes(),
            Kind::File,
            mode,
            0,
            &caller(req),
        ) {
            Ok(attr) => {
                self.engine.retain(attr.ino, 1);
                let ttl = self
                    .manners
                    .attr_timeout(&attr)
                    .min(self.manners.entry_timeout);
                reply.created(
                    &ttl,
                    &convert::attr(&attr),
                    GENERATION,
                    FileHandle(0),
                    self.file_flags(),
                );
            }
            Err(error) => reply.error(errno("create", &error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (node, len) = (ino(node), size as usize);
        match self.asked().read_local(node, offset, len) {
            Ok(Some(bytes)) => reply.data(&bytes),
            Ok(None) => {
                // From now on, whenever a thread is free: waiting for one is waiting too.
                let (engine, until) = (Arc::clone(&self.engine), self.engine.read_deadline());
                self.pools
                    .reads
                    .run(move || match engine.read_until(node, offset, len, until) {
                        Ok(bytes) => reply.data(&bytes),
                        Err(error) => reply.error(errno("read", &error)),
                    });
            }
            Err(error) => reply.error(errno("read", &error)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (node, kill) = (
            ino(node),
            write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        );
        let answer = |result: Result<usize, FsError>, reply: ReplyWrite| match result {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(errno("write", &error)),
        };
        if !self.asked().would_wait(data.len()) {
            return answer(self.engine.write(node, offset, data, kill), reply);
        }
        // Who waits for room does not keep everybody else from the file system.
        let (engine, data) = (Arc::clone(&self.engine), data.to_vec());
        self.pools
            .writes
            .run(move || answer(engine.write(node, offset, &data, kill), reply));
    }

    fn flush(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if !self.engine.close_waits() {
            // Closing asks for nothing: what was written is with us already. The kernel does not ask again.
            return reply.error(Errno::ENOSYS);
        }
        let (engine, node) = (Arc::clone(self.asked()), ino(node));
        self.pools
            .flushes
            .run(move || empty("close", engine.close(node), reply));
    }

    fn fsync(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (engine, node) = (Arc::clone(self.asked()), ino(node));
        self.pools
            .flushes
            .run(move || empty("fsync", engine.fsync(node, datasync), reply));
    }

    fn fsyncdir(
        &self,
        req: &Request,
        node: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(req, node, fh, datasync, reply);
    }

    fn opendir(&self, _req: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.manners.no_opendir {
            true => reply.error(Errno::ENOSYS),
            false => reply.opened(
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR,
            ),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.list_plain(ino(node), offset, reply);
    }

    fn readdirplus(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list_plus(ino(node), offset, reply);
    }

    fn statfs(&self, _req: &Request, _node: INodeNo, reply: ReplyStatfs) {
        match self.asked().statfs() {
            Ok(s) => reply.statfs(
                s.blocks,
                s.free,
                s.available,
                s.files,
                s.files_free,
                s.block_bytes,
                s.name_max,
                s.block_bytes,
            ),
            Err(error) => reply.error(errno("statfs", &error)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        const BOTH: i32 = libc::XATTR_CREATE | libc::XATTR_REPLACE;
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            BOTH => XattrMode::CreateAndReplace,
            _ => return reply.error(Errno::EINVAL),
        };
        empty(
            "setxattr",
            self.asked()
                .setxattr(ino(node), name.as_bytes(), value, mode),
            reply,
        );
    }

    fn getxattr(&self, _req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.asked().getxattr(ino(node), name.as_bytes()) {
            Ok(value) => sized(&value, size, reply),
            Err(error) => reply.error(errno("getxattr", &error)),
        }
    }

    fn listxattr(&self, req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        match self.asked().listxattr(ino(node), asker::sees_trusted(req)) {
            Ok(names) => {
                let mut list = Vec::new();
                for name in names {
                    list.extend_from_slice(&name);
                    list.push(0);
                }
                sized(&list, size, reply);
            }
            Err(error) => reply.error(errno("listxattr", &error)),
        }
    }

    fn removexattr(&self, _req: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            "removexattr",
            self.asked().removexattr(ino(node), name.as_bytes()),
            reply,
        );
    }

    fn access(&self, _req: &Request, _node: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions itself (`default_permissions`) and does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        let mode = match mode {
            0 => FallocMode::Allocate { keep_size: false },
            KEEP => FallocMode::Allocate { keep_size: true },
            PUNCH => FallocMode::PunchHole,
            ZERO => FallocMode::ZeroRange { keep_size: false },
            ZERO_KEEP => FallocMode::ZeroRange { keep_size: true },
            _ => return reply.error(errno("fallocate", &FsError::NotSupported)),
        };
        empty(
            "fallocate",
            self.asked().fallocate(
                ino(node),
                mode,
                offset,
                length,
                self.loses_set_id(req, node),
            ),
            reply,
        );
    }

    fn lseek(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let whence = match whence {
            libc::SEEK_DATA => SeekTo::Data,
            libc::SEEK_HOLE => SeekTo::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        match self.asked().lseek(ino(node), offset, whence) {
            Ok(at) => reply.offset(at as i64),
            Err(error) => reply.error(errno("lseek", &error)),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let len = len.min(MAX_COPY_BYTES);
        match self.asked().copy_file_range(
            ino(ino_in),
            offset_in,
            ino(ino_out),
            offset_out,
            len,
            self.loses_set_id(req, ino_out),
        ) {
            Ok(copied) => reply.written(copied as u32),
            Err(error) => reply.error(errno("copy_file_range", &error)),
        }
    }
}

/// Answers with a value, or with its length when that is what was asked.
fn sized(value: &[u8], size: u32, reply: ReplyXattr) {
    match size {
        0 => reply.size(value.len() as u32),
        size if (size as usize) < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}
