//! `weldrfs previews`: asks the sidecar about apps that run on mounts.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use weldrfs_control::{
    BlockingControlClient, Preview, PreviewLogLine, PreviewRequest, PreviewState,
};

use super::{api_failure, control, progress};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::report;

/// How often it is asked how far a preview is.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How much longer than the preview's own deadlines is waited for its state.
const WAIT_MAX: Duration = Duration::from_secs(2 * 60 * 60);
/// How long an end is waited for; the sidecar kills after a few seconds.
const STOP_MAX: Duration = Duration::from_secs(60);

/// What to ask.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Start {
        request: Box<PreviewRequest>,
        waits: bool,
    },
    List {
        preview: Option<String>,
    },
    Logs {
        preview: String,
        follows: bool,
        lines: usize,
    },
    Stop {
        preview: String,
    },
    Open {
        preview: String,
    },
}

/// Asks, and shows the answer.
pub(crate) fn run(
    request: Request,
    socket: Option<PathBuf>,
    as_json: bool,
    environment: &Environment,
) -> Result<(), Failure> {
    let client = control::client(socket, environment)?;
    match request {
        Request::Start { request, waits } => start(&client, &request, waits, as_json),
        Request::List { preview: None } => {
            let list = client
                .previews()
                .map_err(|error| api_failure("no list", &error))?;
            let rows: Vec<_> = list.previews.iter().map(row).collect();
            let text = report::table(
                &["ID", "STATE", "URL", "PLACE", "MEMORY", "COMMAND", "NOTE"],
                &rows,
                "there are no previews here",
            );
            answer(&list, as_json, text)
        }
        Request::List {
            preview: Some(preview),
        } => {
            let preview = find(&client, &preview)?;
            answer(&preview, as_json, shown(&preview))
        }
        Request::Logs {
            preview,
            follows,
            lines,
        } => {
            let id = find(&client, &preview)?.id;
            logs(&client, &id, follows, lines, as_json)
        }
        Request::Stop { preview } => {
            let id = find(&client, &preview)?.id;
            let stopping = || {
                client.stop_preview(&id)?;
                until(&client, &id, STOP_MAX, |state| state.is_over())
            };
            let preview = progress::during(&format!("ending {id}"), stopping)
                .map_err(|error| api_failure("not ended", &error))?;
            let text = format!("{} is {}\n", preview.id, preview.state);
            answer(&preview, as_json, text)
        }
        Request::Open { preview } => {
            let preview = find(&client, &preview)?;
            report::print(&format!("{}\n", preview.url))
        }
    }
}

fn start(
    client: &BlockingControlClient,
    request: &PreviewRequest,
    waits: bool,
    as_json: bool,
) -> Result<(), Failure> {
    let failed = |error| api_failure("not started", &error);
    let preview = client.start_preview(request).map_err(failed)?;
    if !waits {
        let text = format!("{} starts, for {}\n", preview.id, preview.url);
        return answer(&preview, as_json, text);
    }
    let text = format!("starting {} ({})", preview.id, preview.command);
    let is_settled = |state: PreviewState| state == PreviewState::Ready || state.is_over();
    let waiting = || until(client, &preview.id, WAIT_MAX, is_settled);
    let preview = progress::during(&text, waiting).map_err(failed)?;
    if preview.state == PreviewState::Ready {
        let text = format!("{} is ready at {}\n", preview.id, preview.url);
        return answer(&preview, as_json, text);
    }
    if as_json {
        report::print(&report::json(&preview)?)?;
    }
    let mut text = format!("{} is {}", preview.id, preview.state);
    if let Some(ended) = &preview.ended {
        text.push_str(&format!(": {}", ended.reason));
        for line in &ended.log {
            text.push_str(&format!("\n  {line}"));
        }
    }
    Err(Failure::System(text))
}

/// Asks until the state is as wanted.
fn until(
    client: &BlockingControlClient,
    id: &str,
    most: Duration,
    wanted: impl Fn(PreviewState) -> bool,
) -> Result<Preview, weldrfs_control::ApiError> {
    let began = Instant::now();
    loop {
        let preview = client.preview(id)?;
        if wanted(preview.state) || began.elapsed() > most {
            return Ok(preview);
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// The preview that is meant by an id, a port, or a mount and a folder.
fn find(client: &BlockingControlClient, text: &str) -> Result<Preview, Failure> {
    let list = client
        .previews()
        .map_err(|error| api_failure("no list", &error))?;
    let (mount, path) = text.split_once(':').unwrap_or((text, ""));
    let is_meant = |preview: &&Preview| {
        preview.id == text
            || (!preview.state.is_over() && preview.host_port.to_string() == text)
            || (preview.mount == mount && preview.path == path.trim_end_matches('/'))
    };
    list.previews.iter().find(is_meant).cloned().ok_or_else(|| {
        Failure::Invocation(format!(
            "there is no preview {text}; weldrfs previews ls shows those there are"
        ))
    })
}

fn logs(
    client: &BlockingControlClient,
    id: &str,
    follows: bool,
    lines: usize,
    as_json: bool,
) -> Result<(), Failure> {
    let failed = |error| api_failure("no log", &error);
    let text = |line: &PreviewLogLine| match as_json {
        // Numbers and text, which JSON can hold.
        true => serde_json::to_string(line).unwrap_or_default(),
        false => line.text.clone(),
    };
    if follows {
        let mut out = std::io::stdout().lock();
        let each = |line: PreviewLogLine| {
            writeln!(out, "{}", text(&line))
                .and_then(|()| out.flush())
                .is_ok()
        };
        return client.follow_preview_log(id, lines, each).map_err(failed);
    }
    let log = client.preview_log(id, lines).map_err(failed)?;
    let lines = log.lines.iter().map(|line| text(line) + "\n");
    report::print(&lines.collect::<String>())
}

fn answer(value: &impl serde::Serialize, as_json: bool, text: String) -> Result<(), Failure> {
    match as_json {
        true => report::print(&report::json(value)?),
        false => report::print(&text),
    }
}

fn place(preview: &Preview) -> String {
    match preview.path.as_str() {
        "" => preview.mount.clone(),
        path => format!("{}:{path}", preview.mount),
    }
}

fn row(preview: &Preview) -> Vec<String> {
    let memory = preview.usage.map_or_else(String::new, |used| {
        format!("{} MiB", used.memory_bytes >> 20)
    });
    let note = preview.trouble.clone().or_else(|| {
        let ended = preview.ended.as_ref()?;
        (preview.state != PreviewState::Ready).then(|| ended.reason.clone())
    });
    vec![
        preview.id.clone(),
        preview.state.to_string(),
        preview.url.clone(),
        place(preview),
        memory,
        preview.command.clone(),
        note.unwrap_or_default(),
    ]
}

fn shown(preview: &Preview) -> String {
    let mut rows = vec![
        ("id", preview.id.clone()),
        ("state", preview.state.to_string()),
        ("url", preview.url.clone()),
        ("place", place(preview)),
        ("command", preview.command.clone()),
        ("restarts", preview.restarts.to_string()),
    ];
    if let Some(took) = preview.ready_after_ms {
        rows.push(("ready after", format!("{took} ms")));
    }
    if let Some(used) = preview.usage {
        rows.push(("memory", format!("{} MiB", used.memory_bytes >> 20)));
        rows.push(("processor time", format!("{} ms", used.cpu_ms)));
        rows.push(("processes", used.processes.to_string()));
        rows.push(("connections", used.connections.to_string()));
    }
    rows.extend(preview.trouble.clone().map(|text| ("trouble", text)));
    let mut text: String = rows
        .iter()
        .map(|(name, value)| format!("{name:15} {value}\n"))
        .collect();
    if let Some(ended) = &preview.ended {
        text.push_str(&format!("{:15} {}\n", "ended", ended.reason));
        for line in &ended.log {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}
