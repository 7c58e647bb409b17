//! The same steps without scripts: `WATCH`, compare here, `MULTI … EXEC`.
//!
//! Three round trips on a connection of its own instead of one on the shared one; for servers that
//! run no scripts for us. Events are published after the transaction, not inside: an ACL that
//! forbids `PUBLISH` would make the server drop the whole of it.

use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisResult, Value, cmd};

use super::{Ended, Ending, Extension};
use crate::valkey::act::Act;
use crate::valkey::keys::LeaseValue;
use crate::valkey::node::Node;
use crate::{LeaseError, LeaseToken};

/// Most tries, each of which is lost only to another change of the same lease.
const TRIES_MAX: usize = 8;

/// What a transaction ended with; `None`: the lease changed meanwhile, so it did nothing.
type Try<T> = RedisResult<Option<T>>;

/// As [`Ops::renew`](super::Ops::renew). `names`: lease, progress, forced.
pub(super) async fn renew(
    node: &Node,
    act: Act<'_>,
    names: [&str; 3],
    token: LeaseToken,
    ttl_ms: u64,
    progress: &str,
) -> Result<Extension, LeaseError> {
    let [lease, progress_key, forced] = names;
    let mut change = Pipeline::new();
    change.atomic();
    change.cmd("PEXPIRE").arg(lease).arg(ttl_ms);
    change.cmd("SET").arg(progress_key).arg(progress);
    change.arg("PX").arg(ttl_ms);
    let renewed = node
        .dedicated(act, lease, async |connection| {
            let connection = connection.get();
            for _ in 0..TRIES_MAX {
                if shown(connection, &[lease], token).await? != Shown::InForce {
                    let mut exists = cmd("EXISTS");
                    let marked = ask(connection, exists.arg(forced)).await?;
                    let marked = marked == Value::Int(1);
                    return Ok(Some(if marked {
                        Extension::Forced
                    } else {
                        Extension::Lost
                    }));
                }
                match execute(connection, &change).await? {
                    // It ended before the transaction did.
                    Some(false) => return Ok(Some(Extension::Lost)),
                    Some(true) => return Ok(Some(Extension::Extended)),
                    None => {}
                }
            }
            Ok(None)
        })
        .await?;
    renewed.ok_or_else(|| contended(act))
}

/// As [`Ops::end`](super::Ops::end), without telling anybody. `names`: lease, progress, and the
/// mark's or the take-over's.
pub(super) async fn end(
    node: &Node,
    act: Act<'_>,
    names: [&str; 3],
    token: LeaseToken,
    ending: Ending,
    ms: &str,
) -> Result<Ended, LeaseError> {
    let [lease, progress, third] = names;
    let mut change = Pipeline::new();
    change.atomic();
    change.cmd("DEL").arg(lease);
    change.cmd("DEL").arg(progress);
    let watched: &[&str] = match ending {
        Ending::Release(_) => &[lease],
        Ending::Force => {
            change.cmd("SET").arg(third).arg("1").arg("PX").arg(ms);
            &[lease]
        }
        Ending::TakeOver(_) => {
            change.cmd("SET").arg(third).arg(token.to_string());
            change.arg("PX").arg(ms);
            &[lease, third]
        }
    };
    let ended = node
        .dedicated(act, lease, async |connection| {
            let connection = connection.get();
            for _ in 0..TRIES_MAX {
                match shown(connection, watched, token).await? {
                    Shown::InForce => {}
                    Shown::Gone => return Ok(Some(Ended::Gone)),
                    Shown::Moved => return Ok(Some(Ended::Moved)),
                }
                if let Ending::TakeOver(_) = ending {
                    let mut exists = cmd("EXISTS");
                    if ask(connection, exists.arg(third)).await? == Value::Int(1) {
                        return Ok(Some(Ended::Refused));
                    }
                }
                match execute(connection, &change).await? {
                    Some(false) => return Ok(Some(Ended::Gone)),
                    Some(true) => return Ok(Some(Ended::Told)),
                    None => {}
                }
            }
            Ok(None)
        })
        .await?;
    ended.ok_or_else(|| contended(act))
}

fn contended(act: Act<'_>) -> LeaseError {
    act.unavailable(format!(
        "the lease changed during each of {TRIES_MAX} tries"
    ))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    InForce,
    Gone,
    Moved,
}

/// Watches `keys`, the lease first, and compares its token. What stays watched when the caller
/// leaves is cleared before the connection is lent again.
async fn shown(
    connection: &mut MultiplexedConnection,
    keys: &[&str],
    token: LeaseToken,
) -> RedisResult<Shown> {
    let mut watch = Pipeline::new();
    watch.cmd("WATCH").arg(keys);
    watch.cmd("GET").arg(keys.first());
    let answers = connection.req_packed_commands(&watch, 0, 2).await?;
    let mut answers = answers.into_iter().map(Value::extract_error);
    let (watched, value) = (answers.next().transpose()?, answers.next().transpose()?);
    if watched != Some(Value::Okay) {
        let kind = redis::ErrorKind::UnexpectedReturnType;
        return Err((kind, "WATCH was not answered with OK").into());
    }
    Ok(match value {
        Some(Value::BulkString(value)) => match LeaseValue::read(&value) {
            Ok(read) if read.value.token == token => Shown::InForce,
            // What names no token is another's too.
            _ => Shown::Moved,
        },
        _ => Shown::Gone,
    })
}

/// Executes a transaction whose first command answers how many leases it changed.
async fn execute(connection: &mut MultiplexedConnection, change: &Pipeline) -> Try<bool> {
    let answers: Option<Vec<Value>> = change.query_async(connection).await?;
    Ok(answers.map(|answers| answers.first() == Some(&Value::Int(1))))
}

async fn ask(connection: &mut MultiplexedConnection, cmd: &Cmd) -> RedisResult<Value> {
    connection
        .send_packed_command(cmd)
        .await
        .and_then(Value::extract_error)
}
