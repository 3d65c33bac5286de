//! `weldrfs exec`: runs a command in a sandbox through the sidecar. Its output is this one's, and so is its status.

use std::io::{Read, Write};
use std::path::PathBuf;

use weldrfs_control::{
    ApiError, ExecExit, ExecLine, ExecRequest, Network, OutputStream, output_bytes,
};

use super::{api_failure, control};
use crate::environment::Environment;
use crate::failure::Failure;

/// Most bytes of standard input that are handed on; a request may not have many more.
const INPUT_MAX: u64 = 192 * 1024;

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) request: ExecRequest,
    /// Whether it gets the standard input of this process.
    pub(crate) input: bool,
}

/// Understands `--network`.
pub(crate) fn network(text: &str) -> Result<Network, String> {
    match text {
        "isolated" => Ok(Network::Isolated),
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        _ => Err("it takes isolated, none or host".into()),
    }
}

/// Runs it, and returns the status to end with.
pub(crate) fn run(
    request: Request,
    socket: Option<PathBuf>,
    environment: &Environment,
) -> Result<u8, Failure> {
    let Request { mut request, input } = request;
    if input {
        request.stdin = Some(standard_input()?);
    }
    let client = control::client(socket, environment)?;
    let mut end = None;
    let mut reader_is_gone = false;
    let ran = client.exec(&request, |line| match line {
        ExecLine::Started { .. } | ExecLine::Alive => true,
        ExecLine::Output {
            stream,
            text,
            base64,
        } => {
            let bytes = output_bytes(text, base64.as_deref()).unwrap_or_default();
            reader_is_gone = write(stream, &bytes).is_err();
            !reader_is_gone
        }
        ExecLine::Missed { bytes } => {
            crate::say(&format!("{bytes} bytes of output were lost"));
            true
        }
        ExecLine::Exit(exit) => {
            end = Some(Ok(exit));
            false
        }
        ExecLine::Error(body) => {
            end = Some(Err(ApiError::from_body(body)));
            false
        }
    });
    ran.map_err(|error| api_failure("not run", &error))?;
    match end {
        Some(Ok(exit)) => Ok(status(&exit)),
        Some(Err(error)) => Err(api_failure("how it ended is not known", &error)),
        // As if the closed pipe had ended it.
        None if reader_is_gone => Ok(141),
        None => Err(Failure::System(
            "the sidecar has ended, and the command with it".into(),
        )),
    }
}

fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin()
        .take(INPUT_MAX + 1)
        .read_to_string(&mut text);
    read.map_err(|error| Failure::Invocation(format!("no standard input: {error}")))?;
    if text.len() as u64 > INPUT_MAX {
        return Err(Failure::Invocation(format!(
            "--input takes {INPUT_MAX} bytes at most; put it into a file of the mount"
        )));
    }
    Ok(text)
}

fn write(stream: OutputStream, bytes: &[u8]) -> std::io::Result<()> {
    match stream {
        OutputStream::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        OutputStream::Stderr => std::io::stderr().lock().write_all(bytes),
    }
}

/// The status to end with; what the command itself does not say goes to stderr.
fn status(exit: &ExecExit) -> u8 {
    if exit.timed_out {
        crate::say("its time was over; --timeout gives it more");
    }
    if exit.out_of_memory {
        crate::say("it wanted more memory than it may have; --memory gives it more");
    }
    u8::try_from(exit.status).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_commands() {
        let exit = ExecExit {
            status: 7,
            timed_out: false,
            out_of_memory: false,
            duration_ms: 1,
            memory_peak_bytes: None,
            cpu_ms: None,
        };
        assert_eq!(status(&exit), 7);
        assert_eq!(status(&ExecExit { status: -1, ..exit }), 255);
        assert_eq!(network("host"), Ok(Network::Host));
        assert!(network("bridge").is_err());
    }
}
