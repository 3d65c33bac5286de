//! rename of the reference tree, the operation with the most ways to be refused.

use super::ops::{Answer, Expected, Id, Kind};
use super::tree::{NAME_MAX, Tree};

impl Tree {
    pub(super) fn rename(
        &mut self,
        from: (Id, &[u8]),
        to: (Id, &[u8]),
        noreplace: bool,
        exchange: bool,
    ) -> Expected {
        let refused = self.refuse_rename(from, to, noreplace, exchange);
        if !refused.is_empty() {
            return Err(refused);
        }
        let moved = self.child(from.0, from.1)?;
        let target = self.child(to.0, to.1).ok();
        if target == Some(moved) {
            // Two names of one file: rename(2) does nothing and succeeds.
            return Ok(Answer::Done);
        }
        if exchange {
            let target = target.ok_or_else(|| vec![libc::ENOENT])?;
            self.entries_mut(from.0)?.insert(from.1.to_vec(), target);
            self.entries_mut(to.0)?.insert(to.1.to_vec(), moved);
            self.moved_between(target, to.0, from.0)?;
        } else {
            self.entries_mut(from.0)?.remove(from.1);
            self.entries_mut(to.0)?.insert(to.1.to_vec(), moved);
            if let Some(target) = target {
                if self.live(target)?.kind == Kind::Dir {
                    self.live_mut(to.0)?.nlink -= 1;
                }
                self.drop_name(target)?;
            }
        }
        self.moved_between(moved, from.0, to.0)?;
        self.dir_changed(from.0);
        self.dir_changed(to.0);
        Ok(Answer::Done)
    }

    fn moved_between(&mut self, id: Id, from: Id, to: Id) -> Result<(), Vec<i32>> {
        if self.live(id)?.kind == Kind::Dir {
            self.live_mut(from)?.nlink -= 1;
            self.live_mut(to)?.nlink += 1;
            self.live_mut(id)?.parent = to;
        }
        // Most file systems change it, POSIX leaves it open.
        self.ctime_unknown(id);
        Ok(())
    }

    fn refuse_rename(
        &self,
        from: (Id, &[u8]),
        to: (Id, &[u8]),
        noreplace: bool,
        exchange: bool,
    ) -> Vec<i32> {
        let mut refused = Vec::new();
        if noreplace && exchange {
            refused.push(libc::EINVAL);
        }
        if from.1.len() > NAME_MAX || to.1.len() > NAME_MAX {
            refused.push(libc::ENAMETOOLONG);
        }
        if let Err(errors) = self.entries(to.0) {
            refused.extend(errors);
        } else if self.nodes.get(&to.0).is_some_and(|n| n.nlink == 0) {
            refused.push(libc::ENOENT);
        }
        let source = self.child(from.0, from.1);
        let target = self.child(to.0, to.1).ok();
        if let Err(errors) = &source {
            refused.extend(errors);
        }
        if noreplace && target.is_some() {
            refused.push(libc::EEXIST);
        }
        if exchange && target.is_none() {
            refused.push(libc::ENOENT);
        }
        let Ok(source) = source else { return refused };
        if self.is_within(to.0, source) {
            refused.push(libc::EINVAL);
        }
        let Some(target) = target.filter(|&t| t != source) else {
            return refused;
        };
        if exchange {
            if self.is_within(from.0, target) {
                refused.push(libc::EINVAL);
            }
            return refused;
        }
        let kinds = (
            self.nodes.get(&source).map(|n| n.kind),
            self.nodes.get(&target).map(|n| n.kind),
        );
        match kinds {
            (Some(Kind::Dir), Some(Kind::Dir)) => {
                let full = self.entries(target).is_ok_and(|e| !e.is_empty());
                refused.extend(if full {
                    &[libc::ENOTEMPTY, libc::EEXIST][..]
                } else {
                    &[]
                });
            }
            (Some(Kind::Dir), _) => refused.push(libc::ENOTDIR),
            (_, Some(Kind::Dir)) => {
                refused.push(libc::EISDIR);
                if self.is_within(from.0, target) {
                    refused.push(libc::ENOTEMPTY);
                }
            }
            _ => {}
        }
        refused
    }

    /// Whether directory `dir` is `ancestor` or lies below it.
    fn is_within(&self, dir: Id, ancestor: Id) -> bool {
        let mut at = dir;
        loop {
            if at == ancestor {
                return true;
            }
            match self.nodes.get(&at) {
                Some(node) if node.parent != at => at = node.parent,
                _ => return false,
            }
        }
    }
}
