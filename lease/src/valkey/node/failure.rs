//! What an error says about the connection, the server and the command.

use std::sync::Arc;
use std::time::Duration;

use crate::LeaseError;
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a call was not answered, or with what error.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeError {
    /// The connection or the server reported it.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// Nothing came.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// It was not sent, since another call got no answer just now.
    #[error("the server is being looked at, since it did not answer another call in time")]
    Suspect,
    /// It was not sent, since the server is taken for gone.
    #[error("the server is not there{}", .0.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Down(Option<Arc<str>>),
}

/// What follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server answered this command, if only with an error: nothing follows.
    Answer,
    /// The server answers, but serves nobody now; several in a row open the breaker.
    Refusal,
    /// The server said nothing in time.
    Silence,
    /// The connection is of no more use.
    Lost,
    /// The node knew before.
    Known,
}

impl NodeError {
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::TimedOut(_) => Failure::Silence,
            Self::Suspect | Self::Down(_) => Failure::Known,
            Self::Redis(error) => of_redis(error),
        }
    }
}

fn of_redis(error: &RedisError) -> Failure {
    if error.is_timeout() {
        return Failure::Silence;
    }
    // A primary that became a replica: whoever opens the connection anew finds the primary.
    if server_kind(error) == Some(ServerErrorKind::ReadOnly) {
        return Failure::Lost;
    }
    if error.is_connection_dropped() || error.is_io_error() || error.kind() == ErrorKind::Parse {
        return Failure::Lost;
    }
    // One of a Cluster's primaries is in trouble: that is the router's business, which has already
    // drawn its conclusions, and the others' slots must not suffer from it.
    if error.kind() == ErrorKind::ClusterConnectionNotFound {
        return Failure::Answer;
    }
    match server_kind(error) {
        Some(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::TryAgain,
        ) => Failure::Refusal,
        _ => match error.code() {
            Some("NOAUTH" | "BUSY" | "MISCONF" | "LOADING" | "UNBLOCKED") => Failure::Refusal,
            _ if error.kind() == ErrorKind::AuthenticationFailed => Failure::Refusal,
            _ => Failure::Answer,
        },
    }
}

fn server_kind(error: &RedisError) -> Option<ServerErrorKind> {
    match error.kind() {
        ErrorKind::Server(kind) => Some(kind),
        _ => None,
    }
}

/// Says whether an operation that ended with `error` may have taken effect on the server: it was
/// sent, and the server did not refuse it.
pub(crate) fn maybe_applied(error: &LeaseError) -> bool {
    let LeaseError::Unavailable { source, .. } = error else {
        return true;
    };
    let Some(source) = source else {
        return true;
    };
    if let Some(error) = source.downcast_ref::<NodeError>() {
        return !matches!(error, NodeError::Suspect | NodeError::Down(_));
    }
    match source.downcast_ref::<RedisError>() {
        // No primary was there to send it to.
        Some(error) if error.kind() == ErrorKind::ClusterConnectionNotFound => false,
        // Errors of the client; a server's own error says that nothing happened.
        Some(error) => error.is_io_error() || error.code().is_none(),
        None => true,
    }
}

/// Says whether the server has forgotten the script, or never had it.
pub(super) fn is_no_script(error: &RedisError) -> bool {
    server_kind(error) == Some(ServerErrorKind::NoScript)
}

/// Says whether the server runs this command for nobody, or not for us.
pub(super) fn is_forbidden_command(error: &RedisError) -> bool {
    if server_kind(error) == Some(ServerErrorKind::NoPerm) {
        return true;
    }
    error.code() == Some("ERR")
        && error
            .detail()
            .is_some_and(|detail| detail.starts_with("unknown command"))
        || error.to_string().contains("unknown command")
}

/// Says whether the answer shows that the other side keeps something else than we do.
pub(super) fn is_nonsense(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType
    ) || error.code() == Some("WRONGTYPE")
}
