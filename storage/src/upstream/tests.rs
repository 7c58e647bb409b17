//! Upstreams against real loopback sockets.
#![allow(clippy::unwrap_used)]

mod faults;
mod lists;
mod mappings;
mod server;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;

use super::*;
use crate::error::ErrorKind;

const UNIT: &str = "example.com/m@v1.0.0.zip";
const PATH: &str = "example.com/m/@v/v1.0.0.zip";

/// Counts what it is told.
#[derive(Debug, Default)]
struct Counter {
    ended: Mutex<HashMap<&'static str, usize>>,
    levels: Mutex<(i64, i64)>,
}

impl FetchObserver for Counter {
    fn ended(&self, _upstream: &str, outcome: FetchOutcome) {
        *self
            .ended
            .lock()
            .unwrap()
            .entry(outcome.label())
            .or_default() += 1;
    }

    fn queued(&self, _upstream: &str, delta: i64) {
        self.levels.lock().unwrap().0 += delta;
    }

    fn in_flight(&self, _upstream: &str, delta: i64) {
        self.levels.lock().unwrap().1 += delta;
    }
}

impl Counter {
    /// All outcomes so far, sorted, for example `"ok 1, truncated 2"`.
    fn outcomes(&self) -> String {
        let ended = self.ended.lock().unwrap();
        let mut parts: Vec<String> = ended
            .iter()
            .map(|(label, count)| format!("{label} {count}"))
            .collect();
        parts.sort();
        parts.join(", ")
    }

    /// Queued and in flight.
    fn levels(&self) -> (i64, i64) {
        *self.levels.lock().unwrap()
    }
}

fn identity() -> UpstreamIdentity {
    UpstreamIdentity {
        via: Via::new("1.1 corral/test").unwrap(),
        user_agent: "corral/0.0.0".to_owned(),
    }
}

fn request() -> FetchRequest {
    FetchRequest::new(UNIT, PATH, 1 << 20)
}

fn upstream_with(url: &str, config: UpstreamConfig) -> (HttpUpstream, Arc<Counter>) {
    let counter = Arc::new(Counter::default());
    let observer: Arc<dyn FetchObserver> = Arc::clone(&counter) as _;
    let url = UpstreamUrl::parse(url).unwrap();
    (
        HttpUpstream::new(url, config, &identity(), observer).unwrap(),
        counter,
    )
}

fn upstream(url: &str) -> (HttpUpstream, Arc<Counter>) {
    upstream_with(url, UpstreamConfig::default())
}

/// Limits short enough to be met in a test.
fn impatient() -> UpstreamConfig {
    UpstreamConfig {
        first_byte_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(300),
        ..UpstreamConfig::default()
    }
}

/// Reads the body to its end: the bytes so far, and the error if it broke.
async fn read(fetched: Fetched) -> (Vec<u8>, Result<(), Error>) {
    let FetchedBody::Modified(mut body) = fetched.body else {
        panic!("the answer has no body");
    };
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => {
                assert!(body.next().await.is_none(), "nothing comes after an error");
                return (bytes, Err(error));
            }
        }
    }
    (bytes, Ok(()))
}

/// Fetches and reads everything.
async fn fetch_all(upstream: &impl Upstream, request: &FetchRequest) -> Result<Vec<u8>, Error> {
    let (bytes, end) = read(upstream.fetch(request).await?).await;
    end.map(|()| bytes)
}
