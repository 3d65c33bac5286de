//! `weldrfs events`: follows what the sidecar tells, until it is interrupted.

use std::io::Write;
use std::path::PathBuf;

use weldrfs_control::{Event, EventsWanted};

use super::{api_failure, control};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::moment;

/// What to follow.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) mount: Option<String>,
    pub(crate) preview: Option<String>,
    pub(crate) run: Option<String>,
    pub(crate) after: Option<i64>,
    pub(crate) as_json: bool,
}

/// Writes one line for each event.
pub(crate) fn run(
    request: &Request,
    socket: Option<PathBuf>,
    environment: &Environment,
) -> Result<(), Failure> {
    let client = control::client(socket, environment)?;
    let mut reader_is_gone = false;
    let wanted = EventsWanted {
        mount: request.mount.as_deref(),
        preview: request.preview.as_deref(),
        run: request.run.as_deref(),
    };
    let followed = client.events(request.after, wanted, None, |event| {
        let mut stdout = std::io::stdout().lock();
        let written =
            writeln!(stdout, "{}", line(&event, request.as_json)).and_then(|()| stdout.flush());
        reader_is_gone = written.is_err();
        !reader_is_gone
    });
    match followed {
        Ok(()) if reader_is_gone => Ok(()),
        Ok(()) => Err(Failure::System(
            "the sidecar has ended, and with it the events; --after goes on where this stopped"
                .into(),
        )),
        Err(error) => Err(api_failure("no events", &error)),
    }
}

fn line(event: &Event, as_json: bool) -> String {
    if as_json {
        // Text and numbers, which JSON can hold.
        return serde_json::to_string(event).unwrap_or_default();
    }
    format!(
        "{}  {:>6}  {:<18}  {:<12}  {}",
        moment::shown(event.at_ms),
        event.id,
        event.kind,
        event.mount.as_deref().unwrap_or("-"),
        event.message
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = Event {
            id: 7,
            at_ms: 86_401_000,
            kind: "mount.died".into(),
            mount: Some("project".into()),
            message: "its process 12 died".into(),
            run: None,
            step: None,
            data: None,
        };
        let text = line(&event, false);
        assert!(
            text.starts_with("1970-01-02T00:00:01Z       7  mount.died"),
            "{text}"
        );
        assert!(
            text.ends_with("project       its process 12 died"),
            "{text}"
        );
        let back: Event = serde_json::from_str(&line(&event, true)).unwrap();
        assert_eq!(back, event);
    }
}
