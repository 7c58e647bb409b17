//! A real admin listener on a port of its own, for tests of the commands that ask one.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use actix_web::{App, HttpServer};
use clap::Parser;

use super::remembered::Class;
use super::session::Console;
use super::{Cli, Command};
use crate::admin;
use crate::admin::testing::{Scene, scene};
use crate::config::{ClientSettings, Secret};

/// An admin listener over leases, records and jobs of one process.
pub(crate) struct Listener {
    pub(crate) scene: Scene,
    /// The token that commands send.
    pub(crate) token: Option<Secret>,
    addr: SocketAddr,
    server: ServerHandle,
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Listener {
    pub(crate) async fn start(change: impl FnOnce(&mut Scene)) -> Self {
        let mut scene = scene().await;
        change(&mut scene);
        let (state, access) = (scene.state.clone(), Data::new(scene.access.clone()));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(state.clone())
                .app_data(access.clone())
                .configure(admin::routes)
        })
        .workers(1)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .unwrap();
        let addr = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Self {
            scene,
            token: None,
            addr,
            server: handle,
        }
    }

    pub(crate) async fn stop(&self) {
        self.server.stop(false).await;
    }

    /// Runs `corral` with the words of `line`.
    pub(crate) async fn run(&self, line: &str) -> Ran {
        self.answering(line, None).await
    }

    /// The same; `answer` is what a person types, if there is one.
    pub(crate) async fn answering(&self, line: &str, answer: Option<&str>) -> Ran {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let words = std::iter::once("corral").chain(line.split_whitespace());
        let command = Cli::try_parse_from(words).unwrap().command;
        let settings = ClientSettings {
            admin: format!("http://{}", self.addr),
            token: self.token.clone(),
            colours: true,
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console {
            out: &mut out,
            err: &mut err,
            input: &mut answer.unwrap_or_default().as_bytes(),
            is_rich: false,
            width: None,
            can_ask: answer.is_some(),
        };
        let console = &mut console;
        let ran = match &command {
            Command::Leases(args) => super::leases::ask(args, &settings, console).await,
            Command::Retries(args) => super::retries::ask(args, &settings, console).await,
            Command::Dead(args) => super::dead::ask(args, &settings, console).await,
            Command::Negatives(args) => {
                super::remembered::ask(Class::Negatives, args, &settings, console).await
            }
            Command::Failures(args) => {
                super::remembered::ask(Class::Failures, args, &settings, console).await
            }
            other => panic!("{other:?} asks no server"),
        };
        Ran {
            code: ran.unwrap(),
            out: String::from_utf8(out).unwrap(),
            err: String::from_utf8(err).unwrap(),
        }
    }
}
