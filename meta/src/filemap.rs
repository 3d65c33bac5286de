//! A file's runs in memory: which bytes of the file are which bytes of which extent. Pure; no I/O.
//!
//! Every edit says which rows it touched, so that the journal and the overlay see exactly what memory did.

use std::collections::BTreeMap;

use crate::changes::Change;
use crate::ids::{ExtentId, Ino};
use crate::rows::ExtentRow;

/// A run of a file, in file order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub len: u64,
    /// The extent.
    pub extent: ExtentId,
    /// Offset in the extent, bytes.
    pub extent_offset: u64,
}

impl Piece {
    /// First byte of the file behind the run.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// The row that stores it.
    pub(crate) fn row(&self, ino: Ino) -> ExtentRow {
        ExtentRow {
            ino,
            offset: self.offset,
            len: self.len,
            extent: self.extent,
            extent_offset: self.extent_offset,
        }
    }

    /// What of it lies in `[from, to)`.
    pub(crate) fn clip(&self, from: u64, to: u64) -> Option<Self> {
        let (from, to) = (from.max(self.offset), to.min(self.end()));
        (from < to).then(|| self.slice(from, to))
    }

    fn slice(&self, from: u64, to: u64) -> Self {
        Self {
            offset: from,
            len: to - from,
            extent: self.extent,
            extent_offset: self.extent_offset + from - self.offset,
        }
    }
}

/// All runs of one file, by offset; they never overlap and are never empty.
#[derive(Clone, Default, Debug)]
pub(crate) struct FileMap {
    runs: BTreeMap<u64, Piece>,
}

impl FileMap {
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.runs.values()
    }

    pub(crate) fn insert(&mut self, piece: Piece) {
        self.runs.insert(piece.offset, piece);
    }

    pub(crate) fn remove(&mut self, offset: u64) {
        self.runs.remove(&offset);
    }

    pub(crate) fn cut(&mut self, from: u64) {
        drop(self.runs.split_off(&from));
    }

    /// The run that ends exactly at `offset`.
    pub(crate) fn ending_at(&self, offset: u64) -> Option<Piece> {
        let (_, piece) = self.runs.range(..offset).next_back()?;
        (piece.end() == offset).then_some(*piece)
    }

    /// The runs that cover some of `[from, to)`, clipped to it, in order. Gaps between them are holes.
    pub(crate) fn pieces(&self, from: u64, to: u64) -> Vec<Piece> {
        self.touching(from, to)
            .map(|p| p.slice(p.offset.max(from), p.end().min(to)))
            .collect()
    }

    fn touching(&self, from: u64, to: u64) -> impl Iterator<Item = &Piece> {
        let first = match self.runs.range(..=from).next_back() {
            Some((start, piece)) if piece.end() > from => *start,
            _ => from,
        };
        // An empty range asks for nothing, and BTreeMap refuses a start behind its end.
        self.runs
            .range(first.min(to)..to)
            .map(|(_, p)| p)
            .filter(move |p| p.end() > from && p.offset < to)
    }

    /// Start of the first data at or after `offset`.
    pub(crate) fn next_data(&self, offset: u64) -> Option<u64> {
        self.touching(offset, u64::MAX)
            .next()
            .map(|p| p.offset.max(offset))
    }

    /// Start of the first hole at or after `offset` (which may be the end of the last run).
    pub(crate) fn next_hole(&self, offset: u64) -> u64 {
        let mut at = offset;
        for piece in self.touching(offset, u64::MAX) {
            if piece.offset > at {
                break;
            }
            at = piece.end();
        }
        at
    }

    /// The changes that empty `[from, to)`, and how many mapped bytes go with them. Does not change `self`.
    pub(crate) fn plan_punch(&self, ino: Ino, from: u64, to: u64) -> (Vec<Change>, u64) {
        // To the end it is one change, however many runs go.
        if self
            .runs
            .last_key_value()
            .is_some_and(|(start, last)| *start >= from && last.end() <= to)
        {
            return self.plan_truncate(ino, from);
        }
        let mut changes = Vec::new();
        let mut freed = 0;
        for piece in self.touching(from, to) {
            freed += piece.end().min(to) - piece.offset.max(from);
            if piece.offset < from {
                changes.push(Change::PutExtent(piece.slice(piece.offset, from).row(ino)));
            } else {
                changes.push(Change::DelExtent {
                    ino,
                    offset: piece.offset,
                });
            }
            if piece.end() > to {
                changes.push(Change::PutExtent(piece.slice(to, piece.end()).row(ino)));
            }
        }
        (changes, freed)
    }

    /// The changes that drop everything at and behind `from`, and how many mapped bytes go with them.
    pub(crate) fn plan_truncate(&self, ino: Ino, from: u64) -> (Vec<Change>, u64) {
        let freed = self
            .touching(from, u64::MAX)
            .map(|p| p.end() - p.offset.max(from))
            .sum();
        if freed == 0 {
            return (Vec::new(), 0);
        }
        let mut changes = Vec::with_capacity(2);
        if let Some((_, piece)) = self.runs.range(..from).next_back()
            && piece.end() > from
        {
            changes.push(Change::PutExtent(piece.slice(piece.offset, from).row(ino)));
        }
        changes.push(Change::CutExtents { ino, from });
        (changes, freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(9);

    fn apply(map: &mut FileMap, changes: &[Change]) {
        for change in changes {
            match change {
                Change::PutExtent(row) => map.insert(Piece {
                    offset: row.offset,
                    len: row.len,
                    extent: row.extent,
                    extent_offset: row.extent_offset,
                }),
                Change::DelExtent { offset, .. } => map.remove(*offset),
                Change::CutExtents { from, .. } => map.cut(*from),
                other => panic!("{other:?} does not belong to a file map"),
            }
        }
    }

    /// A file map drawn byte by byte: which extent byte each file byte is.
    fn drawn(map: &FileMap, len: u64) -> Vec<Option<(u64, u64)>> {
        let mut out = vec![None; len as usize];
        for p in map.iter() {
            for i in 0..p.len {
                out[(p.offset + i) as usize] = Some((p.extent.0, p.extent_offset + i));
            }
        }
        out
    }

    #[test]
    fn random_edits_agree_with_a_byte_array() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        const LEN: u64 = 64;
        let mut map = FileMap::default();
        let mut bytes: Vec<Option<(u64, u64)>> = vec![None; LEN as usize];
        for step in 0..20_000 {
            let from = next(LEN);
            let to = from + 1 + next(LEN - from);
            let mapped = bytes.iter().flatten().count() as u64;
            let (changes, freed) = match next(3) {
                0 => {
                    bytes[from as usize..].fill(None);
                    map.plan_truncate(FILE, from)
                }
                1 => {
                    bytes[from as usize..to as usize].fill(None);
                    map.plan_punch(FILE, from, to)
                }
                _ => {
                    let (mut changes, freed) = map.plan_punch(FILE, from, to);
                    bytes[from as usize..to as usize].fill(None);
                    assert_eq!(mapped - freed, bytes.iter().flatten().count() as u64);
                    let extent = ExtentId(step);
                    let piece = Piece {
                        offset: from,
                        len: to - from,
                        extent,
                        extent_offset: 0,
                    };
                    changes.push(Change::PutExtent(piece.row(FILE)));
                    for i in from..to {
                        bytes[i as usize] = Some((step, i - from));
                    }
                    apply(&mut map, &changes);
                    assert_eq!(drawn(&map, LEN), bytes, "write at step {step}");
                    continue;
                }
            };
            apply(&mut map, &changes);
            assert_eq!(drawn(&map, LEN), bytes, "step {step}");
            assert_eq!(mapped - freed, bytes.iter().flatten().count() as u64);
            let data = (from..LEN).find(|i| bytes[*i as usize].is_some());
            assert_eq!(map.next_data(from), data);
            let hole = (from..LEN)
                .find(|i| bytes[*i as usize].is_none())
                .unwrap_or(LEN);
            assert_eq!(map.next_hole(from), hole);
            let clipped: u64 = map.pieces(from, to).iter().map(|p| p.len).sum();
            assert_eq!(
                clipped,
                bytes[from as usize..to as usize].iter().flatten().count() as u64
            );
        }
    }
}
