//! What waits to be tried again, as the admin listener tells and changes it.

use super::Corral;
use crate::client::{Reply, Request};
use crate::wait;

/// The most items that one page of a list has.
const PAGE: usize = 1000;

/// Pages that are read at most: more jobs than a queue takes.
const PAGES_MAX: usize = 100;

impl Corral {
    /// The jobs that wait or are being worked on.
    pub async fn jobs(&self) -> Vec<serde_json::Value> {
        self.all_items("/admin/v1/retries").await
    }

    /// The jobs that were given up.
    pub async fn dead_jobs(&self) -> Vec<serde_json::Value> {
        self.all_items("/admin/v1/dead").await
    }

    /// The one job that waits or is being worked on.
    ///
    /// # Panics
    ///
    /// When there is none, or more than one.
    pub async fn only_job(&self) -> serde_json::Value {
        let mut jobs = self.jobs().await;
        assert_eq!(jobs.len(), 1, "not exactly one job: {jobs:#?}");
        jobs.remove(0)
    }

    /// Waits until exactly so many jobs wait or are being worked on.
    ///
    /// # Panics
    ///
    /// After [`wait::PATIENCE`].
    pub async fn has_jobs(&self, count: usize) {
        let what = format!("{count} jobs are there");
        wait::until(&what, wait::PATIENCE, async || {
            self.jobs().await.len() == count
        })
        .await;
    }

    /// Orders a job's next attempt to be made now.
    pub async fn run_job(&self, id: &str) -> Reply {
        let path = format!("/admin/v1/retries/{}/run", encoded(id));
        self.order("POST", &path).await
    }

    /// Orders all jobs that wait to be made now; those that are being worked on stay as they are.
    pub async fn run_all_jobs(&self) {
        let order = Request::new("POST", "/admin/v1/retries/run").body(r#"{"all": true}"#);
        meant(order).send(self.admin_addr()).await;
    }

    /// Sends an order to the admin listener, with the header that says it is meant.
    pub async fn order(&self, method: &str, path: &str) -> Reply {
        meant(Request::new(method, path))
            .send(self.admin_addr())
            .await
    }

    async fn all_items(&self, list: &str) -> Vec<serde_json::Value> {
        let mut items = Vec::new();
        let mut after = String::new();
        for _ in 0..PAGES_MAX {
            let page = self
                .admin_json(&format!("{list}?limit={PAGE}&after={after}"))
                .await;
            let its = page["items"].as_array();
            items.extend(
                its.unwrap_or_else(|| panic!("{list} is no list: {page}"))
                    .clone(),
            );
            match page["next"].as_str() {
                Some(next) => after = encoded(next),
                None => return items,
            }
        }
        panic!("{list} has no end");
    }
}

/// Adds the header without which nothing is changed.
fn meant(order: Request) -> Request {
    order
        .header("Corral-Action", "1")
        .header("Content-Type", "application/json")
}

/// Percent-encodes everything that is not plain in a path.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if plain(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
