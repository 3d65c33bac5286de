//! What is heard of an attempt while it is under way: written down, told, and missed when it does not come.

use std::time::Duration;

use serde_json::json;

use super::RunLoop;
use crate::sidecar::events::kinds;
use crate::sidecar::store::NewEvent;
use crate::sidecar::workflows::points::Point;
use crate::sidecar::workflows::steps::Report;
use crate::sidecar::workflows::types::{RunState, StepState};

/// How often signs of life are written down.
const ALIVE_MS: u64 = 2000;

impl RunLoop {
    /// Writes down what was heard.
    pub(super) async fn heard(&mut self, number: usize, report: Report, was_cancelled: bool) {
        if was_cancelled {
            // The rows say how it ended already.
            return;
        }
        let now = self.now_ms();
        let Some(step) = self.rows.steps.get_mut(number) else {
            return;
        };
        let before_ms = step.progress_ms.replace(now);
        let was_waiting = step.state == StepState::Waiting;
        let event = match report {
            Report::Alive => {
                if now.saturating_sub(before_ms.unwrap_or(0)) < ALIVE_MS {
                    step.progress_ms = before_ms;
                    return;
                }
                None
            }
            Report::Doing(doing) => {
                step.doing = Some(doing);
                step.state = StepState::Running;
                Some(self.step_event(number))
            }
            Report::Waits(doing) => {
                step.doing = Some(doing);
                step.state = StepState::Waiting;
                Some(self.step_event(number))
            }
            Report::Output { text, place } => {
                step.place = place;
                match text.is_empty() {
                    true => None,
                    false => {
                        self.said_by(number, kinds::STEP_OUTPUT, text, json!({}))
                            .await
                    }
                }
            }
            Report::Event {
                kind,
                message,
                data,
            } => self.said_by(number, kind, message, data).await,
            Report::Over(_) => None,
        };
        let is_waiting = self
            .rows
            .steps
            .get(number)
            .is_some_and(|step| step.state == StepState::Waiting);
        if is_waiting != was_waiting {
            self.rows.run.state = match is_waiting {
                true => RunState::Waiting,
                false => RunState::Running,
            };
        }
        let is_output = matches!(&event, Some(event) if event.kind == kinds::STEP_OUTPUT);
        self.save(Some(number), event.into_iter().collect()).await;
        if is_output {
            self.reached(Point::Output).await;
        }
    }

    /// Tells what a program says, unless those of this run have said as much as is told.
    pub(super) async fn said_by(
        &mut self,
        number: usize,
        kind: &'static str,
        message: String,
        data: serde_json::Value,
    ) -> Option<NewEvent> {
        let said = match self.said {
            Some(said) => said,
            // What cannot be read is told again at most.
            None => self
                .parts
                .store
                .said_by(&self.rows.run.id)
                .await
                .unwrap_or(0),
        };
        if said > self.parts.said_max {
            self.said = Some(said);
            return None;
        }
        let event = self.told_by(number, kind, message, data);
        let data = event.data.as_ref().map_or(0, |data| data.to_string().len());
        let said = said.saturating_add((event.message.len() + data) as u64);
        self.said = Some(said);
        match said > self.parts.said_max {
            false => Some(event),
            true => Some(self.told_by(
                number,
                kind,
                "what the steps of this run say further is not told".into(),
                json!({"type": "cut"}),
            )),
        }
    }

    pub(super) fn told_by(
        &self,
        number: usize,
        kind: &'static str,
        message: String,
        data: serde_json::Value,
    ) -> NewEvent {
        let attempt = self.rows.steps.get(number).map_or(0, |step| step.attempt);
        let mut data = data;
        if let Some(fields) = data.as_object_mut() {
            fields.insert("attempt".into(), attempt.into());
        }
        NewEvent {
            step: self.rows.steps.get(number).map(|step| step.name.clone()),
            ..self.event(kind, message, data)
        }
    }

    /// When a step that goes on like this counts as stuck; none when it was told, or only waits.
    pub(super) fn stuck_in(&self, number: usize) -> Option<Duration> {
        let step = self.rows.steps.get(number)?;
        let at = step.progress_ms?.saturating_add(self.parts.stuck_after_ms);
        let now = self.now_ms();
        (step.state == StepState::Running && at > now).then(|| Duration::from_millis(at - now))
    }

    pub(super) async fn tell_stuck(&mut self, number: usize) {
        let Some(step) = self.rows.steps.get(number) else {
            return;
        };
        let seconds = self.parts.stuck_after_ms / 1000;
        let message = format!("nothing was heard of step {} for {seconds} s", step.name);
        let event = self.told_by(number, kinds::STEP, message, json!({"stuck": true}));
        self.save(Some(number), vec![event]).await;
    }
}
