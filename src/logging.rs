//! Where log lines go: stderr in the foreground, else a file in the volume's state folder. That folder is known only
//! once the volume is open, so a daemon's first lines wait in memory.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::log_file::{LOG_FILE_BYTES, LogFile};
use crate::options::LogLevel;

/// Name of a volume's log, below its state folder.
pub(crate) const LOG_NAME: &str = "log/weldrfs.log";
/// Most bytes of log kept in memory while the folder is not known; what comes later is dropped.
const WAITING_MAX: usize = 256 * 1024;

/// The place log lines go to; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogSink(Arc<Mutex<Target>>);

#[derive(Debug)]
enum Target {
    Stderr,
    Waiting(Vec<u8>),
    File(LogFile),
}

impl LogSink {
    /// Lines go to stderr, for good.
    pub(crate) fn stderr() -> Self {
        Self(Arc::new(Mutex::new(Target::Stderr)))
    }

    /// Lines wait in memory for [`LogSink::move_to`].
    pub(crate) fn waiting() -> Self {
        Self(Arc::new(Mutex::new(Target::Waiting(Vec::new()))))
    }

    /// From now on lines go to the log below `state_dir`, those that waited first. Without effect on stderr.
    ///
    /// # Errors
    /// When the log's folder cannot be made.
    pub(crate) fn move_to(&self, state_dir: &Path) -> io::Result<()> {
        let mut target = self.0.lock();
        let Target::Waiting(waiting) = &mut *target else {
            return Ok(());
        };
        let path = state_dir.join(LOG_NAME);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = LogFile::append_to(path, LOG_FILE_BYTES);
        file.write(waiting);
        *target = Target::File(file);
        Ok(())
    }

    /// Opens the log by its name again, for whoever rotates it by hand.
    pub(crate) fn reopen(&self) {
        if let Target::File(file) = &mut *self.0.lock() {
            file.open();
        }
    }
}

/// One event is one write.
impl Write for LogSink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *self.0.lock() {
            Target::Stderr => io::stderr().lock().write_all(line)?,
            Target::Waiting(waiting) if waiting.len() + line.len() <= WAITING_MAX => {
                waiting.extend_from_slice(line)
            }
            Target::Waiting(_) => {}
            Target::File(file) => file.write(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogSink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

/// Sends all that this process logs to `sink`. Panics are logged too: a daemon has no stderr to show them on.
pub(crate) fn install(sink: &LogSink, level: LogLevel) {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug,hyper=info,rusqlite=info",
        LogLevel::Trace => "trace",
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_ansi(matches!(*sink.0.lock(), Target::Stderr) && io::stderr().is_terminal())
        .with_writer(sink.clone())
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        // Only a second call in one process can fail, and then the first one's sink stays in use.
        return;
    }
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current()
            .name()
            .unwrap_or("unnamed")
            .to_owned();
        tracing::error!(thread, "panic: {panic}");
        print(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_lines_reach_the_file_first_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = LogSink::waiting();
        sink.write_all(b"early\n").unwrap();
        sink.write_all(&vec![b'x'; WAITING_MAX]).unwrap();
        sink.move_to(dir.path()).unwrap();
        sink.write_all(b"late\n").unwrap();
        assert_eq!(
            std::fs::read_to_string(dir.path().join(LOG_NAME)).unwrap(),
            "early\nlate\n"
        );
    }

    #[test]
    fn stderr_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let sink = LogSink::stderr();
        sink.move_to(dir.path()).unwrap();
        sink.reopen();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_rotated_log_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = LogSink::waiting();
        sink.move_to(dir.path()).unwrap();
        sink.write_all(b"one\n").unwrap();
        let log = dir.path().join(LOG_NAME);
        std::fs::rename(&log, dir.path().join("old")).unwrap();
        sink.reopen();
        sink.write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(log).unwrap(), "two\n");
    }
}
