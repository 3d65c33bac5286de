//! Who asks, and whether they may. Over the Unix socket the kernel says who it is; over TCP a token does.

mod jwt;
mod pages;
mod peer;
mod tokens;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::http::{HeaderMap, Method, header};

pub(super) use pages::{Begun, kernel_random};
pub use tokens::{NewToken, TokenFile, TokenInfo};

use super::host::Clock;
use super::limits::Limits;
use super::start_error::StartError;
use crate::error::ApiError;
use crate::wire::{Caller, UnixCaller};

use jwt::Sessions;
use pages::{Pages, Random};
use tokens::Tokens;

/// Longest token that is looked at.
const TOKEN_MAX: usize = 8 * 1024;

/// What requests over TCP are checked with.
#[derive(Clone, Default)]
pub struct AuthSettings {
    /// The file of hashed tokens.
    pub token_file: PathBuf,
    /// Secret of sessions signed with HS256.
    pub session_secret: Option<String>,
    /// File with the public keys of sessions signed with EdDSA or RS256.
    pub jwks_file: Option<PathBuf>,
}

impl std::fmt::Debug for AuthSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the secret.
        f.debug_struct("AuthSettings")
            .field("token_file", &self.token_file)
            .field("jwks_file", &self.jwks_file)
            .finish_non_exhaustive()
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// A process of this machine that may open the socket.
    Local {
        /// Its user.
        uid: u32,
    },
    /// Whoever has this token or session.
    Token {
        /// Names it in the log and for limits; no secret.
        id: String,
    },
    /// Nobody has said.
    Nobody,
}

impl Identity {
    /// Names whoever asks in the database, the same after a restart; no secret.
    pub(super) fn asker(&self) -> String {
        match self {
            Self::Local { uid } => format!("uid:{uid}"),
            Self::Token { id } => id.clone(),
            Self::Nobody => "nobody".to_owned(),
        }
    }
}

/// Decides who may ask.
pub(super) struct Auth {
    /// Group of the Unix socket.
    group: u32,
    tokens: Tokens,
    sessions: Sessions,
    pages: Pages,
}

impl Auth {
    /// # Errors
    /// [`StartError::Setting`] for a secret or key file that nothing can be checked with.
    pub(super) fn new(
        settings: &AuthSettings,
        group: u32,
        clock: Arc<dyn Clock>,
        random: Random,
    ) -> Result<Self, StartError> {
        Ok(Self {
            group,
            pages: Pages::new(Arc::clone(&clock), random),
            tokens: Tokens::new(settings.token_file.clone(), Arc::clone(&clock)),
            sessions: Sessions::new(
                settings.session_secret.as_deref(),
                settings.jwks_file.clone(),
                clock,
            )?,
        })
    }

    /// Whether anybody could say who they are over TCP.
    pub(super) fn can_serve_tcp(&self) -> bool {
        self.sessions.is_configured() || self.tokens.any()
    }

    /// Who asks: by a token, or by the cookie of a session of the page.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`], [`ApiError::Unauthorized`], [`ApiError::RateLimited`].
    pub(super) fn identify(
        &self,
        caller: Caller,
        method: &Method,
        headers: &HeaderMap,
        limits: &Limits,
    ) -> Result<Identity, ApiError> {
        match caller {
            Caller::Unix(process) => self.local(process),
            Caller::Tcp(address) => {
                let token = match bearer(headers)? {
                    Some(token) => Some(token.to_owned()),
                    None => self.pages.token(method, headers)?,
                };
                match token {
                    None => Ok(Identity::Nobody),
                    Some(token) => self.remote(address, &token, limits),
                }
            }
        }
    }

    /// Begins a session of the page for whoever sends a token, which was checked.
    ///
    /// # Errors
    /// [`ApiError::Unauthorized`] without a token; what [`Pages::begin`] says.
    pub(super) fn begin_session(&self, headers: &HeaderMap) -> Result<Begun, ApiError> {
        let token = bearer(headers)?.ok_or_else(|| {
            ApiError::Unauthorized(
                "send \"Authorization: Bearer TOKEN\"; a cookie is not enough".into(),
            )
        })?;
        self.pages.begin(token)
    }

    /// Ends a session of the page; returns the `Set-Cookie` that makes a browser forget it.
    pub(super) fn end_session(&self, headers: &HeaderMap) -> String {
        self.pages.end(headers)
    }

    fn local(&self, process: Option<UnixCaller>) -> Result<Identity, ApiError> {
        match process.filter(|process| peer::may_use(*process, self.group)) {
            Some(process) => Ok(Identity::Local { uid: process.uid }),
            None => Err(ApiError::Forbidden(
                "the socket is for root and the members of its group; ask the administrator to add you".into(),
            )),
        }
    }

    fn remote(
        &self,
        address: SocketAddr,
        token: &str,
        limits: &Limits,
    ) -> Result<Identity, ApiError> {
        if let Some(id) = self
            .tokens
            .find(token)
            .or_else(|| self.sessions.known(token))
        {
            return Ok(Identity::Token { id });
        }
        // From here on it costs work, and guessing gets here every time.
        limits.attempt(&address.ip().to_string())?;
        match self.sessions.verify(token) {
            Ok(id) => Ok(Identity::Token { id }),
            Err(reason) => {
                tracing::warn!(%address, %reason, "a token was refused");
                Err(ApiError::Unauthorized(
                    "the token is wrong, revoked or expired; make one with \"weldrfs control token create\"".into(),
                ))
            }
        }
    }
}

/// The token of `Authorization: Bearer TOKEN`.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        let token = token.trim();
        let fits = scheme.eq_ignore_ascii_case("bearer") && (1..=TOKEN_MAX).contains(&token.len());
        fits.then_some(token)
    });
    match (token, values.next()) {
        (Some(token), None) => Ok(Some(token)),
        _ => Err(ApiError::Unauthorized(
            "send one header \"Authorization: Bearer TOKEN\"".into(),
        )),
    }
}

#[cfg(test)]
mod tests;
