//! `weldrfs control`: the sidecar, in the foreground, and its tokens.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Mode;
use tokio::signal::unix::{SignalKind, signal};
use weldrfs_control::{
    AuthSettings, BlockingControlClient, CONTROL_FOLDER, CONTROL_SOCKET, Machine, MountHost,
    PreviewSettings, Rates, SECRET_MAX, SandboxSettings, SecretFolder, Settings, StartError,
    TOKENS_NAME, TokenFile, WallClock, serve_control,
};

use super::api_failure;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::logging::{self, LogSink};
use crate::options::LogLevel;
use crate::registry::Registry;
use crate::report;
use crate::sidecar::{Machinery, Sandboxes};

/// Threads that serve; what waits for mounts has threads of its own.
const THREADS: usize = 2;
/// How long the last tasks may take to end. Mounts that are being started go on without them.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);
/// Where mounts go when nothing says where.
const WORKSPACE: &str = "/workspace";
/// Port when nothing says which.
const PORT: u16 = 8080;
/// Where the names of groups are.
const GROUPS: &str = "/etc/group";
/// Where randomness comes from.
const RANDOM: &str = "/dev/urandom";

/// What the command line asks for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) socket: Option<PathBuf>,
    pub(crate) group: Option<String>,
    /// Empty for the default.
    pub(crate) listen: Option<String>,
    pub(crate) jwks: Option<PathBuf>,
    pub(crate) max_mounts: usize,
    pub(crate) workspace: Option<PathBuf>,
    pub(crate) rates: Rates,
    pub(crate) keep_credentials: bool,
    pub(crate) max_execs: usize,
    /// Runtimes to try; the usual ones when empty.
    pub(crate) runtimes: Vec<String>,
    /// Folders that are hidden from sandboxes beside the usual ones.
    pub(crate) hidden: Vec<PathBuf>,
    pub(crate) previews: PreviewSettings,
    pub(crate) log_level: LogLevel,
}

/// What to do with tokens.
#[derive(Debug, Clone)]
pub(crate) enum TokenRequest {
    Create {
        name: String,
        expires: Option<Duration>,
        as_json: bool,
    },
    List {
        as_json: bool,
    },
    Revoke {
        id: String,
    },
}

/// Understands `--log-level`.
pub(crate) fn log_level(text: &str) -> Result<LogLevel, String> {
    LogLevel::named(text).ok_or_else(|| "it takes error, warn, info, debug or trace".into())
}

/// Understands `--preview-ports`.
pub(crate) fn ports(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports = first.parse().ok().zip(last.parse().ok());
    ports
        .filter(|&(first, last): &(u16, u16)| first > 0 && first <= last)
        .ok_or_else(|| "it takes FIRST-LAST, such as 3000-3019".into())
}

/// Serves until a signal ends it.
pub(crate) fn run(
    request: Request,
    state_dir: Option<PathBuf>,
    environment: &Environment,
) -> Result<(), Failure> {
    logging::install(&LogSink::stderr(), request.log_level);
    // Keys and tokens are its owner's; the socket gets its permissions by itself.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let state_base = state_base(state_dir, environment)?;
    let registry = Registry::new(vec![state_base.clone()], environment.run_dir.clone());
    let machine = Arc::new(Machinery::new(
        environment.clone(),
        registry,
        state_base.clone(),
    ));
    let settings = settings(request, &state_base, machine.machine(), environment)?;
    let private = vec![
        state_base,
        settings.run_dir.clone(),
        settings.workspace.clone(),
    ];
    let sandboxes = Arc::new(Sandboxes::new(&settings.run_dir, &settings.folder, private));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("weldrfs-control")
        .enable_all()
        .build()
        .map_err(|error| Failure::system("cannot start the threads", &error))?;
    let served = runtime.block_on(async {
        let ended = end_signal()?;
        let clock = Arc::new(WallClock);
        serve_control(settings, machine, sandboxes, clock, |_| {}, ended)
            .await
            .map_err(refused)
    });
    runtime.shutdown_timeout(RUNTIME_GRACE);
    served
}

fn refused(error: StartError) -> Failure {
    match error {
        StartError::Setting(text) => Failure::Invocation(text),
        damaged @ StartError::Damaged(_) => Failure::Damage(damaged.to_string()),
        other => Failure::System(other.to_string()),
    }
}

/// Completes at SIGTERM or SIGINT.
fn end_signal() -> Result<impl Future<Output = ()>, Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::system("cannot listen for signals", &error));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn state_base(given: Option<PathBuf>, environment: &Environment) -> Result<PathBuf, Failure> {
    let base = given.or_else(|| environment.state_base.clone());
    let base = base.and_then(|base| std::path::absolute(base).ok());
    base.ok_or_else(|| {
        Failure::Invocation(
            "no folder for local state: set HOME or WELDR_ENV_VOL, or give --state-dir DIR".into(),
        )
    })
}

fn settings(
    request: Request,
    state_base: &std::path::Path,
    machine: Machine,
    environment: &Environment,
) -> Result<Settings, Failure> {
    let variable = |name: &str| environment.variables.get(name);
    let folder = state_base.join(CONTROL_FOLDER);
    let workspace = request
        .workspace
        .or_else(|| variable("WORKSPACE_BASE").map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(WORKSPACE));
    if !workspace.is_absolute() {
        return Err(Failure::Invocation(format!(
            "--workspace and WORKSPACE_BASE take an absolute path, not {}",
            workspace.display()
        )));
    }
    let mut sandboxes = SandboxSettings::for_machine(machine, request.hidden);
    sandboxes.execs_max = request.max_execs;
    if !request.runtimes.is_empty() {
        sandboxes.runtimes = request.runtimes;
    }
    let origins = variable("CORS_ORIGIN").unwrap_or_default().split(',');
    Ok(Settings {
        socket: socket(request.socket, environment)?,
        run_dir: environment
            .run_dir
            .clone()
            .unwrap_or_else(|| folder.clone()),
        group: request.group.as_deref().map(group).transpose()?,
        listen: request
            .listen
            .map(|text| address(&text, variable("PORT")))
            .transpose()?,
        auth: AuthSettings {
            token_file: folder.join(TOKENS_NAME),
            session_secret: variable("BETTER_AUTH_SECRET").map(str::to_owned),
            jwks_file: request.jwks,
        },
        origins: origins
            .map(str::trim)
            .filter(|origin| !origin.is_empty())
            .map(|origin| origin.trim_end_matches('/').to_owned())
            .collect(),
        rates: request.rates,
        mounts_max: request.max_mounts,
        workspace,
        keep_credentials: request.keep_credentials,
        sandboxes,
        previews: request.previews,
        folder,
    })
}

/// Where the sidecar listens.
fn socket(given: Option<PathBuf>, environment: &Environment) -> Result<PathBuf, Failure> {
    let usual = || {
        environment
            .run_dir
            .as_ref()
            .map(|dir| dir.join(CONTROL_SOCKET))
    };
    given.or_else(usual).ok_or_else(|| {
        Failure::Invocation(
            "no folder for the sidecar's socket: set WELDRFS_RUN_DIR, or give --socket PATH".into(),
        )
    })
}

/// A client of the sidecar.
pub(super) fn client(
    socket_given: Option<PathBuf>,
    environment: &Environment,
) -> Result<BlockingControlClient, Failure> {
    let socket = socket(socket_given, environment)?;
    BlockingControlClient::new(&socket)
        .map_err(|error| api_failure("cannot ask the sidecar", &error))
}

/// `ADDR:PORT`, `:PORT`, `PORT`, or nothing.
fn address(text: &str, port: Option<&str>) -> Result<SocketAddr, Failure> {
    let text = match text {
        "" => port.map_or_else(|| PORT.to_string(), str::to_owned),
        text => text.to_owned(),
    };
    let everywhere = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
    let bare = text.strip_prefix(':').unwrap_or(&text);
    bare.parse()
        .map(everywhere)
        .or_else(|_| text.parse())
        .map_err(|_| {
            Failure::Invocation(format!(
                "--listen takes ADDR:PORT, :PORT or a port (PORT alone too), not {text:?}"
            ))
        })
}

/// The number of a group.
fn group(text: &str) -> Result<u32, Failure> {
    let groups = std::fs::read_to_string(GROUPS).unwrap_or_default();
    group_in(&groups, text)
        .ok_or_else(|| Failure::Invocation(format!("--group {text}: there is no such group")))
}

fn group_in(groups: &str, text: &str) -> Option<u32> {
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(text)).then(|| fields.nth(1)?.parse().ok())?
    });
    named.or_else(|| text.parse().ok())
}

/// Makes, lists or revokes tokens.
pub(crate) fn token(
    request: TokenRequest,
    state_dir: Option<PathBuf>,
    environment: &Environment,
) -> Result<(), Failure> {
    let folder = state_base(state_dir, environment)?.join(CONTROL_FOLDER);
    let file = TokenFile::new(folder.join(TOKENS_NAME));
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::InvalidInput => Failure::Invocation(error.to_string()),
        _ => Failure::system("the tokens cannot be used", &error),
    };
    match request {
        TokenRequest::Create {
            name,
            expires,
            as_json,
        } => {
            let now = now_ms();
            let span = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            let expires_ms = expires.map(|expires| now.saturating_add(span(expires)));
            let made = file
                .create(&name, now, expires_ms, random()?)
                .map_err(failed)?;
            match as_json {
                true => report::print(&report::json(&made)?),
                false => report::print(&format!("{}\n", made.token)),
            }
        }
        TokenRequest::List { as_json } => {
            let tokens = file.list().map_err(failed)?;
            if as_json {
                return report::print(&report::json(&tokens)?);
            }
            let rows = tokens.iter().map(|token| {
                let ends = token
                    .expires_ms
                    .map_or_else(|| "never".to_owned(), crate::moment::shown);
                vec![
                    token.id.clone(),
                    crate::moment::shown(token.created_ms),
                    ends,
                    token.name.clone(),
                ]
            });
            let rows: Vec<_> = rows.collect();
            report::print(&report::table(
                &["ID", "CREATED", "EXPIRES", "NAME"],
                &rows,
                "no tokens",
            ))
        }
        TokenRequest::Revoke { id } => match file.revoke(&id).map_err(failed)? {
            true => report::print(&format!("revoked {id}\n")),
            false => Err(Failure::Invocation(format!(
                "there is no token {id}; weldrfs control token list shows those there are"
            ))),
        },
    }
}

/// What to do with the secrets of commands.
#[derive(Debug, Clone)]
pub(crate) enum SecretRequest {
    /// The value comes on standard input.
    Set {
        name: String,
    },
    List {
        as_json: bool,
    },
    Remove {
        name: String,
    },
}

/// Keeps, lists or forgets secrets.
pub(crate) fn secret(
    request: SecretRequest,
    state_dir: Option<PathBuf>,
    environment: &Environment,
) -> Result<(), Failure> {
    let folder = SecretFolder::new(&state_base(state_dir, environment)?.join(CONTROL_FOLDER));
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::InvalidInput => Failure::Invocation(error.to_string()),
        _ => Failure::system("the secrets cannot be used", &error),
    };
    match request {
        SecretRequest::Set { name } => {
            let mut value = String::new();
            let most = SECRET_MAX as u64 + 2;
            std::io::stdin()
                .take(most)
                .read_to_string(&mut value)
                .map_err(|error| Failure::Invocation(format!("no value: {error}")))?;
            // The line's end is of who typed it.
            folder
                .put(&name, value.trim_end_matches('\n'))
                .map_err(failed)
        }
        SecretRequest::List { as_json: true } => {
            report::print(&report::json(&folder.names().map_err(failed)?)?)
        }
        SecretRequest::List { as_json: false } => {
            let names = folder.names().map_err(failed)?;
            let text: String = names.iter().map(|name| format!("{name}\n")).collect();
            report::print(&text)
        }
        SecretRequest::Remove { name } => match folder.remove(&name).map_err(failed)? {
            true => report::print(&format!("removed {name}\n")),
            false => Err(Failure::Invocation(format!(
                "there is no secret {name}; weldrfs control secret list shows those there are"
            ))),
        },
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn random() -> Result<[u8; 40], Failure> {
    let mut bytes = [0; 40];
    File::open(RANDOM)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Failure::system("there is no randomness", &error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_port_of_their_own_or_the_usual_one() {
        for (text, port, address_text) in [
            ("", None, "0.0.0.0:8080"),
            ("", Some("3100"), "0.0.0.0:3100"),
            ("9000", Some("3100"), "0.0.0.0:9000"),
            (":9000", None, "0.0.0.0:9000"),
            ("127.0.0.1:1", None, "127.0.0.1:1"),
            ("[::1]:1", None, "[::1]:1"),
        ] {
            assert_eq!(
                address(text, port).unwrap().to_string(),
                address_text,
                "{text}"
            );
        }
        for (text, port) in [
            ("", Some("x")),
            ("host:1", None),
            ("1.2.3.4", None),
            ("65536", None),
        ] {
            assert_eq!(address(text, port).unwrap_err().exit_code(), 1, "{text}");
        }
    }

    #[test]
    fn groups_have_names_or_numbers() {
        let groups = "root:x:0:\nstaff:x:50:a,b\n7:x:70:\n";
        assert_eq!(group_in(groups, "staff"), Some(50));
        assert_eq!(group_in(groups, "123"), Some(123));
        assert_eq!(group_in(groups, "7"), Some(70));
        assert_eq!(group_in(groups, "nobody"), None);
        assert!(group("no-such-group").is_err());
    }

    #[test]
    fn tokens_are_random() {
        assert_ne!(random().unwrap(), random().unwrap());
    }
}
