//! The table of mount options: name, what it takes, what it does. What is said about them is elsewhere.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::split::Written;
use super::values::{self, KIB, MIB, TIB};
use super::{Access, LogLevel, MountOptions, Readdirplus, SUBTYPE, Unknown, bucket, words};
use crate::failure::Failure;
use crate::moment;

/// Sets an option from its value; `None` when the value makes no sense.
type Set = fn(&mut MountOptions, &str) -> Option<()>;

/// What follows the name of an option.
#[derive(Clone, Copy)]
pub(super) enum Takes {
    /// No value.
    Nothing(fn(&mut MountOptions)),
    /// Anything, or no value: options that mount(8) and others keep for themselves.
    Whatever,
    /// A value, described.
    Value(&'static str, Set),
    /// `on` or `off`; the name alone is `on`.
    Switch(fn(&mut MountOptions, bool)),
}

/// One option of the table.
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    /// One line for the help; empty for the standard options of mount(8).
    pub(super) does: &'static str,
}

const fn flag(name: &'static str, set: fn(&mut MountOptions)) -> Known {
    Known {
        name,
        takes: Takes::Nothing(set),
        does: "",
    }
}

const fn ignored(name: &'static str) -> Known {
    Known {
        name,
        takes: Takes::Whatever,
        does: "",
    }
}

pub(super) const fn value(
    name: &'static str,
    takes: &'static str,
    set: Set,
    does: &'static str,
) -> Known {
    Known {
        name,
        takes: Takes::Value(takes, set),
        does,
    }
}

pub(super) const fn switch(
    name: &'static str,
    set: fn(&mut MountOptions, bool),
    does: &'static str,
) -> Known {
    Known {
        name,
        takes: Takes::Switch(set),
        does,
    }
}

const CACHE_SIZE: &str = "MiB, or a size with a unit (K, M, G, T), from 64M to 1024T";
const FRAME_CACHE: &str = "MiB, or a size with a unit (K, M, G), from 4M to 1T";
const STAGING: &str = "MiB, or a size with a unit (K, M, G, T), from 256M to 1024T";
const TIMEOUT: &str = "seconds (0.5), a time with a unit (ms, s, m, h, d), or inf";
const REQUEST_SIZE: &str = "bytes, or a size with a unit (K, M), from 4K to 1M";
const READAHEAD: &str = "bytes, or a size with a unit (K, M), from 0 to 64M";

/// Every option that is known.
pub(super) fn all() -> impl Iterator<Item = &'static Known> {
    TABLE.iter().chain(bucket::TABLE)
}

/// Those of the mount itself.
const TABLE: &[Known] = &[
    flag("rw", |o| o.read_only = false),
    flag("ro", |o| o.read_only = true),
    flag("suid", |o| {
        o.kernel.remove("nosuid");
    }),
    flag("nosuid", |o| {
        o.kernel.insert("nosuid");
    }),
    flag("dev", |o| {
        o.kernel.remove("nodev");
    }),
    flag("nodev", |o| {
        o.kernel.insert("nodev");
    }),
    flag("exec", |o| {
        o.kernel.remove("noexec");
    }),
    flag("noexec", |o| {
        o.kernel.insert("noexec");
    }),
    flag("atime", |o| {
        o.kernel.remove("noatime");
    }),
    flag("noatime", |o| {
        o.kernel.insert("noatime");
    }),
    flag("diratime", |o| {
        o.kernel.remove("nodiratime");
    }),
    flag("nodiratime", |o| {
        o.kernel.insert("nodiratime");
    }),
    flag("relatime", |o| {
        o.kernel.remove("noatime");
    }),
    flag("async", |o| {
        o.kernel.remove("sync");
    }),
    flag("sync", |o| {
        o.kernel.insert("sync");
    }),
    flag("dirsync", |o| {
        o.kernel.insert("dirsync");
    }),
    ignored("defaults"),
    ignored("auto"),
    ignored("noauto"),
    ignored("user"),
    ignored("nouser"),
    ignored("users"),
    ignored("nousers"),
    ignored("owner"),
    ignored("noowner"),
    ignored("group"),
    ignored("nogroup"),
    ignored("_netdev"),
    ignored("nofail"),
    ignored("comment"),
    ignored("default_permissions"),
    Known {
        name: "allow_other",
        takes: Takes::Nothing(|o| o.access = Access::Everybody),
        does: "every user may use the mount, as far as permissions allow",
    },
    Known {
        name: "allow_root",
        takes: Takes::Nothing(|o| o.access = Access::Root),
        does: "root may use a user's mount too",
    },
    Known {
        name: "foreground",
        takes: Takes::Nothing(|o| o.foreground = true),
        does: "stay in the foreground and log to stderr, like --foreground",
    },
    value(
        "fsname",
        "a name",
        set_fsname,
        "what the mount table shows as the source (default: SOURCE)",
    ),
    value(
        "subtype",
        SUBTYPE,
        |_, text| (text == SUBTYPE).then_some(()),
        "accepted for compatibility",
    ),
    value(
        "log_level",
        "error, warn, info, debug or trace",
        set_log_level,
        "how much is logged (default: info)",
    ),
    value(
        "state_dir",
        "an absolute path",
        |o, text| absolute(text).map(|path| o.state_dir = Some(path)),
        "base of the local state, one folder per volume (default: /var/lib/weldrfs; see --help for users)",
    ),
    value(
        "cache_dir",
        "an absolute path",
        |o, text| absolute(text).map(|path| o.cache_dir = Some(path)),
        "where packs are cached (default: in the state folder)",
    ),
    value(
        "cache_size",
        CACHE_SIZE,
        |o, text| size(text, MIB, 64 * MIB, 1024 * TIB).map(|bytes| o.cache_bytes = bytes),
        "most bytes of packs on the local disk (default: 2G)",
    ),
    value(
        "frame_cache",
        FRAME_CACHE,
        |o, text| size(text, MIB, 4 * MIB, TIB).map(|bytes| o.frame_cache_bytes = bytes),
        "memory for decoded file content (default: 64M)",
    ),
    value(
        "free_space_ratio",
        "a part of the disk from 0 to 0.9, like 0.05 or 5%",
        |o, text| {
            let ratio = values::ratio(text).filter(|ratio| (0.0..=0.9).contains(ratio))?;
            o.free_space_ratio = ratio;
            Some(())
        },
        "part of the local disk that the cache leaves free (default: 0.01)",
    ),
    value(
        "staging_limit",
        STAGING,
        |o, text| {
            size(text, MIB, 256 * MIB, 1024 * TIB).map(|bytes| o.staging_limit_bytes = Some(bytes))
        },
        "most bytes waiting to be uploaded (default: half of the free disk)",
    ),
    value(
        "checkpoint_interval",
        "seconds, or a time with a unit (ms, s, m), from 50ms to 10m",
        |o, text| span(text, 50, 600_000).map(|span| o.checkpoint_interval = span),
        "how often metadata goes from the journal to SQLite (default: 1s)",
    ),
    value(
        "read_deadline",
        "seconds, or a time with a unit (ms, s, m), from 1s to 10m",
        |o, text| span(text, 1_000, 600_000).map(|span| o.read_deadline = span),
        "how long a read waits for the store before it fails (default: 30s)",
    ),
    value(
        "attr_timeout",
        TIMEOUT,
        |o, text| values::timeout(text).map(|timeout| o.attr_timeout = timeout),
        "how long the kernel keeps attributes (default: inf)",
    ),
    value(
        "entry_timeout",
        TIMEOUT,
        |o, text| values::timeout(text).map(|timeout| o.entry_timeout = timeout),
        "how long the kernel keeps names (default: inf)",
    ),
    value(
        "negative_timeout",
        TIMEOUT,
        |o, text| values::timeout(text).map(|timeout| o.negative_timeout = timeout),
        "how long the kernel keeps that a name is missing (default: inf)",
    ),
    value(
        "max_write",
        REQUEST_SIZE,
        |o, text| size(text, 1, 4 * KIB, MIB).map(|bytes| o.max_write = bytes as u32),
        "most bytes of one write request (default: 1M)",
    ),
    value(
        "max_readahead",
        READAHEAD,
        |o, text| size(text, 1, 0, 64 * MIB).map(|bytes| o.max_readahead = bytes as u32),
        "most bytes the kernel reads ahead (default: 1M)",
    ),
    value(
        "threads",
        "a number from 1 to 64, or auto",
        set_threads,
        "threads that answer the kernel (default: auto)",
    ),
    switch(
        "no_open",
        |o, on| o.no_open = on,
        "files are opened without asking the mount (default: on)",
    ),
    switch(
        "no_opendir",
        |o, on| o.no_opendir = on,
        "the same for directories (default: on)",
    ),
    value(
        "readdirplus",
        "auto, on or off",
        set_readdirplus,
        "directories are read with their entries' attributes (default: auto)",
    ),
    value(
        "low_latency",
        "auto or off",
        |o, text| {
            o.low_latency = match text {
                "auto" => true,
                "off" => false,
                _ => return None,
            };
            Some(())
        },
        "auto: processors are kept awake while requests flow, where /dev/cpu_dma_latency allows it (default: auto)",
    ),
    switch(
        "show_snapshots",
        |o, on| o.show_snapshots = on,
        "the root lists .snapshots, which is found by its name in any case (default: off)",
    ),
    value(
        "snapshot_interval",
        "off, or seconds, or a time with a unit (s, m, h, d), from 10s to 7d",
        set_snapshot_interval,
        "how often a snapshot is made of what has changed, to be thinned out by age (default: off)",
    ),
    value(
        "snapshot_most",
        "a number from 0 to 9000",
        |o, text| {
            let most = values::whole(text).filter(|most| *most <= 9000)?;
            o.snapshot_most = usize::try_from(most).ok()?;
            Some(())
        },
        "most snapshots that are kept of those that nobody made to keep: all of the last hour, then one an hour for a day, \
         one a day for a week (default: 1000)",
    ),
    value(
        "trash",
        "off, seconds, or a time with a unit (s, m, h, d), from 1m to 3650d",
        |o, text| {
            o.trash = match text {
                "off" | "0" => Duration::ZERO,
                _ => span(text, 60_000, 3_650 * 86_400_000)?,
            };
            Some(())
        },
        "how long what is removed stays in the trash; off: it does not go there, and what is there ends (default: 7d)",
    ),
    value(
        "lease",
        "auto or manual",
        |o, text| {
            o.lease_ends = match text {
                "auto" => true,
                "manual" => false,
                _ => return None,
            };
            Some(())
        },
        "auto: without the store, writing ends 15 minutes after the last renewal; manual: it does not, and no other \
         machine may write before this one unmounts or is overruled (default: auto)",
    ),
    Known {
        name: "take_over",
        takes: Takes::Nothing(|o| o.take_over = true),
        does: "write the volume although another machine has it: for when that machine is gone for good",
    },
    value(
        "diverged",
        "refuse or keep",
        |o, text| {
            o.keep_diverged = match text {
                "refuse" => false,
                "keep" => true,
                _ => return None,
            };
            Some(())
        },
        "keep: a local state without which the store has gone on is set aside as a divergent copy, and what the store \
         holds is mounted; refuse: the mount fails (default: refuse)",
    ),
    value(
        "at",
        moment::FORMS,
        |o, text| moment::parse(text, SystemTime::now()).map(|at_ms| o.at_ms = Some(at_ms)),
        "mount the newest restore point that is not younger, read-only; the volume may be written meanwhile",
    ),
    value(
        "divergent",
        "the name of a divergent copy",
        |o, text| {
            (!text.is_empty() && !text.contains('/')).then(|| o.divergent = Some(text.to_owned()))
        },
        "mount this divergent copy of the local state, read-only",
    ),
    switch(
        "kernel_writeback",
        |o, on| o.kernel_writeback = on,
        "the kernel gathers small writes (default: off)",
    ),
];

/// Does what `option` says to `options`.
pub(super) fn apply(
    options: &mut MountOptions,
    option: &Written,
    unknown: Unknown,
) -> Result<(), Failure> {
    let name = option.name.as_str();
    if name.starts_with("x-") || name.starts_with("X-") {
        return Ok(());
    }
    let Some(known) = all().find(|known| known.name == name) else {
        if unknown == Unknown::Ignore {
            return Ok(());
        }
        return Err(Failure::Invocation(words::unknown(name)));
    };
    let done = match (known.takes, option.value.as_deref()) {
        (Takes::Whatever, _) => Some(()),
        (Takes::Nothing(set), None) => {
            set(options);
            Some(())
        }
        (Takes::Nothing(_), Some(_)) | (Takes::Value(..), None) => None,
        (Takes::Value(_, set), Some(text)) => set(options, text),
        (Takes::Switch(set), text) => text
            .map_or(Some(true), values::switch)
            .map(|on| set(options, on)),
    };
    done.ok_or_else(|| Failure::Invocation(words::senseless(known, option.value.as_deref())))
}

fn set_fsname(options: &mut MountOptions, text: &str) -> Option<()> {
    (!text.is_empty() && !text.contains(char::is_control))
        .then(|| options.fsname = Some(text.to_owned()))
}

fn set_log_level(options: &mut MountOptions, text: &str) -> Option<()> {
    options.log_level = LogLevel::named(text)?;
    Some(())
}

fn set_threads(options: &mut MountOptions, text: &str) -> Option<()> {
    options.threads = match text {
        "auto" => None,
        _ => Some(values::whole(text).filter(|count| (1..=64).contains(count))? as usize),
    };
    Some(())
}

fn set_snapshot_interval(options: &mut MountOptions, text: &str) -> Option<()> {
    const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;
    options.snapshot_interval = match text {
        "off" => None,
        _ => Some(span(text, 10_000, WEEK_MS)?),
    };
    Some(())
}

fn set_readdirplus(options: &mut MountOptions, text: &str) -> Option<()> {
    options.readdirplus = match text {
        "auto" => Readdirplus::Auto,
        _ if values::switch(text)? => Readdirplus::On,
        _ => Readdirplus::Off,
    };
    Some(())
}

/// An absolute path without `..`, so that what it names does not depend on where the command was run.
pub(super) fn absolute(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    let climbs = path
        .components()
        .any(|part| part == std::path::Component::ParentDir);
    (path.is_absolute() && !climbs && !text.contains('\0')).then(|| path.components().collect())
}

fn size(text: &str, bare: u64, least: u64, most: u64) -> Option<u64> {
    values::size(text, bare).filter(|bytes| (least..=most).contains(bytes))
}

pub(super) fn span(text: &str, least_ms: u64, most_ms: u64) -> Option<Duration> {
    let range = Duration::from_millis(least_ms)..=Duration::from_millis(most_ms);
    values::span(text).filter(|span| range.contains(span))
}
