//! A request over HTTP. Whether one that was cut off has arrived, nobody knows: it carries a key that is the same for all
//! attempts of its step, so that a server can tell.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Attempt, Ending, FilledKind, Outcome, Report, fault, kept};
use crate::sidecar::workflows::definition::Method;
use crate::sidecar::workflows::points::Point;
use crate::sidecar::workflows::web::Ask;

/// How much of an answer is in an error.
const SHOWN_MAX: usize = 500;

pub(super) async fn perform(attempt: Attempt) -> Ending {
    if attempt.is_again {
        return Ending::of(Outcome::Interrupted(fault(
            "interrupted",
            "the sidecar ended while the request was under way; whether it arrived is not known",
        )));
    }
    let FilledKind::Http {
        method,
        url,
        headers,
        body,
        expect,
        outputs,
    } = attempt.filled.kind.clone()
    else {
        return Ending::failed("internal", "that is no http step");
    };
    let host = url.split('/').nth(2).unwrap_or_default().to_owned();
    let doing = format!("asks {}", attempt.mask.text(&host));
    attempt.tell(Report::Doing(doing)).await;
    let ask = Ask {
        method: match method {
            Method::Get => hyper::Method::GET,
            Method::Head => hyper::Method::HEAD,
            Method::Post => hyper::Method::POST,
            Method::Put => hyper::Method::PUT,
            Method::Patch => hyper::Method::PATCH,
            Method::Delete => hyper::Method::DELETE,
        },
        url,
        headers,
        body,
        key: Some(format!("{}-{}", attempt.run, attempt.number)),
    };
    let answered = match attempt.unless_stopped(attempt.parts.web.ask(ask)).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(error)) => {
            let message = attempt.mask.text(&error.message);
            return Ending::of(Outcome::Failed(fault(&error.code, message)));
        }
        Err(ending) => return ending,
    };
    attempt.reached(Point::Requested).await;
    let whole = match answered.is_cut {
        // What may be the beginning of a secret cannot be told from one.
        true => attempt.mask.safe(&answered.body),
        false => answered.body.len(),
    };
    let text = String::from_utf8_lossy(answered.body.get(..whole).unwrap_or_default()).into_owned();
    if !is_expected(answered.status, &expect) {
        let shown: String = attempt
            .mask
            .text(text.trim())
            .chars()
            .take(SHOWN_MAX)
            .collect();
        return Ending::failed(
            "http_status",
            format!("it was answered with status {}: {shown}", answered.status),
        );
    }
    let mut all = BTreeMap::new();
    all.insert("status".to_owned(), Json::from(answered.status));
    if !outputs.is_empty() {
        let parsed: Option<Json> = match answered.is_cut {
            true => None,
            false => serde_json::from_slice(&answered.body).ok(),
        };
        for (name, pointer) in &outputs {
            let Some(found) = parsed.as_ref().and_then(|json| json.pointer(pointer)) else {
                return Ending::failed(
                    "http_answer",
                    format!(
                        "the answer has no {pointer:?} for the output {name}: it is no such JSON"
                    ),
                );
            };
            let value = match found {
                Json::String(text) => kept(&attempt.mask, text),
                // A number can be a secret, too.
                Json::Number(number)
                    if attempt.mask.text(&number.to_string()) == number.to_string() =>
                {
                    found.clone()
                }
                Json::Bool(_) | Json::Null => found.clone(),
                other => kept(&attempt.mask, &other.to_string()),
            };
            all.insert(name.clone(), value);
        }
    }
    all.insert("body".to_owned(), kept(&attempt.mask, &text));
    Ending::of(Outcome::Done(all))
}

pub(super) fn is_expected(status: u16, expect: &[u16]) -> bool {
    match expect.is_empty() {
        true => (200..300).contains(&status),
        false => expect.contains(&status),
    }
}
