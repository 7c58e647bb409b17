//! A server of this crate's own parts for tests of the admin API: no socket, no upstream.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use actix_web::body::BoxBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::header::HOST;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::web::Data;
use actix_web::{App, HttpMessage};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use lease::{Records, TokioClock};
use serde_json::Value;
use tempfile::TempDir;

use super::auth::AdminAccess;
use crate::build::{self, Built};
use crate::config::{Config, Environment, Flags, Loaded};
use crate::state::AppState;

/// One instance's state behind the routes of the admin listener.
pub(crate) struct Scene {
    pub(crate) state: Data<AppState>,
    pub(crate) access: AdminAccess,
    config: Config,
    _dir: TempDir,
}

/// An offline instance with a store in memory.
pub(crate) async fn scene() -> Scene {
    scene_with(&[]).await
}

/// The same with these `--set` assignments.
pub(crate) async fn scene_with(set: &[&str]) -> Scene {
    scene_in(tempfile::tempdir().unwrap(), set).await
}

/// The same with its spool in `spool` below `dir`, where there may be something already.
pub(crate) async fn scene_in(dir: TempDir, set: &[&str]) -> Scene {
    let spool = format!("spool.dir={}", dir.path().join("spool").display());
    let base = ["offline=true", "storage=memory://", &spool];
    let flags = Flags {
        set: base
            .iter()
            .chain(set)
            .map(|text| (*text).to_owned())
            .collect(),
        ..Flags::default()
    };
    let Loaded { config, .. } = Loaded::read(&flags, &Environment::of([])).unwrap();
    let fills = tokio::runtime::Handle::current();
    // Boxed, as below.
    let built = build::state(&config, Value::Null, &fills).boxed_local();
    let Built { state, access, .. } = built.await.unwrap();
    Scene {
        state: Data::new(state),
        access,
        config,
        _dir: dir,
    }
}

impl Scene {
    /// The records as the warmer has them: shared, with this process's own behind them.
    pub(crate) fn records(&self) -> Arc<dyn Records> {
        let (fleet, clock) = (self.state.fleet.as_deref(), Arc::new(TokioClock) as _);
        let observer = self.state.valkey_metrics.clone();
        let made = build::coordination(&self.config, fleet, &clock, observer);
        made.unwrap().records
    }

    /// The answer to a request that calls the listener by a name of its own, if none is given.
    ///
    /// Boxed: the types of actix's services are too deep to be nested further.
    pub(crate) fn call(
        &self,
        request: TestRequest,
    ) -> LocalBoxFuture<'_, ServiceResponse<BoxBody>> {
        async move {
            let app = App::new()
                .app_data(self.state.clone())
                .app_data(Data::new(self.access.clone()))
                .configure(super::routes);
            let app = init_service(app).await;
            let mut request = request.to_request();
            if !request.headers().contains_key(HOST) {
                let host = "localhost:8071".parse().unwrap();
                request.headers_mut().insert(HOST, host);
            }
            call_service(&app, request).await.map_into_boxed_body()
        }
        .boxed_local()
    }

    /// Status and body of what can be read at `target`.
    pub(crate) async fn get(&self, target: &str) -> (u16, Value) {
        self.json(TestRequest::get().uri(target)).await
    }

    /// Status and body of an answer; a body that is no JSON as a string.
    pub(crate) async fn json(&self, request: TestRequest) -> (u16, Value) {
        let answer = self.call(request).await;
        let status = answer.status().as_u16();
        let body = read_body(answer).await;
        let text = String::from_utf8(body.to_vec()).unwrap();
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (status, value)
    }
}
