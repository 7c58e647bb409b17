//! The keeper: the task that opens a node's connection, looks after it and opens it anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng;

use super::failure::NodeError;
use super::probe::{self, ServerInfo};
use super::{Link, Open, Shared};
use crate::sync::lock;
use crate::timeout;
use crate::valkey::endpoint::CommandConnection;

/// The first pause between two attempts to connect; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause; so that with the time for the attempt itself a server that came back is
/// found within two seconds.
const BACKOFF_MAX: Duration = Duration::from_millis(800);

/// A connection that ends sooner than this is not replaced at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// Why a connection was given up.
enum End {
    /// It broke: a new one may well work at once.
    Lost,
    /// The server does not answer on it.
    Silent,
}

/// Keeps the node connected until the task is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    let address = shared.endpoint.address().to_owned();
    let (mut generation, mut failed) = (0_u64, 0_u32);
    // Connections in a row that ended just after they were opened.
    let mut short_lived = 0_u32;
    loop {
        match connect(&shared).await {
            Ok((connection, server)) => {
                generation += 1;
                let began = shared.clock.now();
                welcome(&shared, &connection, server, generation);
                failed = 0;
                let end = look_after(&shared, connection, generation).await;
                shared.observer.disconnected(&address);
                tracing::info!(
                    valkey.node = address,
                    error = lock(&shared.last_error).as_deref(),
                    "the connection to Valkey ended; opening another",
                );
                shared.set(match end {
                    End::Lost => Link::Connecting,
                    End::Silent => Link::Down,
                });
                // At once the first time, since calls wait for it; but a server that throws us
                // out again and again must not be stormed.
                let lived = shared.clock.now().saturating_duration_since(began);
                if lived >= SHORT_LIFE {
                    short_lived = 0;
                } else {
                    if let Some(before) = short_lived.checked_sub(1) {
                        let interval = shared.limits.health_check_interval;
                        shared.clock.sleep(pause(before, interval)).await;
                    }
                    short_lived = short_lived.saturating_add(1);
                }
            }
            Err(error) => {
                shared.note(&error);
                shared.set(Link::Down);
                if failed == 0 {
                    tracing::warn!(
                        valkey.node = address,
                        error = &error as &dyn std::error::Error,
                        "no usable connection to Valkey; going on without it, and looking again \
                         all the time",
                    );
                }
                shared
                    .clock
                    .sleep(pause(failed, shared.limits.health_check_interval))
                    .await;
                failed = failed.saturating_add(1);
            }
        }
    }
}

async fn connect(shared: &Shared) -> Result<(CommandConnection, ServerInfo), NodeError> {
    let limit = shared.limits.connect_timeout;
    let work = async {
        let connection = shared.endpoint.connect().await?;
        let server = probe::look(shared, &connection).await?;
        Ok((connection, server))
    };
    match timeout(&*shared.clock, limit, work).await {
        Some(result) => result,
        None => Err(NodeError::TimedOut(limit)),
    }
}

fn welcome(shared: &Shared, connection: &CommandConnection, server: ServerInfo, generation: u64) {
    tracing::info!(
        valkey.node = shared.endpoint.address(),
        valkey.server = server.name,
        valkey.version = server.version,
        valkey.scripting = server.scripting,
        "connected to Valkey",
    );
    *lock(&shared.server) = Some(server);
    *lock(&shared.last_error) = None;
    shared.refusals.store(0, Ordering::Relaxed);
    shared.observer.connected(shared.endpoint.address());
    let connection = connection.clone();
    shared.set(Link::Up(Open {
        connection,
        generation,
    }));
}

/// Looks at the server now and then, and whenever a call or the connection itself gives reason to;
/// returns when the connection is of no more use.
async fn look_after(shared: &Shared, connection: CommandConnection, generation: u64) -> End {
    let disconnects = shared.endpoint.disconnects();
    loop {
        tokio::select! {
            () = shared.judged.notified() => {}
            () = disconnects.notified() => {}
            () = shared.clock.sleep(shared.limits.health_check_interval) => {
                shared.endpoint.tidy();
                reserve(shared).await;
            }
        }
        match &*shared.link.borrow() {
            Link::Up(_) | Link::Suspect(_) => {}
            Link::Connecting => return End::Lost,
            Link::Down => return End::Silent,
        }
        // Calls are told after a command's time that the server is slow; whether it is gone may
        // take the time that a new connection would take too.
        let mut look = Box::pin(probe::ping(&connection));
        let limits = shared.limits;
        let mut answer = timeout(&*shared.clock, limits.command_timeout, &mut look).await;
        if answer.is_none() {
            shared.note(&NodeError::TimedOut(limits.command_timeout));
            shared.suspect(Some(generation));
            let rest = limits
                .connect_timeout
                .saturating_sub(limits.command_timeout);
            answer = timeout(&*shared.clock, rest, &mut look).await;
        }
        match answer {
            Some(Ok(())) => {
                shared.refusals.store(0, Ordering::Relaxed);
                let suspect = matches!(&*shared.link.borrow(), Link::Suspect(_));
                if suspect {
                    *lock(&shared.last_error) = None;
                    shared.turn(Some(generation), |open| Link::Up(open.clone()));
                }
            }
            Some(Err(error)) => {
                shared.note(&error);
                return match error.failure() {
                    super::Failure::Lost => End::Lost,
                    _ => End::Silent,
                };
            }
            None => return End::Silent,
        }
    }
}

/// Opens connections ahead where calls will need some of their own.
async fn reserve(shared: &Shared) {
    if !shared.scripting.load(Ordering::Relaxed) {
        let limit = shared.limits.connect_timeout;
        // What could not be opened now is opened by the call that needs it.
        let _ = timeout(&*shared.clock, limit, shared.endpoint.reserve()).await;
    }
}

/// The pause after so many failed attempts: doubling, with a fifth of jitter, so that a fleet does
/// not come back in step.
fn pause(failed: u32, health_check_interval: Duration) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1_u32.checked_shl(failed).unwrap_or(u32::MAX));
    let longest = BACKOFF_MAX.min(health_check_interval.max(BACKOFF_MIN));
    let factor = rand::rng().random_range(0.8..=1.2);
    doubled.min(longest).mul_f64(factor)
}
