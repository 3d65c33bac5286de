//! The network namespace of a sandbox, from outside: a thread that has gone into it makes sockets there, which any thread may
//! then use.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};

use parking_lot::Mutex;
use weldrfs_control::{Note, SandboxNetwork};

use crate::shim;

/// State of a listening socket in the kernel's tables.
const LISTEN: &str = "0A";
/// Where those are for the calling thread.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];

enum Wanted {
    Socket(bool),
    Listener(u16),
    Listening,
}

enum Made {
    Socket(OwnedFd),
    Listening(Vec<u16>),
}

type Answer = std::sync::mpsc::SyncSender<io::Result<Made>>;

/// A network namespace; its thread ends when this is dropped.
pub(super) struct Inside(Mutex<Sender<(Wanted, Answer)>>);

impl Inside {
    /// That of the sandbox in `folder`, which runs.
    ///
    /// # Errors
    /// When it does not run any more, or the machine gives no thread.
    pub(super) fn enter(folder: &Path, note: &Note) -> io::Result<Self> {
        let namespace = File::open(format!("/proc/{}/ns/net", note.pid))?;
        // Looked at after the file was opened: the number may be another process's by now.
        if !shim::processes(folder).contains(&note.pid) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (asking, asked) = channel();
        let (tell, told) = sync_channel(1);
        std::thread::Builder::new()
            .name("weldrfs-netns".into())
            .spawn(move || {
                // SAFETY: concerns this thread alone, which does nothing but make sockets.
                let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                let entered = match entered {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                };
                let goes_on = entered.is_ok();
                if tell.send(entered).is_ok() && goes_on {
                    serve(&asked);
                }
            })?;
        told.recv().map_err(io::Error::other)??;
        Ok(Self(Mutex::new(asking)))
    }

    fn ask(&self, wanted: Wanted) -> io::Result<Made> {
        let (answer, answered) = sync_channel(1);
        let sent = self.0.lock().send((wanted, answer));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        answered.recv().map_err(io::Error::other)?
    }
}

impl SandboxNetwork for Inside {
    fn socket(&self, is_v6: bool) -> io::Result<OwnedFd> {
        match self.ask(Wanted::Socket(is_v6))? {
            Made::Socket(socket) => Ok(socket),
            Made::Listening(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn listen(&self, port: u16) -> io::Result<OwnedFd> {
        match self.ask(Wanted::Listener(port))? {
            Made::Socket(socket) => Ok(socket),
            Made::Listening(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn listening(&self) -> io::Result<Vec<u16>> {
        match self.ask(Wanted::Listening)? {
            Made::Listening(ports) => Ok(ports),
            Made::Socket(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Until nobody can ask any more.
fn serve(asked: &Receiver<(Wanted, Answer)>) {
    while let Ok((wanted, answer)) = asked.recv() {
        let made = match wanted {
            Wanted::Socket(is_v6) => socket(is_v6).map(Made::Socket),
            Wanted::Listener(port) => listener(port).map(Made::Socket),
            Wanted::Listening => listening().map(Made::Listening),
        };
        // Who has gone meanwhile needs none.
        drop(answer.send(made));
    }
}

fn socket(is_v6: bool) -> io::Result<OwnedFd> {
    let family = if is_v6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a plain call.
    let socket = unsafe { libc::socket(family, kind, 0) };
    match socket {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: it was just made, and nobody else has it.
        socket => Ok(unsafe { OwnedFd::from_raw_fd(socket) }),
    }
}

fn listener(port: u16) -> io::Result<OwnedFd> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

fn listening() -> io::Result<Vec<u16>> {
    let mut ports = Vec::new();
    for table in TABLES {
        match std::fs::read_to_string(table) {
            Ok(text) => ports.extend(ports_in(&text)),
            // Without IPv6 there is only one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

/// See proc_pid_net_tcp(5): a number, the local address, the remote one, the state.
fn ports_in(table: &str) -> Vec<u16> {
    let port = |line: &str| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let (_, port) = local.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (state == LISTEN).then_some(port)
    };
    table.lines().skip(1).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_ports_are_found_in_the_table() {
        let table = "  sl  local_address rem_address   st tx_queue
   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000
   1: 0100007F:8FEE 0100007F:0BB8 01 00000000:00000000 00:00000000 00000000  1000
   2: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000
nonsense
";
        assert_eq!(ports_in(table), [3000, 8080]);
        assert!(ports_in("").is_empty());
    }
}
