//! Starts `weldrfs mount` and waits until it says that the mount answers. The mount process itself is a daemon: it has
//! left this process's session and lives on without it.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use weldrfs_control::{Budget, MountOrder};

use crate::failure::Failure;

/// Most bytes of a failed start's message.
const MESSAGE_MAX: u64 = 16 * 1024;
/// Variables that are secrets of the sidecar itself.
const NOT_FOR_MOUNTS: [&str; 1] = ["BETTER_AUTH_SECRET"];
/// What every program of this package says first.
const SAYS: &str = "weldrfs: ";

/// Starts a mount and returns once it answers.
///
/// # Errors
/// What the command said, with its exit code.
pub(super) fn mount(
    order: &MountOrder,
    credentials: Option<&Path>,
    budget: Budget,
    state_base: &Path,
) -> Result<(), Failure> {
    let mut command = Command::new(program());
    command
        .arg0("weldrfs")
        .args(arguments(order, credentials, budget))
        // Where the sidecar looks for it; an option may say otherwise.
        .env("WELDR_ENV_VOL", state_base)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A Ctrl-C at the sidecar's terminal is not meant for a mount.
        .process_group(0);
    for name in NOT_FOR_MOUNTS {
        command.env_remove(name);
    }
    let mut child = command
        .spawn()
        .map_err(|error| Failure::system("cannot start weldrfs mount", &error))?;
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What is not read any more breaks the command's pipe, which it ignores.
        if let Err(error) = stderr.take(MESSAGE_MAX).read_to_end(&mut said) {
            tracing::warn!(%error, "what weldrfs mount says cannot be read");
        }
    }
    let status = child
        .wait()
        .map_err(|error| Failure::system("cannot wait for weldrfs mount", &error))?;
    let said = String::from_utf8_lossy(&said);
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::from_report(
            u8::try_from(code).unwrap_or(2),
            message(&said),
        )),
        None => Err(Failure::Mount(format!(
            "weldrfs mount was killed ({status})"
        ))),
    }
}

/// This very program, also when its file was replaced since it was started.
pub(super) fn program() -> PathBuf {
    std::env::current_exe()
        .ok()
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

fn arguments(order: &MountOrder, credentials: Option<&Path>, budget: Budget) -> Vec<OsString> {
    let mut options = vec![
        format!("cache_size={}B", budget.cache_bytes),
        format!("frame_cache={}B", budget.buffer_bytes),
    ];
    // Who works in a sandbox is nobody on the machine, and has to be let in. Only root may let others in without asking.
    let says_who =
        |option: &String| option.contains("allow_other") || option.contains("allow_root");
    if rustix::process::geteuid().is_root() && !order.options.iter().any(says_who) {
        options.push("allow_other".to_owned());
    }
    // What was asked for comes later and wins.
    options.extend(order.options.iter().map(|option| escaped(option)));
    if let Some(file) = credentials {
        options.push(escaped(&format!("credentials_file={}", file.display())));
    }
    let mut arguments: Vec<OsString> = vec!["mount".into()];
    for option in options {
        arguments.extend(["-o".into(), option.into()]);
    }
    // Neither can be taken for an option: a source has a scheme, and the path is absolute.
    arguments.extend([order.source.clone().into(), order.path.clone().into()]);
    arguments
}

/// One option, whatever is in it.
pub(super) fn escaped(option: &str) -> String {
    option.replace('\\', "\\\\").replace(',', "\\,")
}

/// What the command said, on one line.
fn message(said: &str) -> String {
    let lines = said
        .lines()
        .map(|line| line.strip_prefix(SAYS).unwrap_or(line).trim());
    let text = lines
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ");
    match text.is_empty() {
        true => "weldrfs mount failed without saying why".to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Variables;
    use crate::options::{MountOptions, Unknown};

    #[test]
    fn options_arrive_as_they_were_asked_for_and_keys_do_not_show() {
        let order = MountOrder {
            source: "file:///srv".into(),
            path: "/mnt".into(),
            options: vec!["fsname=a,b\\c".into(), "ro".into(), "frame_cache=8M".into()],
        };
        let budget = Budget {
            cache_bytes: 100 << 20,
            buffer_bytes: 50 << 20,
        };
        let arguments = arguments(&order, Some(Path::new("/run/w,x/keys")), budget);
        let texts: Vec<String> = arguments
            .iter()
            .map(|a| a.to_str().unwrap().to_owned())
            .collect();
        let given: Vec<String> = texts
            .windows(2)
            .filter(|pair| pair[0] == "-o")
            .map(|pair| pair[1].clone())
            .collect();
        let parsed = MountOptions::parse(&given, Unknown::Refuse, &Variables::default()).unwrap();
        assert_eq!(parsed.fsname.as_deref(), Some("a,b\\c"));
        assert!(parsed.read_only);
        assert_eq!(
            (parsed.cache_bytes, parsed.frame_cache_bytes),
            (100 << 20, 8 << 20)
        );
        assert_eq!(
            parsed.s3.credentials_file.as_deref(),
            Some(Path::new("/run/w,x/keys"))
        );
        assert_eq!(texts[texts.len() - 2..], ["file:///srv", "/mnt"]);
    }

    #[test]
    fn what_the_command_said_is_one_line_without_its_name() {
        assert_eq!(message("weldrfs: one\n\nweldrfs: two\n"), "one; two");
        assert!(message("").contains("without saying why"));
    }
}
