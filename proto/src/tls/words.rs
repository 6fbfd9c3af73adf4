//! Texts for connection errors that say what to do. "It" is the other end.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{AlertDescription, CertificateError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::Status;

/// First byte of a TLS alert. No HTTP/2 server starts with it: its first frame is short.
const ALERT: u8 = 0x15;

/// Returns the same error with the reason as a text.
pub fn in_words(error: &io::Error) -> io::Error {
    let reason = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => of_tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection during the TLS handshake".to_owned()
        }
        None => error.to_string(),
    };
    io::Error::new(error.kind(), reason)
}

fn of_tls(error: &rustls::Error) -> String {
    use rustls::Error;
    match error {
        Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        Error::NoCertificatesPresented => "it showed no certificate".to_owned(),
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::AlertReceived(alert) => of_alert(*alert),
        error => error.to_string(),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    use CertificateError::*;
    match error {
        UnknownIssuer | BadSignature => "its certificate is not signed by a trusted CA".to_owned(),
        Expired | ExpiredContext { .. } => "its certificate has expired".to_owned(),
        NotValidYet | NotValidYetContext { .. } => "its certificate is not valid yet".to_owned(),
        NotValidForName => "its certificate is for another name".to_owned(),
        NotValidForNameContext { expected, presented } => {
            format!("its certificate is not for {} but for {}", expected.to_str(), presented.join(", "))
        }
        InvalidPurpose | InvalidPurposeContext { .. } => {
            "its certificate is not for this use: a member's needs serverAuth and clientAuth".to_owned()
        }
        other => format!("its certificate is rejected: {other}"),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    use AlertDescription::*;
    match alert {
        CertificateRequired => "it asks for a certificate, and none was shown".to_owned(),
        UnknownCA | DecryptError => "it does not trust the CA of the certificate shown to it".to_owned(),
        CertificateExpired => "it says that the certificate shown to it has expired".to_owned(),
        BadCertificate | UnsupportedCertificate | CertificateUnknown | CertificateRevoked | AccessDenied => {
            format!("it rejects the certificate shown to it ({alert:?})")
        }
        other => format!("it ended the TLS handshake ({other:?})"),
    }
}

/// Returns the text of the innermost cause: "Connection refused" says more than "transport error".
pub fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Returns the reason of a failed call: the server's message, or the innermost cause if there was no answer.
pub fn why(status: &Status) -> String {
    match status.source() {
        Some(source) => innermost(source),
        None => status.message().to_owned(),
    }
}

/// A connection without TLS that detects an answer with TLS.
pub struct Plain<S> {
    stream: S,
    /// Whether the first byte was received.
    heard: bool,
}

impl<S> Plain<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, heard: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Plain<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if !self.heard
            && let Some(first) = buffer.filled().get(before)
        {
            self.heard = true;
            if *first == ALERT {
                return Poll::Ready(Err(io::Error::other(
                    "it speaks TLS only, and this connection has none",
                )));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
