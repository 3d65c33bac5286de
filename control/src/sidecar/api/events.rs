//! `/events`: what happens, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::query;
use crate::error::{ApiError, ErrorBody};
use crate::sidecar::events::Listener;
use crate::sidecar::server::{App, STREAMS_MAX};
use crate::sidecar::store::EventFilter;
use crate::sidecar::types::Event;

/// How often something is sent when nothing happens, so that both sides notice that the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The header by which a client goes on where it was.
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventQuery {
    #[serde(default)]
    mount: Option<String>,
    #[serde(default)]
    preview: Option<String>,
    #[serde(default)]
    run: Option<String>,
    #[serde(default)]
    after: Option<i64>,
}

/// What happens, as server-sent events
///
/// `id` is the event's number, `event` its kind, `data` the event as JSON. With `Last-Event-ID` or `after` it goes on
/// after that event (0: from the oldest that is kept), else with what happens from now on. `events.gap` says that some
/// in between are not kept any more.
#[utoipa::path(
    get, path = "/events", tag = "events", operation_id = "events",
    params(
        ("mount" = Option<String>, Query, description = "Only those about this mount"),
        ("preview" = Option<String>, Query, description = "Only those about this preview"),
        ("run" = Option<String>, Query, description = "Only those about this run of a workflow"),
        ("after" = Option<i64>, Query, description = "Number of the last event that was seen", minimum = 0),
        ("Last-Event-ID" = Option<i64>, Header, description = "The same; wins over `after`"),
    ),
    responses(
        (status = 200, description = "Events, for as long as the client listens", body = Event, content_type = "text/event-stream"),
        (status = 400, description = "`invalid_request`", body = ErrorBody),
        (status = 409, description = "`limit_reached`: as many listen as may", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn events(
    State(app): State<App>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let EventQuery {
        mount,
        preview,
        run,
        after,
    } = query(&uri)?;
    let after = match headers.get(LAST_EVENT_ID) {
        None => after,
        Some(value) => Some(number(value.to_str().unwrap_or_default())?),
    };
    if after.is_some_and(|after| after < 0) {
        return Err(ApiError::InvalidRequest(
            "after takes the number of an event, or 0".into(),
        ));
    }
    let slot = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        ApiError::LimitReached(format!("{STREAMS_MAX} listen already; close some of them"))
    })?;
    let listening = Listening {
        listener: app.events.listen(
            after,
            EventFilter {
                mount,
                preview,
                run,
            },
        ),
        ready: Vec::new().into_iter(),
        stop: app.stop.clone(),
        ended: false,
        _slot: slot,
    };
    let stream = unfold(listening, |mut listening| async move {
        let event = listening.next().await?;
        Some((Ok(sent(&event)), listening))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn number(text: &str) -> Result<i64, ApiError> {
    text.trim().parse().map_err(|_| {
        ApiError::InvalidRequest("Last-Event-ID takes the number of an event, or 0".into())
    })
}

struct Listening {
    listener: Listener,
    ready: std::vec::IntoIter<Event>,
    stop: watch::Receiver<bool>,
    ended: bool,
    _slot: OwnedSemaphorePermit,
}

impl Listening {
    /// The next event; none once the sidecar ends or its database fails, after which a client asks again.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.next() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            let events = tokio::select! {
                events = self.listener.next() => events,
                () = async { drop(self.stop.wait_for(|stop| *stop).await) } => {
                    // The last one says that it ends.
                    self.ended = true;
                    self.listener.ready().await
                }
            };
            let events = events.ok()?;
            self.ended |= events.is_empty();
            self.ready = events.into_iter();
        }
    }
}

fn sent(event: &Event) -> sse::Event {
    let named = sse::Event::default()
        .id(event.id.to_string())
        .event(&event.kind);
    // Only keys that are no text could fail, and there are none.
    named.json_data(event).unwrap_or_default()
}
