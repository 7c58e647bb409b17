//! Sends finished spans to an OTLP collector, in batches, off every worker thread.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_otlp::{ExporterBuildError, Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::config::SecretUrl;

/// Longest that one batch may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the exporter could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The runtime for its requests could not be started.
    #[error("cannot start a runtime for it")]
    Runtime(#[source] std::io::Error),
    /// Its HTTP client could not be built.
    #[error("cannot build its HTTP client")]
    Client(#[source] reqwest::Error),
    /// The exporter refused its settings.
    #[error("cannot build the exporter")]
    Exporter(#[source] ExporterBuildError),
}

/// A tracer provider that sends to a collector, and the runtime its requests run on.
pub(super) struct Traces {
    provider: SdkTracerProvider,
    runtime: Runtime,
}

impl Traces {
    /// Starts sending to the collector at `endpoint`; no connection is made before a span ends.
    pub(super) fn start(endpoint: &SecretUrl) -> Result<Self, ExportError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(ExportError::Runtime)?;
        let client = reqwest::Client::builder().timeout(EXPORT_TIMEOUT).build();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client.map_err(ExportError::Client)?)
            .with_protocol(Protocol::HttpJson)
            .with_endpoint(traces_url(endpoint.expose()))
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(ExportError::Exporter)?;
        let exporter = OnRuntime {
            exporter: Arc::new(exporter),
            runtime: runtime.handle().clone(),
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(super::resource())
            .build();
        Ok(Self { provider, runtime })
    }

    /// The provider that layers take their tracers from.
    pub(super) fn provider(&self) -> &SdkTracerProvider {
        &self.provider
    }

    /// Sends what is left, for at most `timeout`.
    pub(super) fn shutdown(self, timeout: Duration) {
        // A collector that is away at the end is no reason to end with an error.
        let _ = self.provider.shutdown_with_timeout(timeout);
        self.runtime.shutdown_background();
    }
}

/// The endpoint for traces under a collector's base URL.
///
/// Source: OpenTelemetry Protocol Exporter specification, "Endpoint URLs for OTLP/HTTP".
fn traces_url(base: &str) -> String {
    let base = base.trim_end_matches('/');
    if base.ends_with("/v1/traces") {
        base.to_owned()
    } else {
        format!("{base}/v1/traces")
    }
}

/// Runs another exporter's requests on a runtime.
///
/// The batch processor calls its exporter on a bare thread, where the asynchronous HTTP client
/// finds no reactor.
#[derive(Debug)]
struct OnRuntime {
    exporter: Arc<opentelemetry_otlp::SpanExporter>,
    runtime: Handle,
}

impl SpanExporter for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = Arc::clone(&self.exporter);
        let export = self
            .runtime
            .spawn(async move { exporter.export(batch).await });
        export
            .await
            .map_err(|error| OTelSdkError::InternalFailure(error.to_string()))?
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Called once, before the first batch, so nobody else holds the exporter.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}
