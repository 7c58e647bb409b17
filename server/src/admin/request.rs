//! What the listings of the admin API have in common: which page, which name, and the answer's
//! shape.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse};
use lease::LeaseError;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use crate::state::Scope;

/// How many items a page has unless the request says so.
const LIMIT_DEFAULT: usize = 100;

/// Which items to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only names with this text in them, literally.
    pub(super) filter: Option<String>,
    /// Only names after this one: `next` of the page before.
    after: Option<String>,
    /// The most items, moved into 1 ..= 1,000; 100 when left out.
    limit: Option<usize>,
}

impl ListQuery {
    /// The name to go on after, made by `parse`; an empty one is none.
    pub(super) fn after<T>(
        &self,
        parse: impl FnOnce(String) -> Result<T, LeaseError>,
    ) -> Result<Option<T>, LeaseError> {
        let after = self.after.clone().filter(|after| !after.is_empty());
        after.map(parse).transpose()
    }

    /// The most items of the page.
    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT_DEFAULT)
    }
}

/// A page of a listing, in the order of the names' bytes.
#[derive(Debug, Serialize)]
pub(super) struct Page<T> {
    pub(super) scope: Scope,
    pub(super) items: Vec<T>,
    /// What to send as `after` for the next page; `null` on the last.
    pub(super) next: Option<String>,
}

/// Answers with one item.
pub(super) fn one<T: Serialize>(scope: Scope, item: T) -> HttpResponse {
    #[derive(Serialize)]
    struct One<T> {
        scope: Scope,
        #[serde(flatten)]
        item: T,
    }
    HttpResponse::Ok().json(One { scope, item })
}

/// Reads the name from a path, where it stands percent-encoded behind `/admin/v1/{resource}/` and
/// before `behind`.
///
/// From the path as it was sent: a router decodes some characters and leaves others.
pub(super) fn name_in(
    request: &HttpRequest,
    resource: &str,
    behind: &str,
) -> Result<String, LeaseError> {
    let path = request.uri().path();
    let tail = path
        .strip_prefix("/admin/v1/")
        .and_then(|tail| tail.strip_prefix(resource)?.strip_prefix('/'))
        .unwrap_or_default();
    let name = tail.strip_suffix(behind).unwrap_or_default();
    let name = percent_decode_str(name).decode_utf8();
    let name = name.map_err(|_| LeaseError::InvalidKey {
        reason: "it is not UTF-8; percent-encode it once".to_owned(),
    })?;
    Ok(name.into_owned())
}

/// Who asks, for the log.
pub(super) fn remote(request: &HttpRequest) -> String {
    let address = request.peer_addr();
    address.map_or_else(|| "unknown".to_owned(), |address| address.ip().to_string())
}

/// A span of time as the API's JSON has it.
pub(super) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
