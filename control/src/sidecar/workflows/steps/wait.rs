//! Waiting: for a time, which goes on while nobody waits, or until something answers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::{sleep, timeout};

use super::http::is_expected;
use super::{Attempt, Ending, Outcome, Report};
use crate::sidecar::workflows::web::Ask;

/// How long one question may take.
const ASK_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn perform_for(attempt: Attempt, span: Duration) -> Ending {
    let whole = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let until = attempt.began_ms.saturating_add(whole);
    let left = Duration::from_millis(until.saturating_sub(attempt.now_ms()));
    attempt
        .tell(Report::Waits(format!("waits for {} s", span.as_secs_f64())))
        .await;
    match attempt.unless_stopped(sleep(left)).await {
        Ok(()) => Ending::of(Outcome::Done(BTreeMap::new())),
        Err(ending) => ending,
    }
}

pub(super) async fn perform_until(
    attempt: Attempt,
    url: String,
    every: Duration,
    expect: Vec<u16>,
) -> Ending {
    let host = url.split('/').nth(2).unwrap_or_default().to_owned();
    let mut last = String::from("it was not asked yet");
    attempt
        .tell(Report::Waits(format!("waits until {host} answers")))
        .await;
    loop {
        let ask = Ask {
            method: hyper::Method::GET,
            url: url.clone(),
            headers: BTreeMap::new(),
            body: None,
            key: None,
        };
        let asking = timeout(ASK_DEADLINE, attempt.parts.web.ask(ask));
        let now = match attempt.unless_stopped(asking).await {
            Err(ending) => return because(ending, &last),
            Ok(Err(_)) => format!("{host} did not answer within {} s", ASK_DEADLINE.as_secs()),
            Ok(Ok(Err(fault))) if fault.code == "invalid_request" => {
                return Ending::of(Outcome::Failed(fault));
            }
            Ok(Ok(Err(fault))) => fault.message,
            Ok(Ok(Ok(answered))) if is_expected(answered.status, &expect) => {
                let status = BTreeMap::from([("status".to_owned(), Json::from(answered.status))]);
                return Ending::of(Outcome::Done(status));
            }
            Ok(Ok(Ok(answered))) => format!("{host} answers with status {}", answered.status),
        };
        match now == last {
            true => attempt.tell(Report::Alive).await,
            false => {
                let doing = format!("waits until {host} answers: {now}");
                attempt.tell(Report::Waits(doing)).await;
            }
        }
        last = now;
        if let Err(ending) = attempt.unless_stopped(sleep(every)).await {
            return because(ending, &last);
        }
    }
}

/// The end of the time, with what it was waited for.
fn because(mut ending: Ending, last: &str) -> Ending {
    if let Outcome::Failed(fault) = &mut ending.outcome {
        fault.message = format!("{}; {last}", fault.message);
    }
    ending
}
