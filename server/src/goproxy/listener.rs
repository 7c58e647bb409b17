//! The proxy's listener: which connections are taken, by whom, and how the library serves them.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use actix_http::{HttpService, Request, ServiceConfig};
use actix_server::{GracefulShutdownSignal, Server};
use actix_service::{Service, ServiceFactory, fn_factory, fn_service};
use actix_web::web::Data;
use bytes::BytesMut;
use tokio::net::TcpStream;

use super::connection::{self, Library, PassedOn, Worker};
use super::handlers;
use crate::state::AppState;

/// How long an idle connection is kept for its client's next request.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a client may take to send a request's head.
pub(crate) const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the end of a connection is waited for.
pub(crate) const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that an answer's head takes at most, roughly; the buffer grows where it must.
const ANSWER_HEAD_BYTES: usize = 512;

/// What bounds the listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Threads that serve connections.
    pub workers: usize,
    /// Connections that are open at once, all workers together; more wait to be accepted.
    pub connections_max: usize,
    /// How long requests may go on when the server is told to stop.
    pub drain_timeout: Duration,
}

/// Serves the GOPROXY protocol on `listener`.
///
/// The future is the server; it ends after [`Server::handle`] was told to stop.
///
/// # Errors
///
/// What the operating system said of the listener.
pub fn serve(state: &Data<AppState>, listener: TcpListener, limits: Limits) -> io::Result<Server> {
    let workers = limits.workers.max(1);
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(limits.connections_max.div_ceil(workers))
        .shutdown_timeout(limits.drain_timeout.as_secs().max(1))
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    let state = state.clone();
    let connections = move || {
        let (state, stopping) = (state.clone(), stopping.clone());
        fn_factory(move || new_worker(state.clone(), stopping.clone()))
    };
    Ok(builder.listen("proxy", listener, connections)?.run())
}

/// Makes what serves the connections of one HTTP worker, on its thread.
async fn new_worker(
    state: Data<AppState>,
    stopping: GracefulShutdownSignal,
) -> Result<impl Service<TcpStream, Response = (), Error = Infallible>, ()> {
    let worker = Rc::new(Worker {
        library: library(state.clone(), stopping.clone()).await?,
        state,
        dates: ServiceConfig::default(),
        head: RefCell::new(BytesMut::with_capacity(ANSWER_HEAD_BYTES)),
    });
    Ok(fn_service(move |stream: TcpStream| {
        let (worker, stopping) = (Rc::clone(&worker), stopping.clone());
        async move {
            connection::serve(worker, stream, stopping.notified()).await;
            Ok(())
        }
    }))
}

/// Makes actix-http serve connections with the one handler there is, which reads the path itself.
async fn library(state: Data<AppState>, stopping: GracefulShutdownSignal) -> Result<Library, ()> {
    let handler = fn_service(move |request: Request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(handlers::proxy(request, &state).await) }
    });
    let dispatchers = HttpService::<PassedOn, _, _>::build()
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(REQUEST_HEAD_TIMEOUT)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .graceful_shutdown_signal(move || {
            let stopping = stopping.clone();
            async move { stopping.notified().await }
        })
        .h1(handler)
        .new_service(())
        .await?;
    Ok(Box::new(move |connection| {
        Box::pin(dispatchers.call((connection, None)))
    }))
}
