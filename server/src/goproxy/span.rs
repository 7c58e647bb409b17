//! The trace span of one answered request.
//!
//! Lasts from the parsed request to the answer's head; a body that is still arriving then belongs
//! to the fill. Costs nothing where no exporter is configured.

use std::time::Duration;

use storage::ArtifactKey;
use tracing::Span;
use tracing::field::Empty;

use crate::telemetry::{CACHE_KEY, CACHE_STATUS, CACHE_TTL_REMAINING_MS};

/// A request's span, if spans are exported.
pub(super) struct RequestSpan(Option<Span>);

impl RequestSpan {
    /// Begins the span of a request for `key`.
    pub(super) fn begin(is_exported: bool, key: &ArtifactKey) -> Self {
        Self(is_exported.then(|| {
            let span = tracing::info_span!(
                target: "corral::request",
                "request",
                cache_status = Empty,
                cache_key = Empty,
                cache_ttl_remaining_ms = Empty,
            );
            span.record(CACHE_KEY, tracing::field::display(key));
            span
        }))
    }

    /// Ends the span with what the cache did; a stale document's time is negative.
    pub(super) fn end(
        self,
        cache_status: &'static str,
        ttl: Option<Duration>,
        stale_for: Option<Duration>,
    ) {
        let Some(span) = self.0 else { return };
        let in_ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        span.record(CACHE_STATUS, cache_status);
        match (ttl, stale_for) {
            (_, Some(stale_for)) => {
                span.record(CACHE_TTL_REMAINING_MS, -in_ms(stale_for));
            }
            (Some(ttl), None) => {
                span.record(CACHE_TTL_REMAINING_MS, in_ms(ttl));
            }
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use opentelemetry::Value;
    use opentelemetry_sdk::trace::InMemorySpanExporter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::goproxy::path::{Target, parse};
    use crate::telemetry::tracer_layer;

    fn key(path: &str) -> ArtifactKey {
        match parse(path).unwrap() {
            Target::Artifact(key) => key,
            Target::Landing => panic!("{path} is no artifact"),
        }
    }

    // acceptance: A12
    #[test]
    fn each_status_has_its_attributes() {
        let exporter = InMemorySpanExporter::default();
        let (layer, provider) = tracer_layer(exporter.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        let (list, zip) = (
            key("/example.com/m/@v/list"),
            key("/example.com/m/@v/v1.0.0.zip"),
        );
        let seconds = Duration::from_secs;
        tracing::subscriber::with_default(subscriber, || {
            RequestSpan::begin(true, &zip).end("hit", None, None);
            RequestSpan::begin(true, &zip).end("miss", None, None);
            RequestSpan::begin(true, &list).end("hit_stored", Some(seconds(7)), None);
            RequestSpan::begin(true, &list).end("stale", Some(seconds(0)), Some(seconds(3)));
            RequestSpan::begin(false, &list).end("hit", None, None);
        });
        provider.force_flush().unwrap();
        let attribute = |name: &'static str| {
            let spans = exporter.get_finished_spans().unwrap();
            let value = |span: &opentelemetry_sdk::trace::SpanData| {
                let found = span
                    .attributes
                    .iter()
                    .find(|pair| pair.key.as_str() == name);
                found.map(|pair| pair.value.clone())
            };
            spans.iter().map(value).collect::<Vec<_>>()
        };
        let text = |text: &'static str| Some(Value::from(text));
        assert_eq!(
            attribute(CACHE_STATUS),
            [text("hit"), text("miss"), text("hit_stored"), text("stale")]
        );
        assert_eq!(attribute(CACHE_KEY)[2], text("example.com/m@list"));
        assert_eq!(
            attribute(CACHE_TTL_REMAINING_MS),
            [
                None,
                None,
                Some(Value::I64(7_000)),
                Some(Value::I64(-3_000))
            ]
        );
    }
}
