//! The app that is measured, and its clients.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{At, Error, Result, ensure};
use crate::request::head_of;

/// Answers small requests with a word, and `/N` with so many bytes.
const SERVER: &str = "
const piece = Buffer.alloc(1 << 16, 120);
require('http').createServer((request, response) => {
  let left = Number(request.url.slice(1));
  if (!left) return response.end('hello');
  response.setHeader('content-length', left);
  const more = () => {
    while (left > 0) {
      const next = left < piece.length ? piece.subarray(0, left) : piece;
      left -= next.length;
      if (!response.write(next)) return response.once('drain', more);
    }
    response.end();
  };
  more();
}).listen(process.env.PORT, '127.0.0.1');
";
/// What a small request is answered with.
const HELLO: &[u8] = b"hello";
/// Between two looks whether it answers.
const PAUSE: Duration = Duration::from_millis(2);
const CHUNK: usize = 256 << 10;

/// Writes the app into a folder.
pub(super) fn write(folder: &Path) -> Result<()> {
    let path = folder.join("server.js");
    std::fs::write(&path, SERVER).at(&path)
}

/// Waits until it answers as it should.
pub(super) fn until_it_answers(port: u16, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match small(port, 1, true, limit) {
            Ok(_) => return Ok(()),
            Err(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
}

/// Makes `count` small requests, over one connection or each over its own; how long each took, milliseconds.
pub(super) fn small(port: u16, count: u64, is_one: bool, limit: Duration) -> Result<Vec<f64>> {
    let mut kept = None;
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => connect(port, limit)?,
        };
        let mut body = Vec::new();
        get(&mut stream, "/", |part| body.extend_from_slice(part))?;
        ensure(body == HELLO, || "the app answered something else".into())?;
        kept = is_one.then_some(stream);
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(times)
}

/// Fetches one large answer; its bytes.
pub(super) fn large(port: u16, bytes: u64, limit: Duration) -> Result<u64> {
    let mut stream = connect(port, limit)?;
    let mut got = 0;
    get(&mut stream, &format!("/{bytes}"), |part| {
        got += part.len() as u64
    })?;
    ensure(got == bytes, || {
        format!("{got} bytes came instead of {bytes}")
    })?;
    Ok(got)
}

fn connect(port: u16, limit: Duration) -> Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&address, limit).at("the app's port")?;
    stream.set_read_timeout(Some(limit)).at("the app's port")?;
    stream.set_nodelay(true).at("the app's port")?;
    Ok(stream)
}

/// Asks, and hands every part of the body to `each`.
fn get(stream: &mut TcpStream, path: &str, mut each: impl FnMut(&[u8])) -> Result<()> {
    let ask = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(ask.as_bytes()).at("the app's port")?;
    let mut chunk = vec![0; CHUNK];
    let mut got = Vec::new();
    let head = loop {
        if let Some(head) = head_of(&got)? {
            break head;
        }
        let read = stream.read(&mut chunk).at("the app's port")?;
        ensure(read > 0, || "the app's answer has no end".into())?;
        got.extend_from_slice(&chunk[..read]);
    };
    if head.status != 200 {
        return Err(Error::Wrong(format!("the app answered {}", head.status)));
    }
    each(&got[head.bytes..]);
    let mut left = (head.bytes + head.body_bytes).saturating_sub(got.len());
    while left > 0 {
        let read = stream.read(&mut chunk).at("the app's port")?;
        ensure(read > 0, || "the app's answer broke off".into())?;
        each(&chunk[..read]);
        left = left.saturating_sub(read);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Answers the requests of `connections` connections with `answer`; its port.
    fn server(connections: usize, answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(connections) {
                let mut stream = stream.unwrap();
                let mut asked = [0; 4096];
                while stream.read(&mut asked).is_ok_and(|length| length > 0) {
                    stream.write_all(answer).unwrap();
                }
            }
        });
        port
    }

    #[test]
    fn requests_go_over_one_connection_or_over_many() {
        let hello = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let port = server(1, hello);
        assert_eq!(small(port, 3, true, LIMIT).unwrap().len(), 3);
        let port = server(3, hello);
        assert_eq!(small(port, 3, false, LIMIT).unwrap().len(), 3);
    }

    #[test]
    fn an_answer_that_is_not_the_apps_is_none() {
        let refused = b"HTTP/1.1 503 No\r\ncontent-length: 5\r\n\r\nhello";
        assert!(small(server(1, refused), 1, true, LIMIT).is_err());
        let other = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhullo";
        assert!(small(server(1, other), 1, true, LIMIT).is_err());
        let short = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        assert!(large(server(1, short), 6, LIMIT).is_err());
        assert_eq!(large(server(1, short), 5, LIMIT).unwrap(), 5);
    }
}
