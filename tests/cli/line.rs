//! A line between a machine and a server that can be cut, and mended.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// See the module. Every connection ends when it is cut, and none begins before it is mended.
pub(crate) struct Line {
    address: SocketAddr,
    /// Both ends of all connections; `None` while the line is cut.
    open: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Line {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(Mutex::new(Some(Vec::new())));
        let connections = Arc::clone(&open);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let mut open = connections.lock().unwrap();
                if let (Some(open), Ok(far)) = (&mut *open, TcpStream::connect(server)) {
                    open.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                    carry(&near, &far);
                    carry(&far, &near);
                }
            }
        });
        Self { address, open }
    }

    /// What `S3_ENDPOINT` takes.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn cut(&self) {
        for stream in self.open.lock().unwrap().take().into_iter().flatten() {
            // It may have ended by itself.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    pub(crate) fn mend(&self) {
        *self.open.lock().unwrap() = Some(Vec::new());
    }
}

/// Carries bytes in one direction until either end is closed.
fn carry(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        drop(copy(&mut from, &mut to));
        drop(to.shutdown(Shutdown::Write));
    });
}
