//! What a request is answered with instead of what it deserves.

use std::time::Duration;

/// The kinds of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Put,
    Head,
    List,
    Delete,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A status with S3's XML around a code.
    Code(u16, &'static str),
    /// A status, a header and S3's XML: a redirect that names a region.
    OtherRegion(&'static str),
    /// A web page with this status.
    Page(u16),
    /// Nothing, for this long.
    Silence(Duration),
    /// The request is served and its answer lost: S3's XML with a status and a code instead.
    LostAfter(u16, &'static str),
}

/// Which requests get which answer.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) verb: Option<Verb>,
    /// Part of the path; empty fits all.
    pub(crate) path: String,
    pub(crate) answer: Answer,
    /// How often; `None` for always.
    pub(crate) left: Option<u32>,
}

impl Rule {
    /// Always and for everything.
    pub(crate) fn always(answer: Answer) -> Self {
        Self {
            verb: None,
            path: String::new(),
            answer,
            left: None,
        }
    }

    /// For one kind of request.
    pub(crate) fn on(verb: Verb, answer: Answer) -> Self {
        Self {
            verb: Some(verb),
            ..Self::always(answer)
        }
    }

    pub(crate) fn times(self, left: u32) -> Self {
        Self {
            left: Some(left),
            ..self
        }
    }

    pub(crate) fn path(self, path: &str) -> Self {
        Self {
            path: path.into(),
            ..self
        }
    }

    pub(super) fn fits(&self, verb: Verb, path: &str) -> bool {
        self.left != Some(0)
            && self.verb.is_none_or(|wanted| wanted == verb)
            && path.contains(&self.path)
    }
}
