//! The upstream of an instance that must not ask anybody.

use async_trait::async_trait;

use super::{FetchRequest, Fetched, Upstream};
use crate::error::Error;

/// Refuses every fetch without a connection; what is stored is all there is.
#[derive(Debug, Clone, Copy)]
pub struct OfflineUpstream;

#[async_trait]
impl Upstream for OfflineUpstream {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, Error> {
        Err(Error::NotStored {
            unit: request.unit.clone(),
            fetch_disabled: true,
        })
    }
}
