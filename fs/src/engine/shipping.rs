//! Waiting for the store: which operations do, and until when. By default none: what is acknowledged is on this machine,
//! and goes to the store behind everybody's back.

use std::sync::OnceLock;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use weldrfs_meta::{Ino, Lsn};

use super::{Engine, Result};

/// Which operations wait until the store alone can restore what they are about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreWait {
    /// None.
    #[default]
    Never,
    /// `fsync` and its relatives.
    Fsync,
    /// These, and closing a file that was written to.
    FsyncAndClose,
}

/// Brings everything that was acknowledged to the store. Returns the operation up to which that is true.
pub(crate) type Ship = Box<dyn Fn() -> Result<Lsn> + Send + Sync>;

/// What shipping needs to know.
#[derive(Default)]
pub(super) struct Shipping {
    pub(super) wait: StoreWait,
    ship: OnceLock<Ship>,
    /// Files that were changed and are not known to be in the store, with the newest operation at that time. Only kept
    /// when closing waits; what is in the store goes with every shipment.
    changed: Mutex<FxHashMap<Ino, Lsn>>,
}

impl Shipping {
    pub(super) fn new(wait: StoreWait) -> Self {
        Self {
            wait,
            ..Self::default()
        }
    }
}

impl Engine {
    /// Says how to ship. Without it nobody waits.
    pub(crate) fn set_ship(&self, ship: Ship) {
        // A second one would be a second volume, which there is not.
        let _ = self.shipping.ship.set(ship);
    }

    /// Whether closing a file may have to wait.
    pub fn close_waits(&self) -> bool {
        self.shipping.wait == StoreWait::FsyncAndClose
    }

    /// A file that was opened is closed: waits for the store if it was changed and closing waits at all.
    ///
    /// # Errors
    /// `EIO` when the store did not take it; it stays on this machine and goes up later.
    pub fn close(&self, ino: Ino) -> Result<()> {
        let changed = self.shipping.changed.lock().contains_key(&ino);
        match changed {
            true => self.ship(),
            false => Ok(()),
        }
    }

    /// Waits for the store if `fsync` does.
    pub(super) fn ship_synced(&self) -> Result<()> {
        match self.shipping.wait {
            StoreWait::Never => Ok(()),
            StoreWait::Fsync | StoreWait::FsyncAndClose => self.ship(),
        }
    }

    fn ship(&self) -> Result<()> {
        let Some(ship) = self.shipping.ship.get() else {
            return Ok(());
        };
        let upto = ship()?;
        self.shipping.changed.lock().retain(|_, lsn| *lsn > upto);
        Ok(())
    }

    /// Notes that a file was changed, after the change.
    pub(super) fn changed(&self, ino: Ino) {
        if self.close_waits() {
            let now = self.ns.acknowledged();
            self.shipping.changed.lock().insert(ino, now);
        }
    }
}
