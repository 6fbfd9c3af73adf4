//! Traces of a node built with `--features otel`, received by a collector in the test.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_prost::ProstCodec;

use super::common::{Cluster, eventually, http_with};

/// The part of OpenTelemetry's messages that the test reads.
#[derive(Clone, PartialEq, prost::Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfResource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(bytes, tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes, tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes, tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl NamedService for Collector {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl UnaryService<Export> for Collector {
    type Response = ();
    type Future = std::future::Ready<Result<tonic::Response<()>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Export>) -> Self::Future {
        let resources = request.into_inner().resources.into_iter();
        let spans = resources.flat_map(|resource| resource.scopes).flat_map(|scope| scope.spans);
        self.0.lock().unwrap().extend(spans);
        std::future::ready(Ok(tonic::Response::new(())))
    }
}

impl Service<http::Request<Body>> for Collector {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let collector = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(collector, request).await) })
    }
}

#[tokio::test]
async fn request_is_traced_from_gateway_to_apply_in_the_clients_trace() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serving = Server::builder().add_service(collector.clone());
    let serving = tokio::spawn(serving.serve_with_incoming(TcpIncoming::from(listener)));
    let mut cluster = Cluster::fixed_with(1, "");
    cluster[0].set_environment("OTEL_EXPORTER_OTLP_ENDPOINT", Path::new(&endpoint));
    cluster[0].set_environment("OTEL_BSP_SCHEDULE_DELAY", Path::new("50"));
    cluster.start_all();
    cluster.wait_ready().await;

    let headers = "content-type: application/json\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let body = r#"{"key":"k","value":"v"}"#;
    let (code, ..) = http_with(cluster[0].ports.gateway, "POST", "/put", headers, body).await.unwrap();
    assert_eq!(code, 200);
    let spans = eventually("the trace has arrived", async || {
        let spans = collector.0.lock().unwrap();
        let ours = spans.iter().filter(|span| span.trace_id.starts_with(&[0x0a, 0xf7, 0x65, 0x19]));
        let ours: Vec<_> = ours.cloned().collect();
        (ours.len() >= 4).then_some(ours)
    })
    .await;
    let named = |name: &str| {
        spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:?}"))
    };
    let (gateway_span, write) = (named("Put"), named("write"));
    assert_eq!(gateway_span.parent_span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    assert_eq!(write.parent_span_id, gateway_span.span_id);
    assert_eq!(named("propose").parent_span_id, write.span_id);
    assert_eq!(named("apply").parent_span_id, write.span_id);
    serving.abort();
}
