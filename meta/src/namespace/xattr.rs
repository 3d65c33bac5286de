//! Extended attributes.

use std::sync::Arc;

use crate::changes::Change;
use crate::error::{MetaError, Result};
use crate::ids::Ino;
use crate::rows::{MAX_NAME_BYTES, Name};
use crate::settings::{MAX_XATTR_BYTES, MAX_XATTR_VALUE_BYTES};

use super::Namespace;

/// What `setxattr` demands.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum XattrMode {
    /// Create or replace.
    #[default]
    Any,
    /// It must not exist.
    Create,
    /// It must exist.
    Replace,
    /// It must not exist and must exist: refused either way, as Linux does it.
    CreateAndReplace,
}

impl Namespace {
    /// Sets an attribute.
    ///
    /// # Errors
    /// `Exists`, `NoAttribute`, `XattrTooLarge`, `NameTooLong`, `NotFound`.
    pub fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        now_ns: i64,
    ) -> Result<()> {
        check_xattr_name(name)?;
        let mut tx = self.begin_growing(now_ns)?;
        let at = tx.get(ino)?;
        let node = tx.node(at);
        let (exists, others) = {
            let mut state = node.state.write();
            let all = self.load_xattrs(&mut state)?;
            let others: usize = all
                .iter()
                .filter(|(n, _)| n[..] != *name)
                .map(|(n, v)| n.len() + v.len())
                .sum();
            (all.contains_key(name), others)
        };
        match mode {
            XattrMode::Create | XattrMode::CreateAndReplace if exists => {
                return Err(MetaError::Exists);
            }
            XattrMode::Replace | XattrMode::CreateAndReplace if !exists => {
                return Err(MetaError::NoAttribute);
            }
            _ => {}
        }
        if value.len() > MAX_XATTR_VALUE_BYTES
            || others + name.len() + value.len() > MAX_XATTR_BYTES
        {
            return Err(MetaError::XattrTooLarge);
        }
        tx.changes.push(Change::PutXattr {
            ino,
            name: Name::from(name),
            value: value.to_vec(),
        });
        tx.row_mut(at).ctime_ns = now_ns;
        tx.commit()?;
        Ok(())
    }

    /// An attribute's value.
    ///
    /// # Errors
    /// `NoAttribute`, `NotFound`.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Arc<[u8]>> {
        self.with_xattrs(ino, |all| all.get(name).cloned())?
            .ok_or(MetaError::NoAttribute)
    }

    /// The names of all attributes.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<Name>> {
        self.with_xattrs(ino, |all| all.keys().cloned().collect())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `NotFound`.
    pub fn removexattr(&self, ino: Ino, name: &[u8], now_ns: i64) -> Result<()> {
        check_xattr_name(name)?;
        let mut tx = self.begin(now_ns)?;
        let at = tx.get(ino)?;
        let node = tx.node(at);
        let exists = {
            let mut state = node.state.write();
            self.load_xattrs(&mut state)?.contains_key(name)
        };
        if !exists {
            return Err(MetaError::NoAttribute);
        }
        tx.changes.push(Change::DelXattr {
            ino,
            name: Name::from(name),
        });
        tx.row_mut(at).ctime_ns = now_ns;
        tx.commit()?;
        Ok(())
    }

    fn with_xattrs<T>(
        &self,
        ino: Ino,
        look: impl FnOnce(&std::collections::BTreeMap<Name, Arc<[u8]>>) -> T,
    ) -> Result<T> {
        let node = self.node(ino)?;
        {
            let state = node.state.read();
            if state.dead {
                return Err(MetaError::NotFound);
            }
            if let Some(all) = &state.xattrs {
                return Ok(look(all));
            }
        }
        let mut state = node.state.write();
        Ok(look(self.load_xattrs(&mut state)?))
    }
}

fn check_xattr_name(name: &[u8]) -> Result<()> {
    match name.len() {
        0 => Err(MetaError::Invalid("an attribute without a name")),
        n if n > MAX_NAME_BYTES => Err(MetaError::NameTooLong),
        _ => Ok(()),
    }
}
