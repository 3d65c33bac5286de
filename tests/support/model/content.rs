//! File content of the model: a length and the pages that were ever written.

use std::collections::BTreeMap;

const PAGE: u64 = 4096;

/// Bytes of one file; pages that are missing are holes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(len as u64));
        if offset >= end {
            return Vec::new();
        }
        let mut out = vec![0; (end - offset) as usize];
        for (&page, bytes) in self.pages.range(offset / PAGE..=(end - 1) / PAGE) {
            let start = (page * PAGE).max(offset);
            let stop = ((page + 1) * PAGE).min(end);
            out[(start - offset) as usize..(stop - offset) as usize].copy_from_slice(
                &bytes[(start - page * PAGE) as usize..(stop - page * PAGE) as usize],
            );
        }
        out
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = 0;
        while at < data.len() {
            let place = offset + at as u64;
            let inside = (place % PAGE) as usize;
            let n = (PAGE as usize - inside).min(data.len() - at);
            let page = self
                .pages
                .entry(place / PAGE)
                .or_insert_with(|| Box::new([0; PAGE as usize]));
            page[inside..inside + n].copy_from_slice(&data[at..at + n]);
            at += n;
        }
        if !data.is_empty() {
            self.len = self.len.max(offset + data.len() as u64);
        }
    }

    pub(crate) fn truncate(&mut self, len: u64) {
        if len < self.len {
            self.clear(len, self.len);
        }
        self.len = len;
    }

    pub(crate) fn extend_to(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Makes `start..end` read as zeros without changing the length.
    pub(crate) fn clear(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let touched: Vec<u64> = self
            .pages
            .range(start / PAGE..=(end - 1) / PAGE)
            .map(|(&p, _)| p)
            .collect();
        for page in touched {
            let from = start.saturating_sub(page * PAGE).min(PAGE) as usize;
            let to = (end - page * PAGE).min(PAGE) as usize;
            if from == 0 && to == PAGE as usize {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                bytes[from..to].fill(0);
            }
        }
    }

    /// Whether every byte of `start..end` is zero.
    pub(crate) fn is_zero(&self, start: u64, end: u64) -> bool {
        let end = end.min(self.len);
        start >= end
            || self
                .pages
                .range(start / PAGE..=(end - 1) / PAGE)
                .all(|(&page, bytes)| {
                    let from = start.saturating_sub(page * PAGE) as usize;
                    let to = (end - page * PAGE).min(PAGE) as usize;
                    bytes[from..to].iter().all(|&b| b == 0)
                })
    }

    /// Offsets of the pages that hold data, in order.
    pub(crate) fn written_pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().map(|page| page * PAGE)
    }
}
