//! Both directions of one connection. A task that waits for input keeps sending unsent replies, and a task that
//! cannot send keeps reading: a client that writes a whole pipeline before it reads a reply must not deadlock.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use helios_service::idle::until;
use helios_service::tls::Stream;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::output::Output;

const READ_CHUNK_BYTES: usize = 32 * 1024;
/// Below this size in bytes, the unread rest of a chunk is copied, so that it does not keep the whole chunk in
/// memory.
const COPIED_BYTES: usize = 4 * 1024;
/// Time, and bytes, for which a rejected client may keep sending before it is disconnected.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 16 * 1024 * 1024;

pub struct Wire {
    stream: Stream,
    pub input: BytesMut,
    pub output: Output,
    /// Whether the client has closed its direction.
    pub is_half_closed: bool,
    is_flushed: bool,
    failed: Option<io::Error>,
}

/// Result of [`Wire::moved`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// The client accepted replies.
    Sent,
    /// Number of bytes received; 0: end of input.
    Received(usize),
}

impl Wire {
    pub fn new(stream: Stream, output: Output) -> Self {
        Self { stream, input: BytesMut::new(), output, is_half_closed: false, is_flushed: true, failed: None }
    }

    /// Writes as much to the socket as it accepts without waiting.
    pub async fn flush(&mut self) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let sent = poll_fn(|context| Poll::Ready(self.poll_send(context))).await;
        self.output.charge();
        match sent {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }

    /// Waits until the client has accepted all replies.
    pub async fn drain(&mut self) -> io::Result<()> {
        self.flush().await?;
        while !self.is_sent() {
            self.moved(false).await?;
        }
        Ok(())
    }

    /// Waits until the client accepts replies or, with `reads`, sends bytes. Closes the connection at the
    /// deadline of its replies. Cancel safe.
    pub async fn moved(&mut self, reads: bool) -> io::Result<Moved> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let deadline = self.output.deadline();
        let moving = poll_fn(|context| self.poll_moved(context, reads));
        tokio::select! {
            biased;
            moved = moving => return moved,
            () = until(deadline.map(|(deadline, _)| deadline)) => {}
        }
        if let Some((_, cause)) = deadline {
            self.output.account().close(cause);
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Awaits `work` and sends unsent replies meanwhile.
    pub async fn alongside<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        while self.failed.is_none() && !self.is_sent() {
            tokio::select! {
                biased;
                done = &mut work => return done,
                moved = self.moved(false) => if let Err(error) = moved {
                    self.failed = Some(error);
                },
            }
        }
        work.await
    }

    /// Closes the stream without sending the unsent replies.
    pub async fn abort(&mut self) {
        // Does not wait for completion: the client may not be reading.
        let _ = poll_fn(|context| Poll::Ready(Pin::new(&mut self.stream).poll_shutdown(context))).await;
    }

    /// Sends all unsent replies and closes this direction.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.drain().await?;
        self.stream.shutdown().await
    }

    /// Sends all unsent replies, closes this direction and reads for a moment: closing a socket with unread
    /// input would reset the connection and could lose the last reply.
    pub async fn shutdown_slowly(mut self) -> io::Result<()> {
        self.shutdown().await?;
        let mut rest = self.stream.take(LINGER_BYTES);
        let mut nowhere = tokio::io::sink();
        let drained = tokio::io::copy(&mut rest, &mut nowhere);
        // Best effort: nothing else can be done for a client that did not receive the reply.
        let _ = tokio::time::timeout(LINGER, drained).await;
        Ok(())
    }

    /// Releases the chunk that the input is in, if little of it or nothing is unread.
    pub fn trim_input(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        } else if self.input.len() < COPIED_BYTES {
            self.input = BytesMut::from(&self.input[..]);
        }
    }

    fn is_sent(&self) -> bool {
        self.output.is_empty() && self.is_flushed
    }

    fn poll_moved(&mut self, context: &mut Context<'_>, reads: bool) -> Poll<io::Result<Moved>> {
        let mut has_sent = false;
        if !self.is_sent() {
            let before = self.output.sent_bytes();
            let sent = self.poll_send(context);
            self.output.charge();
            if let Poll::Ready(Err(error)) = sent {
                return Poll::Ready(Err(error));
            }
            has_sent = sent.is_ready() || self.output.sent_bytes() != before;
        }
        if reads
            && !self.is_half_closed
            && let Poll::Ready(received) =
                self.stream.poll_receive(context, &mut self.input, READ_CHUNK_BYTES)
        {
            self.is_half_closed = matches!(received, Ok(0));
            return Poll::Ready(received.map(Moved::Received));
        }
        if has_sent { Poll::Ready(Ok(Moved::Sent)) } else { Poll::Pending }
    }

    /// Sends unsent replies; ready when all are sent and flushed.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let bytes = self.output.front();
            if bytes.is_empty() {
                break;
            }
            let written = Pin::new(&mut self.stream).poll_write(context, bytes);
            match written {
                Poll::Pending => {
                    self.output.stall();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.output.sent(count);
                    self.is_flushed = false;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        if !self.is_flushed {
            self.output.stall();
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.output.resume();
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}
