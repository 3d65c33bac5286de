//! A turn on a real project, with its packages installed and its dev server running: taken back, the project is as it was
//! and the server serves that; and then the taking back is taken back.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::scene::{DEADLINE, git, run, shell, snapshot};
use crate::support::mount::Volume;
use crate::support::scripts::{difference, inputs_with, portable_treesum};

/// How long the server has to notice something.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// Vite's watcher drops some changes that come close upon others, on ext4 as well. So what it has not noticed happens
/// again, a few times.
const ATTEMPTS: usize = 5;
const PORTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(50);
/// A file of the project that tells which state the server has seen.
const MARK: &str = "/src/mark.ts";

/// The application of the coding workload, with a history, changes that are in no commit, and a file that git does not
/// know.
fn project(volume: &Volume) -> PathBuf {
    let inputs = inputs_with("small", &["app"]);
    let project = volume.root().join("app");
    run(Command::new("cp")
        .arg("-r")
        .arg(inputs.join("app"))
        .arg(&project));
    // What Vite makes for itself is not part of the project.
    let cache = volume.beside("vite-cache");
    let script = format!(
        "sed -i 's|plugins:|cacheDir: \"{}\", plugins:|' vite.config.ts; grep -q cacheDir vite.config.ts
         printf '%s\\n' node_modules dist >.gitignore; mkdir src/parts
         for n in $(seq 60); do echo \"export const part = $n;\" >src/parts/p$n.ts; done
         echo 'export const mark = \"FIRST\";' >src/mark.ts
         git init -q .; git add -A; git commit -qm first
         for n in $(seq 30); do echo \"export const more = $n;\" >>src/parts/p$n.ts; done
         echo 'export const mark = \"SECOND\";' >src/mark.ts; git commit -qam second",
        cache.display()
    );
    git(&project, &script);
    run(Command::new("npm")
        .args([
            "ci",
            "--offline",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--cache",
        ])
        .arg(inputs.join("npm-cache"))
        .current_dir(&project));
    git(
        &project,
        "echo 'export const mark = \"WORK\";' >src/mark.ts; echo // staged >>src/parts/p1.ts; git add src/parts/p1.ts
         echo >>src/parts/p2.ts; echo remember >notes.txt; chmod 755 src/parts/p3.ts; ln src/parts/p4.ts src/parts/linked.ts",
    );
    project
}

/// What an agent does that has lost its way.
fn wrong_turn(project: &Path) {
    git(
        project,
        "for n in $(seq 50); do sed -i '1i // edited' src/parts/p$n.ts; done
         rm -rf node_modules
         git reset -q --hard HEAD~1
         for n in $(seq 11 60); do echo '// edited again' >>src/parts/p$n.ts; done
         mkdir -p build/deep; for n in $(seq 100); do echo $n >build/deep/$n; done; echo >src/parts/untracked.ts
         test ! -e node_modules
         echo 'export const mark = \"AGENT\";' >src/mark.ts",
    );
}

/// Everything that counts of a project.
#[derive(PartialEq, Debug)]
struct Sum {
    /// Of every entry: kind, mode, content, links.
    tree: String,
    /// When files were changed.
    times: String,
    /// What git says.
    status: String,
}

fn text(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap()
}

impl Sum {
    fn of(project: &Path, listing: &Path) -> Self {
        let mut find = Command::new("find");
        find.args([".", "!", "-type", "d", "-printf", "%T@ %p\\n"]);
        let times = text(run(find.current_dir(project)));
        let mut times: Vec<&str> = times.lines().collect();
        times.sort_unstable();
        Self {
            tree: portable_treesum(project, listing),
            times: times.join("\n"),
            status: text(run(Command::new("git")
                .args(["--no-optional-locks", "status", "--porcelain", "--branch"])
                .current_dir(project)
                .env("GIT_CONFIG_GLOBAL", "/dev/null"))),
        }
    }
}

fn is_same(is: &Sum, should: &Sum, listings: [&Path; 2]) {
    assert_eq!(is.status, should.status);
    assert_eq!(
        is.tree,
        should.tree,
        "{}",
        difference(listings[0], listings[1])
    );
    assert!(is.times == should.times, "files have other times");
}

/// A Vite dev server.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// A port that is free now may be another program's a moment later: then it is another one.
    fn start(project: &Path) -> Self {
        for _ in 0..PORTS {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let process = Command::new("node")
                .args(["node_modules/vite/bin/vite.js", "--host", "127.0.0.1"])
                .args(["--port", &port.to_string(), "--strictPort"])
                .current_dir(project)
                // Looking again and again would see every change without inotify.
                .env_remove("CHOKIDAR_USEPOLLING")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let mut server = Self { process, port };
            if server.answers() {
                return server;
            }
        }
        panic!("the dev server does not start");
    }

    fn answers(&mut self) -> bool {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until && self.process.try_wait().unwrap().is_none() {
            if self.get(MARK).is_some() {
                return true;
            }
            std::thread::sleep(PAUSE);
        }
        false
    }

    fn get(&self, url: &str) -> Option<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        connection.set_read_timeout(Some(DEADLINE)).ok()?;
        let request = format!("GET {url} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    }

    /// Whether it serves this soon.
    fn serves(&self, mark: &str) -> bool {
        let until = Instant::now() + NOTICED_WITHIN;
        while Instant::now() < until {
            if self.get(MARK).is_some_and(|answer| answer.contains(mark)) {
                return true;
            }
            std::thread::sleep(PAUSE);
        }
        false
    }

    fn is_alive(&mut self) {
        assert_eq!(
            self.process.try_wait().unwrap(),
            None,
            "the dev server has ended"
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Restores, and returns the snapshot of what was there before.
fn restore(volume: &Volume, project: &Path, name: &str) -> String {
    let said = snapshot(volume, "restore", project, &[name]);
    let safety = said.trim_end().rsplit(' ').next().unwrap().to_owned();
    assert!(safety.starts_with("before-restore-"), "{said}");
    safety
}

#[test]
fn a_wrong_turn_on_a_real_project_is_taken_back_under_its_dev_server() {
    let mut volume = Volume::mounted();
    let project = project(&volume);
    let mut server = Server::start(&project);
    assert!(server.serves("WORK"));
    let [first, second] = ["first", "second"].map(|name| volume.beside(&format!("listing-{name}")));
    let before = Sum::of(&project, &first);
    assert!(before.status.contains("?? notes.txt"), "{}", before.status);
    snapshot(&volume, "create", &volume.root(), &["turn"]);

    wrong_turn(&project);
    let after = Sum::of(&project, &second);
    assert!(before.tree != after.tree && before.status != after.status);
    let mut attempts = 0;
    while !server.serves("AGENT") {
        attempts += 1;
        assert!(
            attempts < ATTEMPTS,
            "the server does not see the turn, without any restore"
        );
        shell(
            &project,
            "cp src/mark.ts mark~; cat mark~ >src/mark.ts; rm mark~",
        );
    }
    let agents = Sum::of(&project, &second);

    for attempt in 1.. {
        let safety = restore(&volume, &project, "turn");
        is_same(
            &Sum::of(&project, &volume.beside("listing")),
            &before,
            [&first, &volume.beside("listing")],
        );
        server.is_alive();
        let seen = server.serves("WORK");
        assert_eq!(snapshot(&volume, "diff", &project, &["turn"]), "");
        if attempt == 1 {
            // It is a project that one can work in.
            git(
                &project,
                "git fsck --strict; node node_modules/typescript/bin/tsc --noEmit",
            );
        }

        restore(&volume, &project, &safety);
        is_same(
            &Sum::of(&project, &volume.beside("listing")),
            &agents,
            [&second, &volume.beside("listing")],
        );
        server.is_alive();
        if seen && server.serves("AGENT") {
            println!("seen at attempt {attempt}");
            break;
        }
        assert!(attempt < ATTEMPTS, "the dev server does not see restores");
    }
    restore(&volume, &project, "turn");
    drop(server);
    volume.sync_and_drop_caches();
    volume.remount();
    is_same(
        &Sum::of(&project, &volume.beside("listing")),
        &before,
        [&first, &volume.beside("listing")],
    );
    volume.unmount();
}
