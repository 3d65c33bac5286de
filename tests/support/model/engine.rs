//! The engine as a subject of the comparison: the only test file that spells its signatures.

use super::compare::Subject;
use super::ops::{Answer, Change, Falloc, Id, Kind, Observed, Op, Seen, Stamp, Time, XattrWhen};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use weldrfs_fs::{
    AttrChange, Caller, FallocMode, FsError, Ino, RenameFlags, Source, StoreWait, TimeSet, Volume,
    VolumeConfig, Whence,
};

/// A volume on a `file://` store below one folder.
pub(crate) struct EngineSubject {
    folder: PathBuf,
    runtime: tokio::runtime::Runtime,
    volume: Option<Arc<Volume>>,
}

impl EngineSubject {
    pub(crate) fn new(folder: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be built");
        let mut subject = Self {
            folder: folder.to_owned(),
            runtime,
            volume: None,
        };
        subject.open();
        subject
    }

    fn open(&mut self) {
        let store = self.folder.join("store");
        std::fs::create_dir_all(&store).expect("the store's folder can be made");
        let config = VolumeConfig {
            source: Source::Directory(store),
            state_base: self.folder.join("state"),
            cache_dir: None,
            cache_bytes: 256 << 20,
            // Small, so that frames are evicted and decoded again.
            frame_cache_bytes: 1 << 20,
            free_floor_ratio: 0.0,
            staging_limit_bytes: None,
            // Short, so that checkpoints happen in the middle of everything.
            checkpoint_interval: Duration::from_millis(50),
            read_deadline: Duration::from_secs(30),
            read_only: false,
            max_uploads: 5,
            upload_delay: Duration::ZERO,
            trust_store: false,
            store_wait: StoreWait::Never,
            lease: weldrfs_fs::LeaseTerm::Auto,
            claim: weldrfs_fs::Claim::default(),
            trash: Duration::from_secs(7 * 86_400),
            divergent: None,
            at_ms: None,
        };
        let opened = Volume::open(config, self.runtime.handle().clone()).expect("the volume opens");
        self.volume = Some(opened);
    }

    /// Uploads everything and empties the caches, so that what follows is read from the store.
    pub(crate) fn send_to_store(&self) {
        let volume = self.volume.as_ref().expect("it is open");
        volume.sync(Duration::from_secs(60)).expect("sync succeeds");
        volume.drop_caches();
    }
}

impl Drop for EngineSubject {
    fn drop(&mut self) {
        if let Some(volume) = self.volume.take() {
            let _ = volume.close();
        }
    }
}

impl Subject for EngineSubject {
    fn run(&mut self, op: &Op, number: &dyn Fn(Id) -> u64) -> Observed {
        let volume = self.volume.as_ref().expect("it is open");
        perform(volume, op, &|id| Ino(number(id))).map_err(|error| error.errno())
    }

    fn reopen(&mut self, orderly: bool) {
        let volume = self.volume.take().expect("it is open");
        if orderly {
            volume.close().expect("the volume closes");
        } else {
            volume.abandon();
        }
        drop(volume);
        self.open();
        let report = self.volume.as_ref().expect("it is open").check();
        let report = report.expect("the tables can be checked");
        assert_eq!(report.findings, vec![], "invariants after reopening");
    }
}

fn perform(volume: &Volume, op: &Op, ino: &dyn Fn(Id) -> Ino) -> Result<Answer, FsError> {
    let engine = volume.engine();
    Ok(match op {
        Op::Lookup { dir, name } => seen(&engine.lookup(ino(*dir), name)?),
        Op::Getattr { node } => seen(&engine.getattr(ino(*node))?),
        Op::Setattr { node, change } => seen(&engine.setattr(ino(*node), attributes(change))?),
        Op::Readlink { node } => Answer::Bytes(engine.readlink(ino(*node))?.to_vec()),
        Op::Make {
            dir,
            name,
            kind,
            mode,
            rdev,
            uid,
            gid,
        } => seen(&engine.mknod(
            ino(*dir),
            name,
            to_engine(*kind),
            *mode,
            *rdev,
            &caller(*uid, *gid),
        )?),
        Op::Mkdir {
            dir,
            name,
            mode,
            uid,
            gid,
        } => seen(&engine.mkdir(ino(*dir), name, *mode, &caller(*uid, *gid))?),
        Op::Symlink {
            dir,
            name,
            target,
            uid,
            gid,
        } => seen(&engine.symlink(ino(*dir), name, target, &caller(*uid, *gid))?),
        Op::Link { node, dir, name } => seen(&engine.link(ino(*node), ino(*dir), name)?),
        Op::Unlink { dir, name } => done(engine.unlink(ino(*dir), name)?),
        Op::Rmdir { dir, name } => done(engine.rmdir(ino(*dir), name)?),
        Op::Rename {
            from,
            to,
            noreplace,
            exchange,
        } => {
            let flags = RenameFlags {
                noreplace: *noreplace,
                exchange: *exchange,
            };
            done(engine.rename(ino(from.0), &from.1, ino(to.0), &to.1, flags)?)
        }
        Op::Read { node, offset, len } => {
            Answer::Bytes(engine.read(ino(*node), *offset, *len)?.to_vec())
        }
        Op::Write {
            node,
            offset,
            data,
            kill_suid,
        } => Answer::Count(engine.write(ino(*node), *offset, data, *kill_suid)? as u64),
        Op::Fallocate {
            node,
            mode,
            offset,
            len,
        } => done(engine.fallocate(ino(*node), falloc(*mode), *offset, *len, false)?),
        Op::Seek { node, offset, hole } => {
            let whence = if *hole { Whence::Hole } else { Whence::Data };
            Answer::Count(engine.lseek(ino(*node), *offset, whence)?)
        }
        Op::CopyRange { from, to, len } => Answer::Count(engine.copy_file_range(
            ino(from.0),
            from.1,
            ino(to.0),
            to.1,
            *len,
            false,
        )?),
        Op::Fsync { node, datasync } => done(engine.fsync(ino(*node), *datasync)?),
        Op::Readdir { dir, page } => entries(volume, ino(*dir), *page)?,
        Op::Setxattr {
            node,
            name,
            value,
            when,
        } => done(engine.setxattr(ino(*node), name, value, xattr_mode(*when))?),
        Op::Getxattr { node, name } => Answer::Bytes(engine.getxattr(ino(*node), name)?.to_vec()),
        Op::Listxattr { node } => Answer::Names(
            engine
                .listxattr(ino(*node), true)?
                .into_iter()
                .map(|name| name.to_vec())
                .collect(),
        ),
        Op::Removexattr { node, name } => done(engine.removexattr(ino(*node), name)?),
        Op::Retain { node, times } => {
            engine.retain(ino(*node), *times);
            Answer::Done
        }
        Op::Forget { node, times } => {
            engine.forget(ino(*node), *times);
            Answer::Done
        }
    })
}

fn done((): ()) -> Answer {
    Answer::Done
}

/// A whole directory, page by page; a name that comes twice or a cookie that does not grow fails.
fn entries(volume: &Volume, dir: Ino, page: usize) -> Result<Answer, FsError> {
    let mut found = BTreeMap::new();
    let mut cookie = 0;
    loop {
        let listed = volume.engine().readdir(dir, cookie, page)?;
        if listed.is_empty() {
            return Ok(Answer::Entries(found));
        }
        for entry in listed {
            assert!(
                entry.cookie > cookie,
                "cookie {} follows {cookie}",
                entry.cookie
            );
            cookie = entry.cookie;
            let before = found.insert(entry.name.to_vec(), (entry.ino.0, from_engine(entry.kind)));
            assert!(before.is_none(), "readdir lists {:?} twice", entry.name);
        }
    }
}

fn caller(uid: u32, gid: u32) -> Caller {
    Caller { uid, gid }
}

fn attributes(change: &Change) -> AttrChange {
    let time = |time: Time| match time {
        Time::Now => TimeSet::Now,
        Time::At(at) => TimeSet::At(at),
    };
    AttrChange {
        mode: change.mode,
        uid: change.uid,
        gid: change.gid,
        size: change.size,
        atime: change.atime.map(time),
        mtime: change.mtime.map(time),
        ctime_ns: None,
        kill_priv: change.kill_suid,
    }
}

fn falloc(mode: Falloc) -> FallocMode {
    match mode {
        Falloc::Allocate { keep_size } => FallocMode::Allocate { keep_size },
        Falloc::PunchHole => FallocMode::PunchHole,
        Falloc::ZeroRange { keep_size } => FallocMode::ZeroRange { keep_size },
    }
}

fn xattr_mode(when: XattrWhen) -> weldrfs_fs::XattrMode {
    match when {
        XattrWhen::Any => weldrfs_fs::XattrMode::Any,
        XattrWhen::Create => weldrfs_fs::XattrMode::Create,
        XattrWhen::Replace => weldrfs_fs::XattrMode::Replace,
    }
}

fn to_engine(kind: Kind) -> weldrfs_fs::Kind {
    match kind {
        Kind::File => weldrfs_fs::Kind::File,
        Kind::Dir => weldrfs_fs::Kind::Dir,
        Kind::Symlink => weldrfs_fs::Kind::Symlink,
        Kind::Fifo => weldrfs_fs::Kind::Fifo,
        Kind::Socket => weldrfs_fs::Kind::Socket,
        Kind::Char => weldrfs_fs::Kind::Char,
        Kind::Block => weldrfs_fs::Kind::Block,
    }
}

fn from_engine(kind: weldrfs_fs::Kind) -> Kind {
    match kind {
        weldrfs_fs::Kind::File => Kind::File,
        weldrfs_fs::Kind::Dir => Kind::Dir,
        weldrfs_fs::Kind::Symlink => Kind::Symlink,
        weldrfs_fs::Kind::Fifo => Kind::Fifo,
        weldrfs_fs::Kind::Socket => Kind::Socket,
        weldrfs_fs::Kind::Char => Kind::Char,
        weldrfs_fs::Kind::Block => Kind::Block,
    }
}

fn seen(attr: &weldrfs_fs::Attr) -> Answer {
    Answer::Attr(Seen {
        id: attr.ino.0,
        kind: from_engine(attr.kind),
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size: attr.size,
        atime: Stamp::Exact(attr.atime_ns),
        mtime: Stamp::Exact(attr.mtime_ns),
        ctime: Stamp::Exact(attr.ctime_ns),
    })
}
