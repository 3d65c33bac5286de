//! From a request to an order: everything that can be refused without starting anything is refused here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::types::{CommandLine, ExecRequest, LimitsRequest};
use crate::error::ApiError;
use crate::sandbox::{Limits, OUTPUT_BYTES_MIN, SandboxOrder};
use crate::sidecar::names;
use crate::sidecar::sandboxing::SandboxSettings;
use crate::sidecar::secret_folder::{SecretFolder, is_variable};

/// Longest program and argument, and most arguments.
const ARGUMENT_MAX: usize = 128 * 1024;
const ARGUMENTS_MAX: usize = 4096;
/// Most variables and secrets.
const VARIABLES_MAX: usize = 256;
/// Time of a command when nothing is said, and at most, in milliseconds.
const TIMEOUT: u64 = 10 * 60 * 1000;
const TIMEOUT_MAX: u64 = 24 * 60 * 60 * 1000;
/// Between TERM and KILL, in milliseconds.
const GRACE: u64 = 2000;
/// Output that is kept while a client reads: the command waits for one that is further behind.
const OUTPUT: u64 = 8 * 1024 * 1024;
/// Least memory in MiB: less does not hold a shell and its libraries.
const MEMORY_MIN: u64 = 16;
/// Least processes: the sandbox's own first one counts.
const PROCESSES_MIN: u32 = 4;
const PROCESSES_MAX: u32 = 32_768;
const MIB: u64 = 1024 * 1024;

const _: () = assert!(OUTPUT >= OUTPUT_BYTES_MIN);

fn invalid(text: impl Into<String>) -> ApiError {
    ApiError::InvalidRequest(text.into())
}

/// What comes before the mount is known; the mountpoint is still missing.
pub(in crate::sidecar) fn order(
    id: String,
    request: &ExecRequest,
    settings: &SandboxSettings,
    secrets: &SecretFolder,
) -> Result<SandboxOrder, ApiError> {
    let timeout_ms = request.timeout_ms.unwrap_or(TIMEOUT);
    if !(1..=TIMEOUT_MAX).contains(&timeout_ms) {
        return Err(invalid(format!("timeout_ms takes 1 to {TIMEOUT_MAX}")));
    }
    check_variables(&request.env, &request.secrets)?;
    Ok(SandboxOrder {
        id,
        mount: request.mount.clone(),
        mountpoint: PathBuf::new(),
        folder: names::below_mount(request.path.as_deref().unwrap_or_default())?,
        command: command(&request.command)?,
        variables: request.env.clone(),
        secrets: secrets.read(&request.secrets)?,
        limits: limits(&request.limits, settings.limits)?,
        network: request.network,
        timeout_ms: Some(timeout_ms),
        grace_ms: GRACE,
        output_bytes: OUTPUT,
        outlives: false,
        hidden: settings.hidden.clone(),
        runtimes: settings.runtimes.clone(),
        input: request.stdin.clone(),
        takes_input: false,
    })
}

/// Program and arguments.
pub(in crate::sidecar) fn command(command: &CommandLine) -> Result<Vec<String>, ApiError> {
    let words = match command {
        CommandLine::Line(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
        CommandLine::Words(words) => words.clone(),
    };
    let is_empty = match command {
        CommandLine::Line(line) => line.trim().is_empty(),
        CommandLine::Words(words) => words.first().is_none_or(String::is_empty),
    };
    if is_empty || words.len() > ARGUMENTS_MAX {
        return Err(invalid(format!(
            "command takes a program with at most {ARGUMENTS_MAX} arguments, or a line for the shell"
        )));
    }
    let fits = |word: &String| word.len() <= ARGUMENT_MAX && !word.contains('\0');
    if !words.iter().all(fits) {
        return Err(invalid(format!(
            "each part of command takes {ARGUMENT_MAX} bytes at most, without zeros"
        )));
    }
    Ok(words)
}

/// Whether these may be variables, and so many secrets named.
pub(in crate::sidecar) fn check_variables(
    variables: &BTreeMap<String, String>,
    secrets: &[String],
) -> Result<(), ApiError> {
    if secrets.len() > VARIABLES_MAX {
        return Err(invalid(format!("secrets takes {VARIABLES_MAX} at most")));
    }
    if variables.len() > VARIABLES_MAX {
        return Err(invalid(format!("env takes {VARIABLES_MAX} at most")));
    }
    for (name, value) in variables {
        if !is_variable(name) {
            return Err(invalid(
                "env takes names of letters, digits and \"_\", no digit first",
            ));
        }
        if value.len() > ARGUMENT_MAX || value.contains('\0') {
            return Err(invalid(format!(
                "env.{name} takes {ARGUMENT_MAX} bytes at most, without zeros"
            )));
        }
    }
    Ok(())
}

/// What was asked for, and else what is usual.
pub(in crate::sidecar) fn limits(asked: &LimitsRequest, usual: Limits) -> Result<Limits, ApiError> {
    let memory_max = usual.memory_bytes / MIB;
    let memory = asked.memory_mb.unwrap_or(memory_max);
    if !(MEMORY_MIN..=memory_max).contains(&memory) {
        return Err(invalid(format!(
            "limits.memory_mb takes {MEMORY_MIN} to {memory_max} here"
        )));
    }
    let tmp_max = usual.tmp_bytes / MIB;
    let tmp = asked.tmp_mb.unwrap_or(tmp_max);
    if !(1..=tmp_max).contains(&tmp) {
        return Err(invalid(format!("limits.tmp_mb takes 1 to {tmp_max} here")));
    }
    let processes = asked.processes.unwrap_or(usual.processes);
    if !(PROCESSES_MIN..=PROCESSES_MAX.min(usual.processes)).contains(&processes) {
        return Err(invalid(format!(
            "limits.processes takes {PROCESSES_MIN} to {} here",
            usual.processes
        )));
    }
    let cpu_millis = match asked.cpus {
        None => usual.cpu_millis,
        Some(cpus) if (0.01..=1024.0).contains(&cpus) => Some((cpus * 1000.0) as u64),
        Some(_) => return Err(invalid("limits.cpus takes 0.01 to 1024")),
    };
    Ok(Limits {
        memory_bytes: memory * MIB,
        cpu_millis,
        processes,
        tmp_bytes: tmp * MIB,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Network;

    fn request(text: &str) -> Result<SandboxOrder, ApiError> {
        let dir = tempfile::tempdir().unwrap();
        let request: ExecRequest = serde_json::from_str(text).unwrap();
        let settings = SandboxSettings::example();
        order(
            "exec-1".into(),
            &request,
            &settings,
            &SecretFolder::new(dir.path()),
        )
    }

    #[test]
    fn a_line_is_for_the_shell_and_a_list_is_for_nobody() {
        let line = request(r#"{"mount":"m","command":"a && b"}"#).unwrap();
        assert_eq!(line.command, ["/bin/sh", "-c", "a && b"]);
        let words = request(r#"{"mount":"m","command":["a","&&","b"]}"#).unwrap();
        assert_eq!(words.command, ["a", "&&", "b"]);
        assert_eq!(
            (words.network, words.timeout_ms, words.outlives),
            (Network::Isolated, Some(TIMEOUT), false)
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, part) in [
            (r#"{"mount":"m","command":" "}"#, "command"),
            (r#"{"mount":"m","command":[]}"#, "command"),
            (r#"{"mount":"m","command":["a\u0000"]}"#, "command"),
            (r#"{"mount":"m","command":"a","path":"../b"}"#, "path"),
            (r#"{"mount":"m","command":"a","path":"/b"}"#, "path"),
            (r#"{"mount":"m","command":"a","env":{"A B":"c"}}"#, "env"),
            (
                r#"{"mount":"m","command":"a","env":{"A":"\u0000"}}"#,
                "env.A",
            ),
            (
                r#"{"mount":"m","command":"a","timeout_ms":0}"#,
                "timeout_ms",
            ),
            (
                r#"{"mount":"m","command":"a","limits":{"memory_mb":1}}"#,
                "limits.memory_mb",
            ),
            (
                r#"{"mount":"m","command":"a","limits":{"memory_mb":9999999}}"#,
                "limits.memory_mb",
            ),
            (
                r#"{"mount":"m","command":"a","limits":{"cpus":0}}"#,
                "limits.cpus",
            ),
            (
                r#"{"mount":"m","command":"a","limits":{"processes":1}}"#,
                "limits.processes",
            ),
            (
                r#"{"mount":"m","command":"a","limits":{"tmp_mb":0}}"#,
                "limits.tmp_mb",
            ),
            (
                r#"{"mount":"m","command":"a","secrets":["NOT_THERE"]}"#,
                "NOT_THERE",
            ),
            (
                r#"{"mount":"m","command":"a","secrets":["../x"]}"#,
                "secrets",
            ),
        ] {
            let error = request(text).unwrap_err();
            assert_eq!(error.code(), "invalid_request", "{text}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
