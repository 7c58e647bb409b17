//! Checksum databases that are asked at an address of their own instead of through the upstream.
//!
//! Source: Go design 25530, "Proxying a checksum database".

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use crate::error::Error;
use crate::upstream::{CacheControl, FetchRequest, Fetched, FetchedBody, Upstream};

/// An upstream that sends requests for some databases elsewhere.
#[derive(Debug)]
pub struct SumdbRelay {
    /// Name of a database and where it is.
    databases: Vec<(String, Arc<dyn Upstream>)>,
    rest: Arc<dyn Upstream>,
}

impl SumdbRelay {
    /// Sends requests below `sumdb/{name}/` to that database's own address, others to `rest`.
    pub fn new(databases: Vec<(String, Arc<dyn Upstream>)>, rest: Arc<dyn Upstream>) -> Self {
        Self { databases, rest }
    }
}

#[async_trait]
impl Upstream for SumdbRelay {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, Error> {
        let own = request.path.strip_prefix("sumdb/").and_then(|path| {
            self.databases.iter().find_map(|(name, database)| {
                let path = path.strip_prefix(name.as_str())?.strip_prefix('/')?;
                Some((database, path))
            })
        });
        let Some((database, path)) = own else {
            return self.rest.fetch(request).await;
        };
        if path == "supported" {
            // A database does not answer this itself: that it is configured here is the answer.
            return Ok(Fetched {
                upstream: Arc::from("sumdb.proxied"),
                body: FetchedBody::Modified(
                    futures::stream::empty::<Result<Bytes, Error>>().boxed(),
                ),
                len: Some(0),
                etag: None,
                last_modified: None,
                cache_control: CacheControl::default(),
                content_type: None,
                resumed: false,
            });
        }
        let request = FetchRequest {
            path: path.to_owned(),
            ..request.clone()
        };
        database.fetch(&request).await
    }
}
