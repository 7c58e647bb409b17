//! The life of the serving process: build everything, listen, and stop without loss.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::web::Data;
use actix_web::{App, HttpServer};
use lease::LeaseToken;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin;
use crate::admin::auth::AdminAccess;
use crate::allocator;
use crate::build::{self, Built};
use crate::cli::{EXIT_USAGE, complain};
use crate::config::Config;
use crate::goproxy::listener::{self, DISCONNECT_TIMEOUT, Limits, REQUEST_HEAD_TIMEOUT};
use crate::internal::{self, Internal};
use crate::listen::listen;
use crate::state::AppState;

/// How long the queue's file may take to be written and closed, even when `drain_timeout` is over.
const QUEUE_CLOSE_MIN: Duration = Duration::from_secs(1);

/// Why the server did not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A setting cannot work here; the line says which and what to do. Exit code 2.
    #[error("{0}")]
    Setting(String),
    /// The operating system refused something that no setting mends.
    #[error("the server failed")]
    Io(#[from] std::io::Error),
}

/// Runs the server described by `config` until SIGTERM or SIGINT.
///
/// Prints `listening on http://…` and `admin on http://…` on stdout when it is ready. A stop
/// lets requests and fills end for `drain_timeout`; a second signal ends it at once.
/// `config_json` is the configuration as operators may see it.
///
/// # Errors
///
/// [`ServeError::Io`]: what the operating system said. Mistakes in settings are printed, and are
/// exit code 2.
pub fn run(config: &Config, config_json: serde_json::Value) -> Result<ExitCode, ServeError> {
    let fills = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers.max(2))
        .thread_name("fill")
        .enable_all()
        .build()?;
    let giving_back = fills.spawn(allocator::give_back());
    let ran = actix_web::rt::System::new().block_on(serve(config, config_json, &fills));
    giving_back.abort();
    // Whatever still runs has had its time.
    fills.shutdown_timeout(Duration::from_secs(1));
    match ran {
        Err(ServeError::Setting(line)) => {
            complain(&line);
            Ok(EXIT_USAGE.into())
        }
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

async fn serve(
    config: &Config,
    config_json: serde_json::Value,
    fills: &tokio::runtime::Runtime,
) -> Result<(), ServeError> {
    let mut stop = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let Built {
        state,
        access,
        internal,
    } = build::state(config, config_json, fills.handle()).await?;
    let state = Data::new(state);
    // Before the first request can bring the first lease: a follower asks at once.
    let internal = match internal {
        Some(listener) => internal_server(&state, listener)?,
        None => None,
    };
    let (proxy, proxy_addr) = proxy_server(config, &state)?;
    let (admin, admin_addr) = admin_server(config, &state, access)?;
    announce(proxy_addr, admin_addr);
    let handles = Handles {
        proxy: proxy.handle(),
        admin: admin.handle(),
        internal: internal.as_ref().map(Server::handle),
    };
    let internal = internal.map(actix_web::rt::spawn);
    let proxy = actix_web::rt::spawn(proxy);
    let admin = actix_web::rt::spawn(admin);
    tokio::select! {
        _ = stop.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(
        drain_timeout_ms = u64::try_from(config.drain_timeout.as_millis()).unwrap_or(u64::MAX),
        "stopping: requests and fetches may end"
    );
    tokio::select! {
        () = drain(config, &state, &handles, fills.handle()) => {}
        _ = stop.recv() => tracing::warn!("stopped at once by a second signal"),
        _ = interrupt.recv() => tracing::warn!("stopped at once by a second signal"),
    }
    drop((proxy, admin, internal));
    Ok(())
}

/// Hands on the listeners of a running server.
struct Handles {
    proxy: ServerHandle,
    admin: ServerHandle,
    internal: Option<ServerHandle>,
}

/// Ends requests first, then fills: a request may still need its fill.
///
/// The internal listener outlives the last lease, or followers would take this instance for dead
/// while it still holds one; Valkey outlives the last release.
async fn drain(config: &Config, state: &Data<AppState>, handles: &Handles, fills: &Handle) {
    let began = tokio::time::Instant::now();
    state.readiness.drain();
    handles.proxy.stop(true).await;
    let left = config.drain_timeout.saturating_sub(began.elapsed());
    let cancelled = state.warmer.shutdown(left).await;
    if cancelled > 0 {
        tracing::warn!(
            fetches = cancelled,
            "cut fetches that outlasted drain_timeout"
        );
    }
    let left = config.drain_timeout.saturating_sub(began.elapsed());
    let queue = state.queue.clone();
    if !ends_in_time(async move { queue.shutdown().await }, left, fills).await {
        tracing::warn!(
            "the queue's file was not closed in time: its disk does not answer; what was not \
             written to it may be done once more after the next start"
        );
    }
    if let Some(internal) = &handles.internal {
        internal.stop(true).await;
    }
    if let Some(fleet) = &state.fleet {
        fleet.shutdown().await;
    }
    handles.admin.stop(false).await;
    tracing::info!("stopped");
}

/// Waits for `closing` as long as is `left`, at least a little; says whether it ended.
///
/// It runs on `fills`, with what it has blocking: that runtime alone ends without waiting for a
/// disk that does not answer.
async fn ends_in_time(
    closing: impl Future<Output = ()> + Send + 'static,
    left: Duration,
    fills: &Handle,
) -> bool {
    let closing = fills.spawn(closing);
    let closed = tokio::time::timeout(left.max(QUEUE_CLOSE_MIN), closing).await;
    closed.is_ok()
}

fn proxy_server(
    config: &Config,
    state: &Data<AppState>,
) -> Result<(Server, SocketAddr), ServeError> {
    let listener =
        listen(config.listen).map_err(|error| cannot_listen("listen", config.listen, &error))?;
    let addr = listener.local_addr()?;
    let limits = Limits {
        workers: config.workers,
        connections_max: config.connections_max,
        drain_timeout: config.drain_timeout,
    };
    Ok((listener::serve(state, listener, limits)?, addr))
}

fn admin_server(
    config: &Config,
    state: &Data<AppState>,
    access: AdminAccess,
) -> Result<(Server, SocketAddr), ServeError> {
    let (app_state, access) = (state.clone(), Data::new(access));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(app_state.clone())
            .app_data(access.clone())
            .configure(admin::routes)
    })
    // Its own worker: an operator gets an answer however busy the proxy is.
    .workers(1)
    .client_request_timeout(REQUEST_HEAD_TIMEOUT)
    .client_disconnect_timeout(DISCONNECT_TIMEOUT)
    .shutdown_timeout(1)
    .disable_signals()
    .bind(config.admin_listen)
    .map_err(|error| cannot_listen("admin_listen", config.admin_listen, &error))?;
    let addr = server
        .addrs()
        .first()
        .copied()
        .unwrap_or(config.admin_listen);
    Ok((server.run(), addr))
}

/// The internal listener's server; `None` without a fleet.
fn internal_server(
    state: &Data<AppState>,
    listener: TcpListener,
) -> Result<Option<Server>, ServeError> {
    let Some(fleet) = &state.fleet else {
        return Ok(None);
    };
    let grants = fleet.valkey().live_grants();
    let parts = Internal {
        warmer: state.warmer.clone(),
        grants: Arc::new(move |token: &LeaseToken| grants.knows(token)),
        secret: fleet.secret().clone(),
    };
    Ok(Some(internal::serve(parts, listener)?))
}

pub(crate) fn cannot_listen(key: &str, addr: SocketAddr, error: &std::io::Error) -> ServeError {
    let setting = match key {
        "internal.listen" => "--set internal.listen=ADDR".to_owned(),
        key => format!("--{} ADDR", key.replace('_', "-")),
    };
    let advice = match error.kind() {
        std::io::ErrorKind::AddrInUse => "the port is in use: stop the other process or choose",
        std::io::ErrorKind::PermissionDenied => "not permitted: choose a port above 1023 with",
        std::io::ErrorKind::AddrNotAvailable => "no interface has this address: choose",
        _ => "choose",
    };
    ServeError::Setting(format!(
        "cannot listen on {addr} ({key}): {advice} another {setting}"
    ))
}

#[allow(
    clippy::print_stdout,
    reason = "scripts read these two lines to learn the ports"
)]
fn announce(proxy: SocketAddr, admin: SocketAddr) {
    println!("listening on http://{proxy}");
    println!("admin on http://{admin}");
    tracing::info!("ready: export GOPROXY=http://{proxy}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::pending;
    use std::sync::mpsc::channel;

    use tokio::runtime::{Builder, Runtime};
    use tokio::task::spawn_blocking;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_waited_for_and_no_longer() {
        let fills = Handle::current();
        for (left, waits) in [(0, 1), (1, 1), (7, 7)] {
            let (left, began) = (Duration::from_secs(left), Instant::now());
            assert!(!ends_in_time(pending(), left, &fills).await);
            assert_eq!(began.elapsed(), Duration::from_secs(waits));
        }
        assert!(ends_in_time(async {}, Duration::ZERO, &fills).await);
    }

    #[test]
    fn a_disk_that_does_not_answer_keeps_no_process() {
        let fills = Runtime::new().unwrap();
        let listeners = Builder::new_current_thread().enable_all().build().unwrap();
        let (answer, disk) = channel::<()>();
        let closing = async move { drop(spawn_blocking(move || disk.recv()).await) };
        let closed = listeners.block_on(ends_in_time(closing, Duration::ZERO, fills.handle()));
        assert!(!closed);
        let (end, ended) = channel();
        std::thread::spawn(move || {
            drop(listeners);
            fills.shutdown_timeout(Duration::from_millis(10));
            end.send(())
        });
        ended.recv_timeout(Duration::from_secs(60)).unwrap();
        drop(answer);
    }
}
