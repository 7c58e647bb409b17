//! A server of this crate's own parts for tests of the admin API: no socket, no upstream.

#![allow(clippy::unwrap_used)]

use actix_web::body::BoxBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::header::HOST;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::web::Data;
use actix_web::{App, HttpMessage};
use serde_json::Value;
use tempfile::TempDir;

use super::auth::AdminAccess;
use crate::build::{self, Built};
use crate::config::{Config, SecretUrl};
use crate::state::AppState;

/// One instance's state behind the routes of the admin listener.
pub(crate) struct Scene {
    pub(crate) state: Data<AppState>,
    pub(crate) access: AdminAccess,
    _dir: TempDir,
}

/// An offline instance with a store in memory.
pub(crate) async fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config {
        offline: true,
        storage: SecretUrl::new("memory://"),
        ..Config::default()
    };
    config.spool.dir = dir.path().join("spool");
    let fills = tokio::runtime::Handle::current();
    let Built { state, access } = build::state(&config, Value::Null, &fills).await.unwrap();
    Scene {
        state: Data::new(state),
        access,
        _dir: dir,
    }
}

impl Scene {
    /// The answer to a request that calls the listener by a name of its own, if none is given.
    pub(crate) async fn call(&self, request: TestRequest) -> ServiceResponse<BoxBody> {
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
