//! Spans, and where they are sent. The variables of OpenTelemetry's own SDKs apply: OTEL_EXPORTER_OTLP_ENDPOINT and so on.

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

/// Of all spans here, which the log leaves out.
pub const TARGET: &str = "helios_trace";

/// Any of these asks for traces.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// A part of a request. It ends when it is dropped.
#[derive(Debug, Clone)]
pub struct Span {
    parent: tracing::Span,
    current: tracing::Span,
}

impl Span {
    /// At a door: the child of what the client names in `traceparent`.
    pub fn door(name: &dyn Debug, headers: &HeaderMap) -> Self {
        let current = client_call(&format!("{name:?}"), headers);
        Self { parent: tracing::Span::none(), current }
    }

    /// A part of what is under way in this task.
    pub fn begin(name: &'static str) -> Self {
        let mut span = Self { parent: tracing::Span::current(), current: tracing::Span::none() };
        span.next(name);
        span
    }

    /// Ends this part and begins the one after it.
    pub fn next(&mut self, name: &'static str) {
        self.current = info_span!(target: TARGET, parent: &self.parent, "part", otel.name = name);
    }

    /// `work` as this part; what begins in it is part of it.
    pub fn around<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        work.instrument(self.current)
    }
}

/// As [`Span::door`], for tonic.
pub fn client_call(name: &str, headers: &HeaderMap) -> tracing::Span {
    let span = info_span!(target: TARGET, parent: None, "door", otel.name = name, otel.kind = "server");
    // Fails only where nobody takes spans.
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

/// Takes the spans, if the environment names a collector. Must be called within a tokio runtime.
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

/// Sends what waits; at the end of the process.
pub fn finish() {
    if let Some(Err(error)) = PROVIDER.get().map(SdkTracerProvider::shutdown) {
        tracing::warn!(%error, "the last traces were not sent");
    }
}
