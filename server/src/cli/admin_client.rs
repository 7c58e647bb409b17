//! The command line's side of the admin API: requests, and what their failures mean for a person.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use url::Url;

use crate::admin::auth::ACTION_HEADER;
use crate::config::{ClientSettings, Secret};

/// How long a connection to the admin listener may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an answer may take: a fleet's leases are read from servers that may be slow.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why a request brought no answer to work with; its text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The URL of the admin listener is none.
    #[error("{0}")]
    Url(String),
    /// No answer.
    #[error("{0}")]
    Unreachable(String),
    /// An answer that says no, or is none of the admin listener's.
    #[error("{message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its text and the next step, on one line.
        message: String,
        /// Its body, where that was JSON.
        body: Value,
    },
}

/// A client of one admin listener.
pub struct AdminClient {
    http: Client,
    base: Url,
    token: Option<Secret>,
}

impl AdminClient {
    /// Makes a client of the listener that `settings` name.
    ///
    /// # Errors
    ///
    /// [`AdminError::Url`]: not an `http://` or `https://` URL.
    pub fn new(settings: &ClientSettings) -> Result<Self, AdminError> {
        let given = &settings.admin;
        let text = match given.contains("://") {
            true => given.clone(),
            false => format!("http://{given}"),
        };
        let base = Url::parse(&text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                AdminError::Url(format!(
                    "{given:?} is no address of an admin listener; name one as --admin \
                     http://127.0.0.1:8071, or in CORRAL_ADMIN"
                ))
            })?;
        // No proxy and no redirect: the token goes to the listener that was named, or nowhere.
        let http = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("corral/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| AdminError::Url(chain(&error)))?;
        Ok(Self {
            http,
            base,
            token: settings.token.clone(),
        })
    }

    /// Reads `/admin/v1/` and `segments`, each of which is one part of the path whatever is in it.
    ///
    /// # Errors
    ///
    /// [`AdminError`]: print it.
    pub async fn get(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Value, AdminError> {
        let url = self.url(segments, query);
        self.send(self.http.request(Method::GET, url)).await
    }

    /// Posts `body` as an action.
    ///
    /// # Errors
    ///
    /// [`AdminError`]: print it.
    pub async fn act(&self, segments: &[&str], body: &Value) -> Result<Value, AdminError> {
        let request = self.http.request(Method::POST, self.url(segments, &[]));
        let request = request
            .header(ACTION_HEADER, "1")
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string());
        self.send(request).await
    }

    /// An answer that is JSON and yet not what was asked for.
    pub fn not_understood(&self) -> AdminError {
        AdminError::Unreachable(format!(
            "{} answers in a way that this version does not understand; use the corral of the \
             same version as the server",
            self.base.as_str().trim_end_matches('/')
        ))
    }

    fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("a URL with a host has a path")
            .pop_if_empty()
            .extend(["admin", "v1"])
            .extend(segments);
        url.set_query(None);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    async fn send(&self, mut request: RequestBuilder) -> Result<Value, AdminError> {
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let mut answer = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error))?
        {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(self.refused(status, "an answer that is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        match serde_json::from_slice::<Value>(&body) {
            Ok(value) if status.is_success() && value.is_object() => Ok(value),
            Ok(body) if !status.is_success() && body["error"].is_string() => {
                let message = body["error"].as_str().unwrap_or_default().to_owned();
                Err(AdminError::Refused {
                    status,
                    message,
                    body,
                })
            }
            _ => Err(self.refused(status, &String::from_utf8_lossy(&body))),
        }
    }

    /// What no answer means.
    fn unreachable(&self, error: &reqwest::Error) -> AdminError {
        let base = self.base.as_str().trim_end_matches('/');
        AdminError::Unreachable(match error.is_connect() {
            true => format!(
                "cannot reach an admin listener at {base}: {}; is corral running there? Name \
                 another with --admin URL or CORRAL_ADMIN",
                chain(error)
            ),
            false => format!(
                "no usable answer from {base}: {}; try again, or look at {base}/healthz",
                chain(error)
            ),
        })
    }

    /// What an answer means that is not the admin API's.
    fn refused(&self, status: StatusCode, text: &str) -> AdminError {
        let base = self.base.as_str().trim_end_matches('/');
        let line = text.lines().next().unwrap_or_default();
        let line: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
        let message = match status {
            StatusCode::UNAUTHORIZED if self.token.is_some() => format!(
                "{base} does not know this token; name the file that its admin.token_file names: \
                 --token-file FILE"
            ),
            StatusCode::UNAUTHORIZED => format!(
                "{base} wants a token; name the file that its admin.token_file names: \
                 --token-file FILE"
            ),
            StatusCode::FORBIDDEN => line,
            _ => format!(
                "{base} answered {status}: {line:?}; is that the admin listener (8071) of a \
                 corral of this version? Name it with --admin URL"
            ),
        };
        AdminError::Refused {
            status,
            message,
            body: Value::Null,
        }
    }
}

/// The innermost cause is what a person can act on; the layers above repeat each other.
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string().replace('\n', " ")
}
