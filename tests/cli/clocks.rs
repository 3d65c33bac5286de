//! The clocks of one machine: they are moved while its mount runs, as when it sleeps, or when somebody sets the time.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use crate::support::Place;

/// Moves the clocks of every program that is started with it.
pub(crate) struct Clocks {
    library: PathBuf,
    /// Seconds that are added to the clock that counts sleep, and to the one on the wall.
    moved: PathBuf,
    now: Mutex<[i64; 2]>,
}

impl Clocks {
    pub(crate) fn new(place: &Place, name: &str) -> Self {
        let library = place.path(&format!("clocks-{name}.so"));
        let moved = place.path(&format!("clocks-{name}"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/clocks.c");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([library.as_path(), source.as_ref()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        std::fs::write(&moved, [0; 16]).unwrap();
        let now = Mutex::default();
        Self {
            library,
            moved,
            now,
        }
    }

    pub(crate) fn apply(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("MOVED_CLOCKS", &self.moved);
    }

    /// The machine sleeps for so long. The clock on the wall stays what the server's is, which refuses signatures of
    /// another time.
    pub(crate) fn sleep(&self, seconds: i64) {
        self.add([seconds, 0]);
    }

    /// Somebody sets the clock on the wall, so much ahead.
    pub(crate) fn set_wall(&self, seconds: i64) {
        self.add([0, seconds]);
    }

    fn add(&self, seconds: [i64; 2]) {
        let mut now = self.now.lock().unwrap();
        // In place: the programs have mapped it.
        let file = File::options().write(true).open(&self.moved).unwrap();
        for (n, seconds) in seconds.into_iter().enumerate() {
            now[n] += seconds;
            file.write_all_at(&now[n].to_ne_bytes(), n as u64 * 8)
                .unwrap();
        }
    }
}
