//! Sandboxes from inside: what a hostile command tries, and what is left for it.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::exec::{Alone, exec, left_behind, raw, send, shell, sidecar, sidecar_with, unmount};
use crate::support::until;

/// Something on the machine that goes with the test.
struct Planted(PathBuf);

impl Planted {
    fn folder(path: &str) -> Self {
        let path = PathBuf::from(format!("{path}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        match self.0.is_symlink() {
            true => drop(std::fs::remove_file(&self.0)),
            false => drop(std::fs::remove_dir_all(&self.0)),
        }
    }
}

fn python(program: &str) -> Value {
    json!({"mount": "project", "command": ["python3", "-c", program]})
}

/// What a hostile command does to the machine as the project's owner; the names of what works.
const ATTACK: &str = r#"
import os, socket, stat, sys, glob
def attempt(name, action):
    try:
        action()
        print('worked:', name)
    except OSError as error:
        print('refused:', name, error.errno)
for device in ('null', 'zero', 'full', 'random', 'urandom', 'tty'):
    attempt('chmod ' + device, lambda: os.chmod('/dev/' + device, 0o600))
    attempt('utime ' + device, lambda: os.utime('/dev/' + device))
open('/dev/null', 'w').write('x')
open('/dev/zero', 'rb').read(1)
open('plain', 'w').close()
for bits in (0o4755, 0o2755):
    attempt('chmod set-id', lambda: os.chmod('plain', bits))
    attempt('fchmod set-id', lambda: os.fchmod(os.open('plain', os.O_RDONLY), bits))
    attempt('open set-id', lambda: os.open('made-%o' % bits, os.O_CREAT | os.O_WRONLY, bits))
    attempt('mknod set-id', lambda: os.mknod('node-%o' % bits, stat.S_IFREG | bits))
os.chmod('plain', 0o750)
for path in sys.argv[1:]:
    client = socket.socket(socket.AF_UNIX)
    attempt('socket ' + path, lambda: client.connect(path))
for path in glob.glob('/proc/*'):
    found = os.lstat(path)
    if stat.S_ISREG(found.st_mode) and not found.st_mode & 0o044:
        try:
            if open(path, 'rb').read(1):
                print('worked: read', path)
        except OSError:
            pass
"#;

fn attack(sidecar: &Alone, mount: &str) {
    let var = Planted::folder("/var/lib/weldrfs-canary");
    let opt = Planted::folder("/opt/weldrfs-canary");
    let sockets: Vec<String> = [&var, &opt]
        .iter()
        .map(|folder| format!("{}/s", folder.text()))
        .collect();
    let listeners: Vec<_> = sockets
        .iter()
        .map(|path| {
            let listener = UnixListener::bind(path).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
            listener
        })
        .collect();
    let before = std::fs::metadata("/dev/null").unwrap();
    let mut command = vec!["python3", "-c", ATTACK];
    command.extend(sockets.iter().map(String::as_str));
    let ran = exec(sidecar, &json!({"mount": mount, "command": command}));
    drop(listeners);
    assert_eq!(ran.exit["status"], 0, "{ran:?}");
    assert!(!ran.stdout.contains("worked:"), "{ran:?}");
    let now = std::fs::metadata("/dev/null").unwrap();
    let of = |found: &std::fs::Metadata| (found.uid(), found.gid(), found.mode());
    assert_eq!(of(&before), of(&now));
}

#[test]
fn a_command_in_roots_project_is_nobody_on_the_machine() {
    let sidecar = sidecar();
    attack(&sidecar, "project");
    let folder = sidecar.place.path("ws/project");
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap().flatten() {
        let found = entry.metadata().unwrap();
        assert_eq!(found.mode() & 0o6000, 0, "{entry:?}");
        assert_eq!((found.uid(), found.gid()), (0, 0), "{entry:?}");
        files += 1;
    }
    assert!(files >= 1);
    let ran = exec(
        &sidecar,
        &shell("cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %u:%g . plain"),
    );
    let outside = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    let numbers: Vec<_> = ran.stdout.lines().take(4).filter_map(outside).collect();
    assert_eq!(numbers.len(), 4, "{ran:?}");
    assert!(!numbers.contains(&"0".to_owned()), "{ran:?}");
    assert!(
        ran.stdout.ends_with("1000\n1000:1000\n1000:1000\n"),
        "{ran:?}"
    );
    unmount(&sidecar);
}

#[test]
fn where_the_mount_lets_nobody_else_in_the_doors_are_closed_all_the_same() {
    let sidecar = sidecar();
    // By hand, and for its owner only: the command has root's number.
    sidecar.place.mount();
    until("it is seen", || sidecar.listed("m").is_some());
    let ran = exec(
        &sidecar,
        &json!({"mount": "m", "command": "cat /proc/self/uid_map; id -u"}),
    );
    assert!(ran.stdout.ends_with("1000\n"), "{ran:?}");
    attack(&sidecar, "m");
    sidecar
        .ask("POST", "/mounts/unmount", r#"{"name":"m"}"#)
        .success();
    unmount(&sidecar);
}

#[test]
fn a_project_of_somebody_elses_gets_a_user_namespace_too() {
    let sidecar = sidecar();
    let app = sidecar.place.path("ws/project/app");
    std::fs::create_dir(&app).unwrap();
    chown(&app, Some(1234), Some(50)).unwrap();
    let body = json!({
        "mount": "project", "path": "app",
        "command": "id -u; id -g; cat /proc/self/uid_map; echo x >file; mkdir dir; ln -s x link",
    });
    let ran = exec(&sidecar, &body);
    assert!(ran.stdout.starts_with("1234\n50\n"), "{ran:?}");
    assert_eq!(ran.exit["status"], 0, "{ran:?}");
    let numbers: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .skip(2)
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(numbers.len(), 2, "root and the user: {ran:?}");
    assert!(
        numbers.iter().all(|line| line[0] != line[1]),
        "it has the numbers of the machine: {ran:?}"
    );
    for name in ["file", "dir", "link"] {
        let found = std::fs::symlink_metadata(app.join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (1234, 50), "{name}");
    }
    unmount(&sidecar);
}

#[test]
fn programs_do_not_notice_that_owners_are_shown_otherwise() {
    let sidecar = sidecar();
    std::fs::create_dir(sidecar.place.path("ws/project/theirs")).unwrap();
    chown(
        sidecar.place.path("ws/project/theirs"),
        Some(1234),
        Some(50),
    )
    .unwrap();
    // What cannot be given to root stays one's own, without complaint.
    let script = "cp -p /bin/ls . && cp -a /usr/lib/os-release copy && tar cf t.tar ls && tar xpf t.tar && ./ls -d . \
        && git init -q . && echo a >f && git add f && git -c user.name=a -c user.email=b commit -qm x && git status --short f";
    for path in [None, Some("theirs")] {
        let mut body = shell(script);
        if let Some(path) = path {
            body["path"] = json!(path);
            body["command"] = json!("cp -p /bin/ls . && stat -c %u:%g . ls");
        }
        let ran = exec(&sidecar, &body);
        assert_eq!(ran.exit["status"], 0, "{ran:?}");
    }
    unmount(&sidecar);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_other_architectures_end_the_program() {
    let sidecar = sidecar();
    // Through the gate of 32-bit programs: socketcall(SYS_SOCKET, {AF_VSOCK, ..}), which would be a descriptor.
    let gate = r#"
import ctypes, mmap
arguments = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)
arguments.write((40).to_bytes(4, 'little') + (1).to_bytes(4, 'little') + bytes(4))
at = ctypes.addressof(ctypes.c_char.from_buffer(arguments))
code = mmap.mmap(-1, 4096, prot=7)
code.write(b'\x53\xb8' + (102).to_bytes(4, 'little') + b'\xbb' + (1).to_bytes(4, 'little')
    + b'\xb9' + at.to_bytes(4, 'little') + b'\xcd\x80\x5b\xc3')
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
print('came back with', call())
"#;
    // And by the numbers of x32: getpid.
    let x32 = "import ctypes; print('came back with', ctypes.CDLL(None).syscall(0x40000000 + 39))";
    for program in [gate, x32] {
        let ran = exec(&sidecar, &python(program));
        assert_eq!(ran.exit["status"], 128 + libc::SIGSYS, "{ran:?}");
    }
    unmount(&sidecar);
}

#[test]
fn the_input_is_no_place_to_keep_things() {
    let sidecar = sidecar();
    let program = r#"
import os
fd = os.open('/proc/self/fd/0', os.O_RDWR | os.O_NONBLOCK)
written = 0
try:
    while written < 64 << 20:
        written += os.write(fd, bytes(65536))
except BlockingIOError:
    pass
print(written)
"#;
    let mut body = python(program);
    body["stdin"] = json!("given");
    let ran = exec(&sidecar, &body);
    let written: u64 = ran.stdout.trim().parse().unwrap_or(0);
    assert!(written < 2 << 20, "{ran:?}");
    let long = "x".repeat(200_000);
    let body = json!({"mount": "project", "command": "wc -c", "stdin": long});
    assert_eq!(exec(&sidecar, &body).stdout.trim(), "200000");
    let ran = exec(&sidecar, &shell("wc -c; ls /proc/self/fd; ls /proc/1/fd"));
    assert_eq!(ran.stdout, "0\n0\n1\n2\n3\n0\n1\n2\n", "{ran:?}");
    unmount(&sidecar);
}

#[test]
fn a_link_that_is_hidden_hides_what_it_leads_to() {
    let target = Planted::folder("/opt/weldrfs-canary-target");
    std::fs::write(target.0.join("key"), "secret").unwrap();
    let link = Planted(PathBuf::from(format!(
        "/opt/weldrfs-link-{}",
        std::process::id()
    )));
    std::os::unix::fs::symlink(&target.0, &link.0).unwrap();
    let sidecar = sidecar_with(&["--hide", link.text()]);
    let line = format!(
        "cat {0}/key {1}/key 2>/dev/null; ls -d {0}",
        target.text(),
        link.text()
    );
    let ran = exec(&sidecar, &shell(&line));
    assert_eq!(ran.stdout.trim(), target.text(), "{ran:?}");
    unmount(&sidecar);
}

#[test]
fn secrets_are_in_no_process_but_the_command() {
    let sidecar = sidecar();
    let canary = "c4n4ry-of-processes";
    sidecar.keep_secret("API_KEY", canary);
    let line = "echo $API_KEY | rev >got; while [ -e got ]; do sleep 0.05; done";
    let body = json!({"mount": "project", "command": line, "secrets": ["API_KEY"]});
    let mut stream = send(&sidecar, &body);
    let got = sidecar.place.path("ws/project/got");
    until("it runs", || {
        std::fs::read_to_string(&got).is_ok_and(|text| !text.is_empty())
    });
    let mut with = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| {
            let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        if read("environ").contains(canary) {
            with.push(read("cmdline"));
        }
    }
    std::fs::remove_file(&got).unwrap();
    drop(stream.read_to_string(&mut String::new()));
    assert!(!with.is_empty());
    for line in &with {
        let is_command = line.starts_with("/bin/sh -c") || line.starts_with("sleep");
        assert!(is_command, "{with:?}");
    }
    unmount(&sidecar);
}

#[test]
fn a_slow_reader_loses_nothing() {
    let sidecar = sidecar();
    let mut stream = send(
        &sidecar,
        &shell("head -c 30000000 /dev/zero | tr '\\0' x; echo; exit 3"),
    );
    // Longer than anybody waited for such a one before; the client reads nothing meanwhile.
    std::thread::sleep(Duration::from_secs(8));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let lines: Vec<Value> = answer
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let length: usize = lines
        .iter()
        .filter_map(|line| line["text"].as_str())
        .map(str::len)
        .sum();
    assert_eq!(length, 30_000_001);
    assert_eq!(lines.last().unwrap()["status"], 3);
    unmount(&sidecar);
}

#[test]
fn a_command_whose_output_cannot_be_kept_is_ended_and_said_to_be() {
    let sidecar = sidecar();
    let folder = sidecar.place.path("run/sandboxes");
    std::fs::create_dir_all(&folder).unwrap();
    mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], &folder);
    let lines = raw(
        &sidecar,
        &shell("head -c 6000000 /dev/zero | tr '\\0' x; sleep 600"),
    );
    let last = lines.last().unwrap();
    assert_eq!(last["type"], "error", "{last}");
    until("nothing goes on", || {
        left_behind()
            .iter()
            .all(|left| left.starts_with("mount ") && left.contains("tmpfs"))
    });
    assert!(
        Command::new("umount")
            .arg(&folder)
            .status()
            .unwrap()
            .success()
    );
    unmount(&sidecar);
}

fn mount(arguments: &[&str], path: &Path) {
    let done = Command::new("mount").args(arguments).arg(path).status();
    assert!(done.unwrap().success());
}
