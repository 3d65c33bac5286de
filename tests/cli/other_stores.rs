//! Volumes on servers that nobody here wrote.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bucket::{make_tree, tree};
use crate::support::{Answer as Said, PROGRAM, Place, require_fuse, until};

/// How long a command may take with a real store at the other end of a real line.
const FAR_S: &str = "600";

/// The program rclone: from the folder of tools, or from the path.
fn rclone() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python/bin/rclone");
    match tools.exists() {
        true => tools,
        false => "rclone".into(),
    }
}

/// A server that ends with its test, also with one that fails: whoever reads this program's output waits for all who can
/// write to it.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// rclone's server with a bucket `other-bucket`, and where it is. What it says is in the file `rclone.log` of the place.
fn rclone_serves(place: &Place) -> (Server, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    std::fs::create_dir_all(place.path("s/other-bucket")).unwrap();
    let address = format!("127.0.0.1:{port}");
    let mut server = Command::new(rclone());
    server
        .args(["serve", "s3", "--addr", &address])
        .args(["--auth-key", "KEY,SECRET", "--vfs-cache-mode", "full"])
        .arg(place.path("s"))
        .arg("--log-file")
        .arg(place.path("rclone.log"))
        .env("XDG_CACHE_HOME", place.path("rclone-cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let server = server
        .spawn()
        .expect("this test needs the program rclone: scripts/dev setup installs it");
    let server = Server(server);
    until("rclone answers", || {
        std::net::TcpStream::connect(&address).is_ok()
    });
    (server, format!("http://{address}"))
}

/// A tree is made on `source`, read back from the store, and read by a machine without local state.
fn there_and_back(place: &Place, source: &str, options: &str, run: impl Fn(&[&str]) -> Said) {
    let (root, mountpoint) = (place.path("m"), place.text("m"));
    let mount = || run(&["mount", source, &mountpoint, "-o", options]).success();
    mount();
    make_tree(&root);
    let wanted = tree(&root);
    run(&["sync", &mountpoint]).success();
    run(&["drop-caches", &mountpoint]).success();
    assert!(tree(&root) == wanted, "read back from the store");
    run(&["umount", &mountpoint]).success();
    std::fs::remove_dir_all(place.path("state")).unwrap();
    mount();
    assert!(tree(&root) == wanted, "read by another machine");
    run(&["umount", &mountpoint]).success();
}

/// rclone ignores conditional writes, which must not go unseen.
#[test]
fn another_server_serves_as_well() {
    require_fuse();
    let place = Place::new();
    let (_server, endpoint) = rclone_serves(&place);
    let options = format!("endpoint={endpoint},access_key_id=KEY,secret_access_key=SECRET");
    let source = "s3://other-bucket";
    place
        .run(&["mount", source, &place.text("m"), "-o", &options])
        .refused(
            32,
            &["ignores conditional writes", "conditional_writes=off"],
        );
    let options = format!("{options},conditional_writes=off");
    there_and_back(&place, source, &options, |arguments| place.run(arguments));
}

/// The same on a real store: AWS, Tigris or any other, below a prefix of its own that is emptied afterwards. A second
/// machine is kept out meanwhile, which takes conditional writes.
#[test]
#[ignore = "needs a bucket: set WELDRFS_TEST_S3_BUCKET, S3_ENDPOINT, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY and maybe S3_REGION"]
fn a_real_bucket_holds_a_volume() {
    require_fuse();
    let bucket = std::env::var("WELDRFS_TEST_S3_BUCKET").expect("set WELDRFS_TEST_S3_BUCKET");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let source = format!("s3://{bucket}/weldrfs-test-{}", now.as_nanos());
    let place = Place::new();
    let run = |arguments: &[&str]| {
        let mut command = place.command("timeout");
        Said::of(
            command
                .args([FAR_S, PROGRAM])
                .args(arguments)
                .output()
                .unwrap(),
        )
    };
    there_and_back(&place, &source, "rw", run);
    let (first, second) = (place.text("m"), place.text("m2"));
    run(&["mount", &source, &first]).success();
    let mut elsewhere = place.command("timeout");
    elsewhere
        .args([FAR_S, PROGRAM, "mount", &source, &second])
        .env("WELDR_ENV_VOL", place.path("state-2"))
        .env("WELDRFS_RUN_DIR", place.path("run-2"));
    Said::of(elsewhere.output().unwrap()).refused(32, &["take_over"]);
    run(&["umount", &first]).success();
    let listed = run(&["volumes", "ls", &source]).success().stdout;
    let id = listed.split(' ').next().unwrap();
    run(&["volumes", "destroy", &source, "--id", id]).success();
}
