//! Log lines on stderr, and traces to a collector if one is configured.

mod export;
mod lines;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanExporter};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::{EnvFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::{LogConfig, LogFormat, OtlpConfig};
pub use export::ExportError;
use lines::LineWriter;

/// Span field: what the cache did, as in `Cache-Status`, e.g. `hit`.
pub const CACHE_STATUS: &str = "cache_status";
/// Span field: the artifact's key.
pub const CACHE_KEY: &str = "cache_key";
/// Span field: how long a document stays fresh, in milliseconds; negative when stale.
pub const CACHE_TTL_REMAINING_MS: &str = "cache_ttl_remaining_ms";

/// How long the last lines and spans may take to get out at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The workspace's own crates: only their spans are traced, or the exporter's HTTP client
/// would trace its own requests for ever.
const TRACED: [&str; 4] = ["corral", "server", "storage", "lease"];

/// Why logs or traces could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// `log.level` is no list of directives.
    #[error("cannot read log.level")]
    Level(#[source] ParseError),
    /// The exporter for `otlp.endpoint` cannot be built.
    #[error("cannot set up traces to otlp.endpoint")]
    Export(#[source] ExportError),
    /// Something else in this process has taken the global subscriber.
    #[error("logs are already set up")]
    Taken,
}

/// Keeps logs and traces running; dropping it flushes both.
#[must_use = "dropping it ends traces"]
pub struct Telemetry {
    lines: LineWriter,
    traces: Option<export::Traces>,
}

impl Telemetry {
    /// Installs the global subscriber of this process.
    ///
    /// Lines are queued and written by a thread of their own, so a slow stderr slows no worker;
    /// when the queue is full, lines are dropped and counted. Without `otlp.endpoint` no trace
    /// layer is installed and spans cost next to nothing.
    ///
    /// # Errors
    ///
    /// [`TelemetryError`]: nothing is installed; print the chain and stop.
    pub fn install(log: &LogConfig, otlp: &OtlpConfig) -> Result<Self, TelemetryError> {
        let json = match log.format {
            LogFormat::Json => true,
            LogFormat::Pretty => false,
            LogFormat::Auto => !std::io::stderr().is_terminal(),
        };
        let lines = LineWriter::start(std::io::stderr(), json);
        // The HTTP library logs every client that goes away or sends garbage, and every body that
        // ends in an error, as errors of its own: nobody's failure, or one that is told already.
        let levels = EnvFilter::builder()
            .parse(format!("actix_server=off,actix_http=off,{}", log.level))
            .map_err(TelemetryError::Level)?;
        let traces = otlp
            .endpoint
            .as_ref()
            .map(export::Traces::start)
            .transpose();
        let traces = traces.map_err(TelemetryError::Export)?;
        let trace_layer = traces.as_ref().map(|traces| trace_layer(traces.provider()));
        tracing_subscriber::registry()
            .with(line_layer(lines.clone(), json).with_filter(levels))
            .with(trace_layer)
            .try_init()
            .map_err(|_| TelemetryError::Taken)?;
        Ok(Self { lines, traces })
    }

    /// Gets the last spans and lines out, for at most a few seconds; then logs go nowhere.
    ///
    /// Blocks: call it outside the asynchronous runtime. Calling it again does nothing.
    pub fn shutdown(&mut self) {
        if let Some(traces) = self.traces.take() {
            traces.shutdown(SHUTDOWN_TIMEOUT);
        }
        self.lines.flush(SHUTDOWN_TIMEOUT);
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// A layer that writes one line per event: JSON for programs, coloured text for people.
fn line_layer<S>(lines: LineWriter, json: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // The default timer writes RFC 3339 in UTC.
    let layer = fmt::layer().with_writer(lines);
    match json {
        true => layer
            .with_ansi(false)
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
        false => layer
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .boxed(),
    }
}

/// A layer that hands finished spans to `exporter` at once, and the provider to shut down.
///
/// Made for exporters in memory; [`Telemetry::install`] batches what goes over the network.
pub fn tracer_layer<S, E>(exporter: E) -> (impl Layer<S> + Send + Sync, SdkTracerProvider)
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    E: SpanExporter + 'static,
{
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter)
        .with_resource(resource());
    let provider = provider.build();
    (trace_layer(&provider), provider)
}

fn trace_layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let layer: OpenTelemetryLayer<S, SdkTracer> =
        tracing_opentelemetry::layer().with_tracer(provider.tracer("corral"));
    let traced = Targets::new().with_targets(TRACED.map(|target| (target, LevelFilter::INFO)));
    layer.with_filter(traced)
}

/// What this process calls itself in traces.
fn resource() -> Resource {
    Resource::builder_empty()
        .with_service_name("corral")
        .with_attribute(opentelemetry::KeyValue::new(
            "service.version",
            env!("CARGO_PKG_VERSION"),
        ))
        .build()
}
