//! The internal listener: what instances of a fleet answer each other.
//!
//! | question | answer |
//! |---|---|
//! | `GET /internal/v1/fills?unit=U&token=T&from=N` | 200 and the bytes of that fill from N on, while they arrive; 204: nothing to stream, wait for the release; 404: no fill runs here under that grant |
//! | `POST /internal/v1/grants` `{"tokens":["T",…]}` | 200 `{"unknown":["T",…]}`: those that are no live grants of this instance |
//!
//! Both sides prove that they know the fleet's secret; [`storage::FleetSecret`] and its module say
//! how. Without proof the answer is 401, and 503 as long as there is no secret here. An answer
//! without a signature says nothing to the other side.

mod fills;
mod grants;
mod proof;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};
use storage::{FleetSecret, KnowsGrants, Warmer};

/// Threads that answer: relays are copies from memory to sockets.
const WORKERS: usize = 2;

/// Connections that are open at once, both threads together.
const CONNECTIONS_MAX: usize = 8_192;

/// How long an idle connection is kept for its follower's next question.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a follower may take to send a question's head.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// What the internal listener answers from.
#[derive(Clone)]
pub struct Internal {
    /// The fills of this instance.
    pub warmer: Arc<Warmer>,
    /// The grants that this instance may have in force.
    pub grants: Arc<dyn KnowsGrants>,
    /// The fleet's secret; it may be set later.
    pub secret: FleetSecret,
}

/// Serves on `listener`, which has to be bound before the first lease is asked for: the lease
/// carries its address.
///
/// The future is the server; it ends after [`Server::handle`] was told to stop. Stop it after the
/// last lease was released, or followers take this instance for dead while it is not.
///
/// # Errors
///
/// What the operating system said of the listener.
pub fn serve(internal: Internal, listener: TcpListener) -> io::Result<Server> {
    let internal = Data::new(internal);
    let server = HttpServer::new(move || App::new().configure(routes(internal.clone())))
        .workers(WORKERS)
        .max_connections(CONNECTIONS_MAX / WORKERS)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(QUESTION_TIMEOUT)
        .client_disconnect_timeout(Duration::from_secs(1))
        .shutdown_timeout(1)
        .disable_signals()
        .listen(listener)?;
    Ok(server.run())
}

fn routes(internal: Data<Internal>) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        config
            .app_data(internal)
            .app_data(web::PayloadConfig::new(grants::QUESTION_BYTES_MAX))
            .route("/internal/v1/fills", web::get().to(fills::get))
            .route("/internal/v1/grants", web::post().to(grants::post))
            .default_service(web::to(|| async { HttpResponse::NotFound().finish() }));
    }
}

#[cfg(test)]
mod tests;
