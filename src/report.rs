//! Text for people: sizes, times and the status of a volume; and JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use weldrfs_control::{VerbStatus, VolumeStatus};

use crate::failure::Failure;

/// `value` as JSON, for programs.
pub(crate) fn json(value: &(impl Serialize + ?Sized)) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::system("cannot write JSON", &error))?;
    text.push('\n');
    Ok(text)
}

/// Writes `text` to stdout. A reader that has seen enough is no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// The same for what may be no UTF-8.
pub(crate) fn print_bytes(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::system("cannot write to stdout", &error))
        }
        _ => Ok(()),
    }
}

/// Rows below their names, in columns as wide as they need to be; `empty` where there are none.
pub(crate) fn table(names: &[&str], rows: &[Vec<String>], empty: &str) -> String {
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widths = cells.map(|cell| cell.chars().count());
        widths.chain([names[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let head = line(names.to_vec());
    let rows = rows
        .iter()
        .map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(head).chain(rows).collect()
}

/// A number of bytes with three digits and a unit, powers of 1024.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value >= 99.95 { 0 } else { 1 };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A span as one or two units: `340 ms`, `12.4 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub(crate) fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{}.{} s", seconds, milliseconds % 1000 / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How far the store is behind, in a few words.
pub(crate) fn lag(status: &VolumeStatus) -> String {
    let behind = &status.behind;
    if behind.records == 0 {
        return "everything is in the store".to_owned();
    }
    format!(
        "{} operations, {} and {} behind",
        behind.records,
        bytes(behind.bytes),
        span(behind.since_ms)
    )
}

/// What is in the trash.
fn trash(status: &VolumeStatus) -> String {
    let trash = &status.trash;
    let held = format!("{} inodes, {}", trash.inodes, bytes(trash.bytes));
    match trash.keep_ms {
        0 => format!("off; {held}"),
        keep_ms => format!("{held}; what is removed stays for {}", span(keep_ms)),
    }
}

/// The status of one volume, several lines.
pub(crate) fn volume(status: &VolumeStatus) -> String {
    let (volume, lsn, cache) = (&status.volume, &status.lsn, &status.cache);
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<12}{value}");
    };
    line("source", volume.source.clone());
    line(
        "volume",
        format!("{} (format {})", volume.id, volume.format_version),
    );
    // The sidecar does not tell folders of its machine.
    if !volume.state_dir.is_empty() {
        line("state", volume.state_dir.clone());
    }
    line(
        "process",
        format!(
            "{}, up {} since {}, {} of memory, version {}",
            status.pid,
            span(status.uptime_ms),
            status.started_at,
            bytes(status.memory_resident_bytes),
            status.version
        ),
    );
    if let Some(reason) = &status.read_only {
        line("read-only", reason.clone());
    }
    line(
        "content",
        format!("{} inodes, {}", status.inodes, bytes(status.used_bytes)),
    );
    line("trash", trash(status));
    line("store", lag(status));
    line(
        "operations",
        format!(
            "acknowledged {}, durable {}, checkpointed {}, in the store {}",
            lsn.acknowledged, lsn.durable, lsn.checkpointed, lsn.in_store
        ),
    );
    line(
        "staged",
        format!(
            "{} of {}",
            bytes(status.staged_bytes),
            bytes(status.staging_limit_bytes)
        ),
    );
    line(
        "metadata",
        format!(
            "{} of journal, {} to checkpoint",
            bytes(status.journal_bytes),
            bytes(status.dirty_metadata_bytes)
        ),
    );
    line(
        "packs",
        format!(
            "{} of {}, {}",
            bytes(cache.pack_bytes),
            bytes(cache.pack_budget_bytes),
            hits(cache.pack_hits, cache.pack_misses)
        ),
    );
    line(
        "frames",
        format!(
            "{}, {}",
            bytes(cache.frame_bytes),
            hits(cache.frame_hits, cache.frame_misses)
        ),
    );
    let store = &status.store;
    let verbs = [
        ("put", store.put),
        ("get", store.get),
        ("head", store.head),
        ("list", store.list),
        ("delete", store.delete),
    ];
    line(
        "requests",
        verbs.map(|(name, verb)| requests(name, verb)).join(", "),
    );
    if let Some(error) = &status.last_error {
        let at = UNIX_EPOCH
            .checked_add(Duration::from_millis(error.at_ms))
            .unwrap_or(UNIX_EPOCH);
        line(
            "error",
            format!(
                "{} ({})",
                error.message,
                humantime::format_rfc3339_seconds(at)
            ),
        );
    }
    format!("{}\n{text}", volume.mountpoint)
}

fn hits(hits: u64, misses: u64) -> String {
    match hits.saturating_add(misses) {
        0 => "not used yet".to_owned(),
        all => format!(
            "{:.1} % of {all} reads hit",
            hits as f64 * 100.0 / all as f64
        ),
    }
}

fn requests(name: &str, verb: VerbStatus) -> String {
    let mut text = format!("{name} {}", verb.requests);
    if verb.bytes > 0 {
        text.push_str(&format!(" ({})", bytes(verb.bytes)));
    }
    if verb.errors > 0 {
        text.push_str(&format!(" {} failed", verb.errors));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let text = table(&["A", "LONG"], &[row("wider", "x"), row("y", "")], "none");
        assert_eq!(text, "A      LONG\nwider  x\ny\n");
        assert_eq!(table(&["A"], &[], "none"), "none\n");
    }

    #[test]
    fn sizes_have_three_digits() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (102_297, "99.9 KiB"),
            (1_047_552, "1.0 MiB"),
            (1_258_291, "1.2 MiB"),
            (2 << 30, "2.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (milliseconds, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (12_449, "12.4 s"),
            (59_999, "59.9 s"),
            (185_000, "3 min 5 s"),
            (7_800_000, "2 h 10 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(span(milliseconds), text);
        }
    }

    #[test]
    fn a_status_says_what_matters() {
        let mut status = VolumeStatus::default();
        status.volume.mountpoint = "/mnt/v".into();
        status.cache.frame_hits = 3;
        status.cache.frame_misses = 1;
        assert!(volume(&status).starts_with("/mnt/v\n"));
        assert!(volume(&status).contains("everything is in the store"));
        assert!(volume(&status).contains("75.0 % of 4 reads hit"));
        assert!(!volume(&status).contains("read-only"));

        status.behind.records = 12;
        status.behind.bytes = 1_258_291;
        status.behind.since_ms = 3_100;
        status.read_only = Some("fsync failed".into());
        status.store.put = VerbStatus {
            requests: 5,
            bytes: 2048,
            errors: 1,
        };
        status.last_error = Some(weldrfs_control::LastError {
            at_ms: 0,
            message: "lost".into(),
        });
        let text = volume(&status);
        for part in [
            "12 operations, 1.2 MiB and 3.1 s behind",
            "fsync failed",
            "put 5 (2.0 KiB) 1 failed",
            "lost (1970-01-01T00:00:00Z)",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
