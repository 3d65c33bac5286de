//! What a sandbox's first process gets from the shim that started it: a pipe as its standard input, with the command's
//! variables at the front and the command's own input behind them. So variables, secrets among them, are in no file, no
//! argument and no process but the command; and the command's input is no file that it could write to.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use weldrfs_control::SandboxOrder;

/// Bytes that say how long the variables are.
const HEAD: usize = 8;
/// Most bytes of variables; the kernel takes no more at the start of a program.
const VARIABLES_MAX: usize = 2 * 1024 * 1024;
/// Bytes that fit into a pipe as it is made.
const PIPE: usize = 64 * 1024;

/// The end to read from. All that is ever written to it is in the pipe already.
///
/// # Errors
/// What the operating system says; also when it is more than pipes hold here.
pub(crate) fn pipe(order: &SandboxOrder) -> io::Result<Stdio> {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
    put(order, &writing)?;
    Ok(OwnedFd::into(reading))
}

/// Puts all of it into a pipe.
///
/// # Errors
/// As [`pipe`].
pub(crate) fn put(order: &SandboxOrder, writing: &OwnedFd) -> io::Result<()> {
    let bytes = encode(
        &order.environment(),
        order.input.as_deref().unwrap_or_default(),
    );
    if bytes.len() > PIPE {
        fcntl_setpipe_size(writing, bytes.len())?;
    }
    rustix::io::ioctl_fionbio(writing, true)?;
    std::fs::File::from(writing.try_clone()?).write_all(&bytes)
}

fn encode(variables: &[String], input: &str) -> Vec<u8> {
    let mut text = Vec::new();
    for variable in variables {
        text.extend_from_slice(variable.as_bytes());
        text.push(0);
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    bytes.extend_from_slice(input.as_bytes());
    bytes
}

/// Reads the variables and nothing behind them.
///
/// # Errors
/// When it is no handover.
pub(crate) fn variables(from: &mut impl Read) -> io::Result<Vec<(OsString, OsString)>> {
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    let length = usize::try_from(u64::from_le_bytes(head)).unwrap_or(usize::MAX);
    if length > VARIABLES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    let pair = |variable: &[u8]| {
        let split = variable.iter().position(|byte| *byte == b'=')?;
        let (name, value) = variable.split_at(split);
        let value = value.get(1..).unwrap_or_default();
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((text(name), text(value)))
    };
    Ok(text.split(|byte| *byte == 0).filter_map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_arrive_and_the_input_stays_in_the_pipe() {
        let given = ["A=b=c".to_owned(), "EMPTY=".to_owned(), "L=1\n2".to_owned()];
        let bytes = encode(&given, "input");
        let mut rest = bytes.as_slice();
        let taken = variables(&mut rest).unwrap();
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        assert_eq!(
            taken,
            [pair("A", "b=c"), pair("EMPTY", ""), pair("L", "1\n2")]
        );
        assert_eq!(rest, b"input");
    }

    #[test]
    fn fuzz_of_what_is_no_handover() {
        let good = encode(&["A=b".to_owned()], "");
        for length in 0..good.len() {
            assert!(
                variables(&mut good.get(..length).unwrap()).is_err(),
                "{length}"
            );
        }
        let huge = u64::MAX.to_le_bytes();
        assert!(variables(&mut huge.as_slice()).is_err());
        assert_eq!(variables(&mut [0_u8; 8].as_slice()).unwrap(), []);
    }
}
