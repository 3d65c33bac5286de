//! Real work on a bucket behind a line with latency and limited bandwidth: a day's coding, an install read back by
//! another machine, and more data than the store takes in time.
//!
//! `WELDRFS_CODING_SIZE=full` takes the large inputs, `WELDRFS_RESTORE_FILES` more files for another machine to find,
//! `WELDRFS_IDLE_SECONDS` a longer rest, `WELDRFS_SYNC_STEPS=1` brings each step of the day to the store by itself.

#[cfg(test)]
#[path = "support/s3_server/mod.rs"]
mod s3_server;
#[cfg(test)]
mod support {
    pub(crate) mod mount;
    pub(crate) mod scripts;
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use serde_json::Value;

    use super::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Settings};
    use super::support::mount::{PROGRAM, Volume, require_fuse};
    use super::support::scripts::{difference, in_repository, inputs, succeed, treesum};

    const DAY_DEADLINE: Duration = Duration::from_secs(3_000);
    const VERBS: [&str; 5] = ["put", "get", "head", "list", "delete"];
    /// Data for which one put is allowed.
    const BYTES_PER_PUT: u64 = 4 << 20;
    /// Puts that any volume costs, however little is in it: its marker, two that must fail, a pack, a copy of the
    /// metadata, a head.
    const LEAST_PUTS: u64 = 6;

    /// A bucket at 20 ms and 100 MB/s.
    fn server() -> S3Server {
        S3Server::start(Settings {
            latency: Duration::from_millis(20),
            bandwidth: Some(100_000_000),
            ..Settings::default()
        })
    }

    fn mounted_on(server: &S3Server) -> Volume {
        let options = [
            format!("endpoint={}", server.endpoint()),
            format!("access_key_id={ACCESS_KEY}"),
            format!("secret_access_key={SECRET_KEY}"),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Volume::mounted_on(&format!("s3://{BUCKET}"), &options)
    }

    fn requests(status: &Value, verb: &str) -> u64 {
        status["store"][verb]["requests"].as_u64().unwrap()
    }

    /// What was asked of the store between two looks.
    fn between(before: &Value, after: &Value) -> String {
        let of = |status: &Value, verb: &str, field: &str| {
            status["store"][verb][field].as_u64().unwrap_or(0)
        };
        let difference = |verb: &str, field: &str| of(after, verb, field) - of(before, verb, field);
        VERBS
            .map(|verb| {
                let (requests, bytes) = (difference(verb, "requests"), difference(verb, "bytes"));
                format!("{verb} {requests} ({bytes} bytes)")
            })
            .join(", ")
    }

    /// A program that notes the mount's status after each step of the day. What a step has changed goes up later, unless
    /// each is to be in the store before the next begins.
    fn noting(volume: &Volume) -> std::path::PathBuf {
        let (program, notes) = (volume.beside("note.sh"), volume.beside("notes"));
        let sync = match std::env::var("WELDRFS_SYNC_STEPS").as_deref() {
            Ok("1") => "sync",
            _ => "status",
        };
        let text = format!(
            "#!/bin/sh\nset -e\nexport WELDR_ENV_VOL='{state}'\n'{PROGRAM}' {sync} '{root}' >/dev/null\n\
             printf '%s\\t' \"$1\" >>'{notes}'\n\
             '{PROGRAM}' status --json '{root}' | tr -d '\\n' >>'{notes}'\necho >>'{notes}'\n",
            notes = notes.display(),
            state = volume.beside("state").display(),
            root = volume.root().display(),
        );
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    fn size() -> String {
        std::env::var("WELDRFS_CODING_SIZE").unwrap_or_else(|_| "small".to_owned())
    }

    #[test]
    fn a_day_of_coding_on_a_bucket_survives_remount_and_another_machine() {
        require_fuse();
        let (server, inputs) = (server(), inputs(&size()));
        let mut volume = mounted_on(&server);
        let mut before = volume.status();
        println!("mount: {}", between(&Value::Null, &before));
        let day = volume.root().join("day");
        let steps = succeed(
            Command::new(in_repository("tests/e2e/coding_day.sh"))
                .args([&day, &inputs, &volume.beside("report.json")])
                .env("AFTER_STEP", noting(&volume)),
            DAY_DEADLINE,
        );
        println!("seconds: {steps}");
        for line in std::fs::read_to_string(volume.beside("notes"))
            .unwrap()
            .lines()
        {
            let (step, status) = line.split_once('\t').unwrap();
            let status: Value = serde_json::from_str(status).unwrap();
            println!("{step}: {}", between(&before, &status));
            before = status;
        }
        let began = Instant::now();
        volume.command(&["sync", &volume.root().to_string_lossy()]);
        let after = volume.status();
        println!(
            "weldrfs sync ({:.1?}): {}",
            began.elapsed(),
            between(&before, &after)
        );

        let listings = ["first", "second", "third", "fourth"].map(|name| volume.beside(name));
        let wanted = treesum(&day, &listings[0]);
        volume.remount();
        let same = |now: &str, listing: &Path, when: &str| {
            let differs = difference(&listings[0], listing);
            assert_eq!(wanted, now, "the tree changed {when}:\n{differs}");
        };
        same(&treesum(&day, &listings[1]), &listings[1], "by a remount");
        volume.sync_and_drop_caches();
        volume.remount();
        volume.sync_and_drop_caches();
        same(
            &treesum(&day, &listings[2]),
            &listings[2],
            "read back from the bucket",
        );
        volume.move_to_a_new_machine();
        let before = volume.status();
        let began = Instant::now();
        same(
            &treesum(&day, &listings[3]),
            &listings[3],
            "on another machine",
        );
        let gone = began.elapsed();
        println!(
            "another machine reads all ({gone:.1?}): {}",
            between(&before, &volume.status())
        );
        volume.unmount();
    }

    /// Writes files of a line each, a thousand to a folder.
    fn write_files(root: &Path, files: u64) {
        for n in 0..files {
            let folder = root.join(format!("{:04}", n / 1_000));
            if n % 1_000 == 0 {
                std::fs::create_dir(&folder).unwrap();
            }
            std::fs::write(folder.join(format!("{n:07}")), line_of(n)).unwrap();
        }
    }

    fn line_of(n: u64) -> String {
        format!("this is file {n}, and its number squared is {}\n", n * n)
    }

    #[test]
    fn many_files_are_restored_on_another_machine() {
        require_fuse();
        let files = std::env::var("WELDRFS_RESTORE_FILES")
            .map_or(3_000, |text| text.parse::<u64>().unwrap());
        let server = server();
        let mut volume = mounted_on(&server);
        let began = Instant::now();
        write_files(&volume.root(), files);
        let written = began.elapsed();
        volume.command(&["sync", &volume.root().to_string_lossy()]);
        let status = volume.status();
        println!(
            "{files} files written in {written:.1?}, in the store after {:.1?}, {} MiB of memory: {}",
            began.elapsed(),
            status["memory_resident_bytes"].as_u64().unwrap() >> 20,
            between(&Value::Null, &status)
        );
        let began = Instant::now();
        volume.move_to_a_new_machine();
        println!(
            "another machine has mounted it and lost the first one ({:.1?}): {}",
            began.elapsed(),
            between(&Value::Null, &volume.status())
        );
        for n in [0, files / 2, files - 1] {
            let path = format!("{:04}/{n:07}", n / 1_000);
            let found = std::fs::read_to_string(volume.root().join(path)).unwrap();
            assert_eq!(found, line_of(n));
        }
        println!(
            "three files are read ({:.1?}): {}",
            began.elapsed(),
            between(&Value::Null, &volume.status())
        );
        let mut found = 0;
        for n in 0..files.div_ceil(1_000) {
            let folder = volume.root().join(format!("{n:04}"));
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let n: u64 = entry.file_name().to_str().unwrap().parse().unwrap();
                assert_eq!(std::fs::read_to_string(entry.path()).unwrap(), line_of(n));
                found += 1;
            }
        }
        assert_eq!(found, files);
        let status = volume.status();
        println!(
            "all files are read ({:.1?}), {} MiB of memory: {}",
            began.elapsed(),
            status["memory_resident_bytes"].as_u64().unwrap() >> 20,
            between(&Value::Null, &status)
        );
        volume.unmount();
    }

    #[test]
    fn an_install_takes_few_requests_and_is_read_back_by_another_machine() {
        require_fuse();
        let (server, inputs) = (server(), inputs(&size()));
        let mut volume = mounted_on(&server);
        let app = volume.root().join("app");
        succeed(
            Command::new("cp")
                .arg("-r")
                .arg(inputs.join("app"))
                .arg(&app),
            DAY_DEADLINE,
        );
        succeed(
            Command::new("npm")
                .args([
                    "ci",
                    "--offline",
                    "--ignore-scripts",
                    "--no-audit",
                    "--no-fund",
                    "--cache",
                ])
                .arg(inputs.join("npm-cache"))
                .current_dir(&app),
            DAY_DEADLINE,
        );
        let began = Instant::now();
        volume.command(&["sync", &volume.root().to_string_lossy()]);
        let (sync, status) = (began.elapsed(), volume.status());
        let wanted = treesum(&app, &volume.beside("first"));
        let files = std::fs::read_to_string(volume.beside("first"))
            .unwrap()
            .lines()
            .count();
        let bytes = status["used_bytes"].as_u64().unwrap();
        let (puts, allowed) = (requests(&status, "put"), bytes / BYTES_PER_PUT);
        println!(
            "{files} entries, {bytes} bytes; sync {sync:.1?}: {}",
            between(&Value::Null, &status)
        );
        assert!(
            puts <= allowed.max(LEAST_PUTS),
            "{puts} puts for {bytes} bytes"
        );

        volume.move_to_a_new_machine();
        let before = volume.status();
        let began = Instant::now();
        let read = "find . -type f -print0 | xargs -0 cat | wc -c";
        let read = Command::new("sh")
            .args(["-c", read])
            .current_dir(&app)
            .output()
            .unwrap();
        let (took, after) = (began.elapsed(), volume.status());
        let read = String::from_utf8_lossy(&read.stdout);
        println!(
            "cold: {} bytes in {took:.1?}: {}",
            read.trim(),
            between(&before, &after)
        );
        let gets = requests(&after, "get") - requests(&before, "get");
        // Whole packs, and each of them once.
        assert!(gets <= puts, "{gets} gets of {puts} objects");
        assert_eq!(treesum(&app, &volume.beside("second")), wanted);
        volume.unmount();
    }

    /// Seconds between two renewals of the lease of a volume that nobody writes to.
    const RENEWED_AFTER: u64 = 300;
    /// Seconds to the first round that looks for garbage, and between two.
    const GARBAGE_AFTER: u64 = 300;
    const GARBAGE_INTERVAL: u64 = 3_600;
    /// Requests of such a round, of each of two kinds: those that put, and all others.
    const ROUND: u64 = 6;

    #[test]
    fn a_mount_with_nothing_to_do_renews_its_lease_and_asks_for_little_else() {
        require_fuse();
        let seconds =
            std::env::var("WELDRFS_IDLE_SECONDS").map_or(20, |text| text.parse::<u64>().unwrap());
        let server = server();
        let mut volume = mounted_on(&server);
        write_files(&volume.root(), 2_000);
        volume.command(&["sync", &volume.root().to_string_lossy()]);
        std::fs::remove_dir_all(volume.root().join("0001")).unwrap();
        volume.command(&["sync", &volume.root().to_string_lossy()]);
        let before = volume.status();
        std::thread::sleep(Duration::from_secs(seconds));
        let after = volume.status();
        println!("{seconds} s of rest: {}", between(&before, &after));
        let made = |verb: &str| requests(&after, verb) - requests(&before, verb);
        // One more, because something was written just before.
        let renewals = 1 + seconds / RENEWED_AFTER;
        let rounds = match seconds.checked_sub(GARBAGE_AFTER) {
            None => 0,
            Some(left) => 1 + left / GARBAGE_INTERVAL,
        };
        let others = made("get") + made("head") + made("list") + made("delete");
        assert!(made("put") <= renewals + ROUND * rounds, "too many puts");
        assert!(others <= ROUND * rounds, "{others} other requests");
        volume.unmount();
    }

    #[test]
    fn what_waits_for_a_slow_store_waits_on_the_disk_and_not_in_memory() {
        const FILES: u64 = 100;
        const FILE_BYTES: usize = 5 << 20;
        const MOST_MEMORY: u64 = 200 << 20;
        require_fuse();
        let server = server();
        let mut volume = mounted_on(&server);
        server.set_bandwidth(Some(200_000));
        let content = |n: u64| -> Vec<u8> {
            // Does not compress, and differs from file to file.
            let mut state = n + 1;
            let mut words = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            words.by_ref().take(FILE_BYTES / 8).flatten().collect()
        };
        for n in 0..FILES {
            std::fs::write(volume.root().join(format!("f{n}")), content(n)).unwrap();
        }
        // Long enough for as many uploads as there may be to be under way.
        std::thread::sleep(Duration::from_secs(15));
        let status = volume.status();
        let waiting = status["behind"]["bytes"].as_u64().unwrap();
        assert!(waiting > 480_000_000, "{waiting} bytes wait");
        let (now, most) = volume.memory();
        println!(
            "{waiting} bytes wait; memory {} MiB, at most {} MiB",
            now >> 20,
            most >> 20
        );
        assert!(most < MOST_MEMORY, "{} MiB", most >> 20);
        server.set_bandwidth(None);
        volume.sync_and_drop_caches();
        volume.move_to_a_new_machine();
        for n in 0..FILES {
            let read = std::fs::read(volume.root().join(format!("f{n}"))).unwrap();
            assert!(read == content(n), "f{n}");
        }
        volume.unmount();
    }
}
