//! Who remembers parts of the tree outside of the engine, as the kernel does: hears of what changes, and now and then
//! writes into a file that a restore has just replaced, because it does not know that yet.

use std::sync::Weak;

use super::*;
use crate::engine::{Aside, Onlooker};

/// Hears and writes.
#[derive(Default)]
pub(super) struct Kernel {
    engine: Weak<Engine>,
    pub(super) heard: Mutex<Vec<Arc<Aside>>>,
    /// What is still to be written into the first file without a name.
    pub(super) late: Mutex<Option<Arc<[u8]>>>,
    /// Where that was, what, and when.
    pub(super) written: Mutex<Option<LateWrite>>,
}

/// A file, what was written into it, and when, in nanoseconds.
pub(super) type LateWrite = (Ino, Arc<[u8]>, i64);

impl Kernel {
    /// Listens to a volume from now on.
    pub(super) fn of(volume: &Volume) -> Arc<Self> {
        let kernel = Arc::new(Self {
            engine: Arc::downgrade(volume.engine()),
            ..Self::default()
        });
        volume
            .engine()
            .set_onlooker(Arc::clone(&kernel) as Arc<dyn Onlooker>);
        kernel
    }
}

impl Onlooker for Kernel {
    fn bring_in(&self) {}

    fn changed(&self, aside: Arc<Aside>) {
        let replaced = aside.entries.iter().filter_map(|change| change.was);
        let replaced: Vec<Ino> = replaced.map(|(ino, _)| ino).collect();
        self.heard.lock().push(aside);
        let (Some(engine), Some(data)) = (self.engine.upgrade(), self.late.lock().take()) else {
            return;
        };
        let is_without_name = |ino: &Ino| {
            let attr = engine.getattr(*ino);
            attr.is_ok_and(|attr| attr.kind == Kind::File && attr.nlink == 0)
        };
        if let Some(ino) = replaced.into_iter().find(is_without_name) {
            engine.write(ino, 0, &data, false).unwrap();
            let mtime_ns = engine.getattr(ino).unwrap().mtime_ns;
            *self.written.lock() = Some((ino, data, mtime_ns));
        }
    }
}
