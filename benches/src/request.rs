//! Requests to a volume's socket, as the sidecar makes them: HTTP over a Unix socket, one connection for many of them.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{At, Error, Result};

/// Lines of an answer's head.
const HEAD_LINES: usize = 32;
/// Longest answer, bytes: a difference of many files is told in words.
const ANSWER_MAX: usize = 256 << 20;
const CHUNK: usize = 64 << 10;

/// A connection that was not used for so long is made again: the other end closes those that are idle.
const IDLE: Duration = Duration::from_secs(2);

/// A connection to the process that serves a mount.
pub(crate) struct Connection {
    socket: PathBuf,
    limit: Duration,
    stream: UnixStream,
    used: Instant,
}

impl Connection {
    /// Connects. Every answer has to come within `limit`.
    pub(crate) fn open(socket: &Path, limit: Duration) -> Result<Self> {
        let stream = UnixStream::connect(socket).at(socket)?;
        stream.set_read_timeout(Some(limit)).at(socket)?;
        stream.set_write_timeout(Some(limit)).at(socket)?;
        Ok(Self {
            socket: socket.to_owned(),
            limit,
            stream,
            used: Instant::now(),
        })
    }

    /// Sends a body and reads the answer.
    pub(crate) fn post<T: DeserializeOwned>(&mut self, path: &str, body: &Value) -> Result<T> {
        self.ask("POST", path, &body.to_string())
    }

    /// Reads what there is.
    pub(crate) fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        self.ask("GET", path, "")
    }

    fn ask<T: DeserializeOwned>(&mut self, method: &str, path: &str, body: &str) -> Result<T> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: volume\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if self.used.elapsed() > IDLE {
            *self = Self::open(&self.socket.clone(), self.limit)?;
        }
        self.stream
            .write_all(&[head.as_bytes(), body.as_bytes()].concat())
            .at("the volume's socket")?;
        let (status, body) = self.answer()?;
        self.used = Instant::now();
        if status != 200 {
            let said = String::from_utf8_lossy(&body);
            return Err(Error::Wrong(format!("{path} answered {status}: {said}")));
        }
        serde_json::from_slice(&body).map_err(|source| Error::Json {
            what: format!("the answer of {path}"),
            source,
        })
    }

    fn answer(&mut self) -> Result<(u16, Vec<u8>)> {
        let mut got = Vec::new();
        let head = loop {
            if let Some(head) = head_of(&got)? {
                break head;
            }
            self.read_more(&mut got)?;
        };
        while got.len() < head.bytes + head.body_bytes {
            self.read_more(&mut got)?;
        }
        Ok((head.status, got.split_off(head.bytes)))
    }

    fn read_more(&mut self, got: &mut Vec<u8>) -> Result<()> {
        let mut chunk = [0; CHUNK];
        let read = self.stream.read(&mut chunk).at("the volume's socket")?;
        let is_fine = read > 0 && got.len() + read <= ANSWER_MAX;
        if !is_fine {
            return Err(Error::Wrong("the volume's answer has no end".into()));
        }
        got.extend_from_slice(&chunk[..read]);
        Ok(())
    }
}

/// What the head of an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its own length.
    pub(crate) bytes: usize,
    pub(crate) status: u16,
    pub(crate) body_bytes: usize,
}

/// The head of an answer; `None` while there is more to come.
pub(crate) fn head_of(got: &[u8]) -> Result<Option<Head>> {
    let mut lines = [httparse::EMPTY_HEADER; HEAD_LINES];
    let mut answer = httparse::Response::new(&mut lines);
    let wrong = |why: String| Error::Wrong(format!("the volume's answer is no HTTP: {why}"));
    let parsed = answer.parse(got).map_err(|why| wrong(why.to_string()))?;
    let httparse::Status::Complete(bytes) = parsed else {
        return Ok(None);
    };
    let length = answer
        .headers
        .iter()
        .find(|line| line.name.eq_ignore_ascii_case("content-length"))
        .and_then(|line| std::str::from_utf8(line.value).ok()?.trim().parse().ok());
    Ok(Some(Head {
        bytes,
        status: answer.code.unwrap_or_default(),
        body_bytes: length.ok_or_else(|| wrong("it does not say how long it is".into()))?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(head_of(&text[..20]).unwrap(), None);
        let head = head_of(text).unwrap().unwrap();
        assert_eq!(
            (head.status, head.bytes, head.body_bytes),
            (200, text.len() - 2, 2)
        );
        assert!(head_of(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(head_of(b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn a_connection_that_was_idle_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let mut stream = listener.accept().unwrap().0;
                let mut got = [0; 4096];
                assert!(stream.read(&mut got).unwrap() > 0);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7";
                stream.write_all(answer).unwrap();
            }
        });
        let mut connection = Connection::open(&socket, Duration::from_secs(60)).unwrap();
        assert_eq!(connection.get::<u64>("/x").unwrap(), 7);
        connection.used = Instant::now().checked_sub(2 * IDLE).unwrap();
        assert_eq!(connection.get::<u64>("/x").unwrap(), 7);
        server.join().unwrap();
    }

    #[test]
    fn several_requests_go_over_one_connection_and_a_refusal_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            for answer in [
                "200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}",
                "400 Bad\r\ncontent-length: 4\r\n\r\nnope",
            ] {
                let mut got = [0; 4096];
                let read = stream.read(&mut got).unwrap();
                assert!(got[..read].ends_with(b"{\"b\":2}"));
                let (one, other) = answer.split_at(answer.len() - 2);
                stream
                    .write_all(format!("HTTP/1.1 {one}").as_bytes())
                    .unwrap();
                stream.write_all(other.as_bytes()).unwrap();
            }
        });
        let limit = Duration::from_secs(60);
        let mut connection = Connection::open(&socket, limit).unwrap();
        let body = serde_json::json!({"b": 2});
        let answer: Value = connection.post("/x", &body).unwrap();
        assert_eq!(answer["a"], 1);
        let refused = connection
            .post::<Value>("/x", &body)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("400: nope"), "{refused}");
        server.join().unwrap();
    }
}
