//! The first look at a server behind a new connection.

use redis::{Cmd, RedisError, Value};

use super::failure::{self, NodeError};
use super::{Scripts, Shared};
use crate::valkey::endpoint::CommandConnection;
use std::sync::atomic::Ordering;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// `valkey` or `redis`.
    pub name: String,
    /// Its version, such as `9.1.0`; empty when it does not tell.
    pub version: String,
    /// `primary` or `replica`; empty when it does not tell.
    pub role: String,
    /// Whether it runs scripts for us; transactions take their place otherwise.
    pub scripting: bool,
}

/// Looks at the server: it has to answer and to take writes. Learns what it can do.
pub(super) async fn look(
    shared: &Shared,
    connection: &CommandConnection,
) -> Result<ServerInfo, NodeError> {
    ping(connection).await?;
    let [mut about, mut replication] = [connection.clone(), connection.clone()];
    let (server, replication_info) = (info("server"), info("replication"));
    let (about, replication, scripting) = tokio::join!(
        about.send(&server),
        replication.send(&replication_info),
        scripting(&shared.scripts, connection),
    );
    // A user that may not ask is no reason not to work.
    let about = about.map(text).unwrap_or_default();
    let replication = replication.map(text).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned())
    };
    let role = match field(&replication, "role").as_deref() {
        Some("master") => "primary",
        Some("slave") => {
            let only = RedisError::from((
                redis::ErrorKind::Client,
                "it is a replica, which takes no writes",
            ));
            return Err(only.into());
        }
        _ => "",
    };
    let (valkey, redis) = (
        field(&about, "valkey_version"),
        field(&about, "redis_version"),
    );
    let old = valkey.is_none()
        && redis
            .as_deref()
            .and_then(major)
            .is_some_and(|major| major < 7);
    shared.set_nx_get.store(!old, Ordering::Relaxed);
    let scripting = scripting?;
    shared.scripting.store(scripting, Ordering::Relaxed);
    let name = if valkey.is_some() { "valkey" } else { "redis" };
    Ok(ServerInfo {
        name: name.to_owned(),
        version: valkey.or(redis).unwrap_or_default(),
        role: role.to_owned(),
        scripting,
    })
}

/// Asks for a sign of life.
pub(super) async fn ping(connection: &CommandConnection) -> Result<(), NodeError> {
    let mut connection = connection.clone();
    let answer = connection.send(&redis::cmd("PING")).await?;
    match answer {
        Value::SimpleString(text) if text == "PONG" => Ok(()),
        Value::Array(_) | Value::Map(_) => Ok(()),
        _ => {
            let kind = redis::ErrorKind::UnexpectedReturnType;
            Err(RedisError::from((kind, "PING was not answered with PONG")).into())
        }
    }
}

/// Finds out whether scripts run, and makes the server remember ours ahead of their first use.
async fn scripting(scripts: &Scripts, connection: &CommandConnection) -> Result<bool, NodeError> {
    let mut one = connection.clone();
    let mut eval = redis::cmd("EVAL");
    eval.arg("return 1").arg(0);
    match one.send(&eval).await {
        Ok(_) => {}
        Err(error) if failure::is_forbidden_command(&error) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    for script in scripts.all() {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(script.code());
        // Should this be refused, the first call by hash is, and goes on by text.
        if one.send(&load).await.is_err() {
            break;
        }
    }
    Ok(true)
}

fn info(section: &str) -> Cmd {
    let mut info = redis::cmd("INFO");
    info.arg(section);
    info
}

/// Returns the text of an `INFO`; of any one server's where several answered.
fn text(value: Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text,
        Value::Map(pairs) => pairs
            .into_iter()
            .next()
            .map(|(_, value)| text(value))
            .unwrap_or_default(),
        _ => String::new(),
    }
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}
