use super::known::{Takes, all};
use super::*;

fn parse(text: &str) -> Result<MountOptions, Failure> {
    MountOptions::parse(&[text.to_owned()], Unknown::Refuse, &Variables::default())
}

fn good(text: &str) -> MountOptions {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> String {
    let error = parse(text).expect_err(text);
    assert_eq!(error.exit_code(), 1, "{text}");
    error.to_string()
}

/// For every option that takes a value: good values, bad values.
const EXAMPLES: &[(&str, &[&str], &[&str])] = &[
    (
        "endpoint",
        &["http://h", "https://h.example:9000/"],
        &["", "h", "ftp://h", "http://h/path"],
    ),
    ("region", &["auto", "eu-west-1"], &["", "a b"]),
    ("access_key_id", &["k"], &["", "a b"]),
    ("secret_access_key", &["s+/="], &["", "a b"]),
    ("session_token", &["t"], &["", "a\nb"]),
    ("credentials_file", &["/f"], &["", "f", "/a/../b"]),
    ("profile", &["p"], &["", "a b"]),
    ("max_uploads", &["1", "100"], &["", "0", "101", "x"]),
    ("upload_delay", &["0", "30s", "1h"], &["", "2h", "x"]),
    ("fsync", &["local", "remote"], &["", "always"]),
    ("writeback", &["on", "off"], &["maybe", "2"]),
    ("fsname", &["vol", "a b"], &["", "a\nb"]),
    ("subtype", &["weldrfs"], &["", "other"]),
    (
        "log_level",
        &["error", "warn", "info", "debug", "trace"],
        &["", "loud", "INFO"],
    ),
    ("state_dir", &["/s", "/s/t/"], &["", "s", "./s", "/s/../t"]),
    ("cache_dir", &["/c"], &["", "c", "../c"]),
    (
        "cache_size",
        &["64", "2048", "10G", "1.5T", "1024T"],
        &["", "0", "63", "63M", "-1", "big", "1025T", "1e9"],
    ),
    (
        "frame_cache",
        &["4", "64M", "1G"],
        &["", "0", "3", "100K", "2T", "x"],
    ),
    (
        "free_space_ratio",
        &["0", "0.01", "5%", "0.9"],
        &["", "0.91", "1", "-0.1", "95%", "x"],
    ),
    (
        "staging_limit",
        &["256", "1G"],
        &["", "0", "255", "1M", "x"],
    ),
    (
        "checkpoint_interval",
        &["1", "0.5", "50ms", "10m"],
        &["", "0", "49ms", "11m", "inf", "x"],
    ),
    (
        "read_deadline",
        &["1", "30s", "10m"],
        &["", "0", "500ms", "11m", "inf", "x"],
    ),
    (
        "attr_timeout",
        &["0", "1", "0.5", "inf", "10s"],
        &["", "-1", "never", "1y"],
    ),
    (
        "entry_timeout",
        &["0", "1", "0.5", "inf", "10s"],
        &["", "-1", "never", "1y"],
    ),
    (
        "negative_timeout",
        &["0", "1", "0.5", "inf", "10s"],
        &["", "-1", "never", "1y"],
    ),
    (
        "max_write",
        &["4096", "128K", "1M"],
        &["", "0", "4095", "2M", "x"],
    ),
    ("max_readahead", &["0", "131072", "64M"], &["", "65M", "x"]),
    (
        "threads",
        &["1", "64", "auto"],
        &["", "0", "65", "-1", "1.5", "x"],
    ),
    ("no_open", &["on", "off"], &["", "maybe", "2"]),
    ("no_opendir", &["on", "off"], &["", "maybe", "2"]),
    ("readdirplus", &["auto", "on", "off"], &["", "always"]),
    ("kernel_writeback", &["on", "off"], &["", "maybe", "2"]),
    ("show_snapshots", &["on", "off"], &["", "maybe", "2"]),
    (
        "snapshot_interval",
        &["off", "10", "5m", "7d"],
        &["", "0", "9s", "8d", "on", "x"],
    ),
    ("snapshot_most", &["0", "9000"], &["", "9001", "-1", "x"]),
    ("low_latency", &["auto", "off"], &["", "on", "2"]),
    (
        "trash",
        &["7d", "off", "0", "1m", "86400", "3650d"],
        &["", "on", "-1d", "59s", "4000d", "never"],
    ),
    ("lease", &["auto", "manual"], &["", "on", "15m"]),
    ("diverged", &["refuse", "keep"], &["", "on"]),
    ("at", &["30m", "2026-11-22T10:15:00Z"], &["", "5", "noon"]),
    ("divergent", &["divergent-x"], &["", "a/b"]),
    ("path_style", &["on", "off"], &["", "maybe"]),
    ("virtual_host", &["on", "off"], &["", "maybe"]),
    ("conditional_writes", &["on", "off"], &["", "maybe"]),
];

#[test]
fn every_option_with_a_value_has_examples() {
    for known in all() {
        let takes_value = matches!(known.takes, Takes::Value(..) | Takes::Switch(_));
        let has_examples = EXAMPLES.iter().any(|(name, ..)| *name == known.name);
        assert_eq!(takes_value, has_examples, "{}", known.name);
    }
    for (name, ..) in EXAMPLES {
        assert!(all().any(|known| known.name == *name), "{name}");
    }
}

#[test]
fn good_values_are_taken_and_bad_ones_are_named_with_what_is_taken() {
    for (name, goods, bads) in EXAMPLES {
        for value in *goods {
            good(&format!("{name}={value}"));
        }
        for value in *bads {
            let message = refusal(&format!("{name}={value}"));
            assert!(
                message.starts_with(&format!("option {name} takes ")),
                "{name}={value}: {message}"
            );
            // A wrong secret may still be most of the right one.
            let secret = ["access_key_id", "secret_access_key", "session_token"].contains(name);
            assert_eq!(
                message.ends_with(&format!("not {value:?}")),
                !secret,
                "{name}={value}: {message}"
            );
        }
    }
}

#[test]
fn options_without_a_value_stand_alone() {
    for known in all() {
        let name = known.name;
        match known.takes {
            Takes::Nothing(_) => {
                good(name);
                assert_eq!(
                    refusal(&format!("{name}=1")),
                    format!("option {name} takes no value, not \"1\"")
                );
            }
            Takes::Whatever => {
                assert_eq!(good(name), MountOptions::default(), "{name}");
                assert_eq!(
                    good(&format!("{name}=whatever")),
                    MountOptions::default(),
                    "{name}"
                );
            }
            Takes::Value(..) => {
                let message = refusal(name);
                assert!(
                    message.starts_with(&format!("option {name} needs a value: ")),
                    "{message}"
                );
            }
            Takes::Switch(_) => assert_eq!(good(name), good(&format!("{name}=on"))),
        }
    }
}

#[test]
fn every_option_that_does_something_is_in_the_readme() {
    let readme = include_str!("../../README.md");
    for known in all().filter(|known| !matches!(known.takes, Takes::Whatever)) {
        let named = format!("`{}`", known.name);
        assert!(readme.contains(&named), "the README does not name {named}");
    }
}

#[test]
fn names_are_known_once() {
    let names: BTreeSet<_> = all().map(|known| known.name).collect();
    assert_eq!(names.len(), all().count());
}

#[test]
fn values_arrive_where_they_belong() {
    let options = good(
        "ro,nosuid,nodev,noexec,noatime,nodiratime,sync,dirsync,allow_other,fsname=vol,foreground,log_level=debug,\
         state_dir=/s,cache_dir=/c,cache_size=100,frame_cache=5,free_space_ratio=5%,staging_limit=1G,\
         checkpoint_interval=250ms,read_deadline=5,attr_timeout=1,entry_timeout=2,negative_timeout=3,max_write=64K,\
         max_readahead=4096,threads=3,no_open=off,no_opendir=off,readdirplus=on,kernel_writeback,low_latency=off,show_snapshots,snapshot_interval=5m,snapshot_most=7,trash=2d,endpoint=http://h:1,region=r,\
         access_key_id=i,secret_access_key=s,session_token=t,credentials_file=/f,profile=p,path_style,conditional_writes=off,\
         max_uploads=9,upload_delay=1m,fsync=remote,writeback=off,lease=manual,take_over,diverged=keep,divergent=d,at=1970-01-01T00:00:01Z",
    );
    let expected = MountOptions {
        read_only: true,
        kernel: [
            "nosuid",
            "nodev",
            "noexec",
            "noatime",
            "nodiratime",
            "sync",
            "dirsync",
        ]
        .into(),
        access: Access::Everybody,
        fsname: Some("vol".into()),
        foreground: true,
        log_level: LogLevel::Debug,
        state_dir: Some("/s".into()),
        cache_dir: Some("/c".into()),
        cache_bytes: 100 << 20,
        frame_cache_bytes: 5 << 20,
        free_space_ratio: 0.05,
        staging_limit_bytes: Some(1 << 30),
        checkpoint_interval: Duration::from_millis(250),
        read_deadline: Duration::from_secs(5),
        attr_timeout: Duration::from_secs(1),
        entry_timeout: Duration::from_secs(2),
        negative_timeout: Duration::from_secs(3),
        max_write: 65536,
        max_readahead: 4096,
        threads: Some(3),
        no_open: false,
        no_opendir: false,
        readdirplus: Readdirplus::On,
        kernel_writeback: true,
        low_latency: false,
        show_snapshots: true,
        trash: Duration::from_secs(2 * 86_400),
        snapshot_interval: Some(Duration::from_secs(300)),
        snapshot_most: 7,
        s3: S3Options {
            endpoint: Some("http://h:1".into()),
            region: Some("r".into()),
            access_key_id: Some("i".into()),
            secret_access_key: Some("s".into()),
            session_token: Some("t".into()),
            credentials_file: Some("/f".into()),
            profile: Some("p".into()),
            addressing: Addressing::Path,
        },
        conditional_writes: false,
        max_uploads: 9,
        upload_delay: Duration::from_secs(60),
        fsync_remote: true,
        writeback: false,
        lease_ends: false,
        take_over: true,
        keep_diverged: true,
        divergent: Some("d".into()),
        at_ms: Some(1_000),
    };
    assert_eq!(options, expected);
}

#[test]
fn what_comes_later_wins() {
    let plain = good(
        "ro,rw,nosuid,suid,nodev,dev,noexec,exec,noatime,atime,nodiratime,diratime,sync,async",
    );
    assert_eq!(plain, MountOptions::default());
    assert!(good("rw,ro").read_only);
    let two = MountOptions::parse(
        &["threads=2,ro".into(), "threads=4".into()],
        Unknown::Refuse,
        &Variables::default(),
    )
    .unwrap();
    assert_eq!((two.threads, two.read_only), (Some(4), true));
}

#[test]
fn what_mount_and_fstab_add_is_accepted() {
    assert_eq!(good("rw,dev,suid"), MountOptions::default());
    let text = "defaults,noauto,user=me,_netdev,nofail,x-systemd.automount,x-systemd.device-timeout=10,X-mount.mkdir,\
                comment=for the build,default_permissions,rw,relatime";
    assert_eq!(good(text), MountOptions::default());
}

#[test]
fn a_slip_gets_the_nearest_name() {
    for (slip, meant) in [
        ("cache_sise=1G", "cache_size"),
        ("cache-size=1G", "cache_size"),
        ("cachesize=1G", "cache_size"),
        ("alow_other", "allow_other"),
        ("attr-timeout=1", "attr_timeout"),
        ("atr_timeout=1", "attr_timeout"),
        ("statedir=/s", "state_dir"),
        ("thread=1", "threads"),
        ("readdir_plus=on", "readdirplus"),
        ("noatme", "noatime"),
    ] {
        let message = refusal(slip);
        let name = slip.split('=').next().unwrap();
        assert!(
            message.starts_with(&format!("unknown option {name}; did you mean {meant}?")),
            "{message}"
        );
    }
}

#[test]
fn an_option_like_no_other_points_to_the_help() {
    for name in ["frobnicate", "zz", "ROOT", "password=secret"] {
        let message = refusal(name);
        assert!(
            message.contains("--help") && !message.contains("did you mean"),
            "{message}"
        );
        assert!(
            !message.contains("secret"),
            "values of unknown options may be secrets: {message}"
        );
    }
}

#[test]
fn options_of_other_tools_say_what_to_do_instead() {
    for (name, part) in [
        ("auto_unmount", "mounting again clears"),
        ("nonempty", "does not have to be empty"),
        ("remount", "unmount it"),
        ("open-cache=1", "no_open"),
        ("drop_privileges", "setuid=USER"),
    ] {
        let message = refusal(name);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn sloppy_mounts_ignore_unknown_names_but_not_senseless_values() {
    let parse = |text: &str| {
        MountOptions::parse(&[text.to_owned()], Unknown::Ignore, &Variables::default())
    };
    assert_eq!(parse("frobnicate=1,ro").unwrap(), good("ro"));
    assert!(parse("threads=0").is_err());
}

#[test]
fn contradictions_are_refused() {
    assert!(refusal("allow_other,allow_root").contains("exclude each other"));
}

#[test]
fn the_help_names_every_option() {
    let help = help();
    for known in all() {
        assert!(help.contains(known.name), "{}", known.name);
    }
}
