//! The members' port with mutual TLS.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use futures::channel::mpsc;
use helios_operator::security::certificates::{AUTHORITY, CERTIFICATE, KEY};
use helios_proto::tls::{ALPN_HTTP2, certificates, private_key, roots};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Shows and trusts what a member's Secret holds.
pub fn acceptor(secret: &BTreeMap<String, Vec<u8>>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trusted = Arc::new(roots(&secret[AUTHORITY]).unwrap());
    let verifier = WebPkiClientVerifier::builder_with_provider(trusted, provider.clone()).build().unwrap();
    let (chain, key) = (certificates(&secret[CERTIFICATE]).unwrap(), private_key(&secret[KEY]).unwrap());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Connections whose handshake is over.
pub fn connections(
    listener: TcpListener,
    acceptor: TlsAcceptor,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let (sender, receiver) = mpsc::unbounded();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    drop(sender.unbounded_send(Ok(Connection(stream))));
                }
            });
        }
    });
    receiver
}

/// For tonic, which has its own TLS only as a feature that nobody here uses.
pub struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
