//! Spans and their exporter. It is configured by OpenTelemetry's standard variables: OTEL_EXPORTER_OTLP_ENDPOINT and
//! so on.

use std::fmt::Debug;
use std::sync::OnceLock;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Instrument as _, Subscriber, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// Target of all spans of this module; the log leaves it out.
pub const TARGET: &str = "helios_trace";

/// Variables of the environment that enable the exporter; one of them is enough.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Span of one part of a request. It ends when it is dropped.
#[derive(Debug, Clone)]
pub struct Span {
    parent: tracing::Span,
    current: tracing::Span,
}

impl Span {
    /// Root span of a request that a port received, of kind `server`; a child of the client's `traceparent`, if there is one.
    pub fn server(name: &dyn Debug, headers: &HeaderMap) -> Self {
        let current = client_call(&format!("{name:?}"), headers);
        Self { parent: tracing::Span::none(), current }
    }

    /// Child of the task's current span.
    pub fn begin(name: &'static str) -> Self {
        let mut span = Self { parent: tracing::Span::current(), current: tracing::Span::none() };
        span.next(name);
        span
    }

    /// Ends this span and begins its next sibling.
    pub fn next(&mut self, name: &'static str) {
        self.current = info_span!(target: TARGET, parent: &self.parent, "part", otel.name = name);
    }

    /// Runs `work` in this span; spans that begin in `work` are its children.
    pub fn around<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        work.instrument(self.current)
    }
}

/// Root span of a gRPC call, for tonic; see [`Span::server`].
pub fn client_call(name: &str, headers: &HeaderMap) -> tracing::Span {
    let span = info_span!(target: TARGET, parent: None, "request", otel.name = name, otel.kind = "server");
    // Fails only if no exporter is installed.
    drop(span.set_parent(TraceContextPropagator::new().extract(&Headers(headers))));
    span
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// Layer that exports the spans, if the environment names a collector. Must be called within a tokio runtime.
pub fn layer<S>() -> Option<impl Layer<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    ENDPOINTS.iter().find(|name| std::env::var_os(name).is_some())?;
    let exporter = SpanExporter::builder().with_tonic().build();
    let exporter =
        exporter.inspect_err(|error| eprintln!("no traces are sent: OTEL_EXPORTER_OTLP_*: {error}")).ok()?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name("heliosd").build())
        .build();
    let tracer = provider.tracer("heliosd");
    drop(PROVIDER.set(provider));
    let ours = filter_fn(|metadata| metadata.target() == TARGET);
    Some(tracing_opentelemetry::layer().with_tracer(tracer).with_filter(ours))
}

/// Flushes the exporter at the end of the process.
pub fn finish() {
    if let Some(Err(error)) = PROVIDER.get().map(SdkTracerProvider::shutdown) {
        tracing::warn!(%error, "the last traces were not sent");
    }
}
