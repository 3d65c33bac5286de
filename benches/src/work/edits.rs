//! What an editor and a log do: safe saves, and many small appends to one file.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use super::{Said, content};
use crate::error::{At, Result, ensure};

/// How many files an editor has open.
const FILES: u64 = 10;

/// Safe saves: a temporary file, fsync, rename over the old one.
pub(super) fn edits(folder: &Path, count: u64) -> Result<Said> {
    std::fs::create_dir_all(folder).at(folder)?;
    let mut block = vec![0; content::BLOCK];
    let name = |n: u64| folder.join(format!("source-{}.ts", n % FILES));
    let began = Instant::now();
    for n in 0..count {
        content::fill(&mut block, n, 0);
        let temporary = folder.join(".source.tmp");
        let mut file = File::create(&temporary).at(&temporary)?;
        file.write_all(&block).at(&temporary)?;
        file.sync_all().at(&temporary)?;
        drop(file);
        std::fs::rename(&temporary, name(n)).at(&temporary)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    for n in count.saturating_sub(FILES)..count {
        let path = name(n);
        content::check(&std::fs::read(&path).at(&path)?, n, 0)?;
    }
    let files = std::fs::read_dir(folder).at(folder)?.count() as u64;
    ensure(files == FILES.min(count), || {
        format!("{files} files are there after the edits")
    })?;
    Ok(Said::in_seconds(seconds, count))
}

/// Appends lines to one open file.
pub(super) fn appends(path: &Path, count: u64) -> Result<Said> {
    let line =
        |n: u64| format!("{n:08} something happened, and somebody wanted it in a log file\n");
    let mut file = OpenOptions::new()
        .create_new(true)
        .append(true)
        .open(path)
        .at(path)?;
    let began = Instant::now();
    for n in 0..count {
        file.write_all(line(n).as_bytes()).at(path)?;
    }
    drop(file);
    let seconds = began.elapsed().as_secs_f64();
    let wanted: String = (0..count).map(line).collect();
    let found = std::fs::read(path).at(path)?;
    ensure(found == wanted.as_bytes(), || {
        format!(
            "the log has {} bytes that are not those appended",
            found.len()
        )
    })?;
    Ok(Said::in_seconds(seconds, count))
}
