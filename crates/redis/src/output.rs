//! Replies of one connection that are not sent yet.
//!
//! A large reply is encoded in pieces while the client reads, so that it never exists a second time as one
//! buffer; elements that share their bytes stay shared. Unsent replies are charged to the connection's account.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use helios_proto::Error;
use helios_proto::v1::ErrorCode;
use helios_service::client_memory::{Account, Cause};

use super::encoder::Encoder;
use super::frame::{Frame, Protocol};

/// Bytes of a reply that are encoded at once, ahead of the socket.
const PIECE_BYTES: usize = 64 * 1024;
/// Size in bytes above which a reply is encoded piece by piece.
const SMALL_BYTES: usize = 16 * 1024;
/// The account is updated in steps of so many bytes, and whenever replies are sent.
const ACCOUNT_STEP: usize = 16 * 1024;
/// Capacity in bytes above which an empty buffer is freed.
const KEPT_BYTES: usize = 64 * 1024;

pub struct Output {
    account: Arc<Account>,
    /// Encoded bytes that the socket gets next.
    sending: BytesMut,
    waiting: VecDeque<Part>,
    /// Unsent bytes: all parts and `sending`.
    bytes: usize,
    charged: usize,
    sent_bytes: u64,
    /// Time since which the unsent bytes exceed the soft limit.
    over_soft_limit: Option<Instant>,
    /// Time since which the socket accepts no bytes.
    stalled: Option<Instant>,
}

enum Part {
    Encoded(BytesMut),
    Large(Encoder),
}

impl Output {
    pub fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            sending: BytesMut::new(),
            waiting: VecDeque::new(),
            bytes: 0,
            charged: 0,
            sent_bytes: 0,
            over_soft_limit: None,
            stalled: None,
        }
    }

    /// Returns the unsent bytes; a large reply counts with its [`Frame::cost`].
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Queues a reply. A reply larger than the output limit of a connection is replaced by an error.
    pub fn reply(&mut self, frame: Frame, protocol: Protocol) {
        let cost = frame.cost();
        let limit = self.account.limits().output_bytes;
        if cost > limit {
            let text = format!(
                "the reply has {cost} bytes, more than client.output_buffer_limit ({limit} bytes): request less at once"
            );
            return self.push(Error::new(ErrorCode::BudgetExceeded, text).into(), SMALL_BYTES, protocol);
        }
        self.push(frame, cost, protocol);
    }

    /// Queues a part of a reply that is encoded already.
    pub fn put(&mut self, bytes: &[u8]) {
        self.tail().extend_from_slice(bytes);
        self.bytes += bytes.len();
        if self.bytes > self.charged + ACCOUNT_STEP {
            self.charge();
        }
    }

    fn push(&mut self, frame: Frame, cost: usize, protocol: Protocol) {
        if cost > SMALL_BYTES {
            self.bytes += cost;
            self.waiting.push_back(Part::Large(Encoder::new(frame, protocol, cost)));
        } else {
            let buffer = self.tail();
            let before = buffer.len();
            frame.encode(protocol, buffer);
            self.bytes += buffer.len() - before;
        }
        if self.bytes > self.charged + ACCOUNT_STEP {
            self.charge();
        }
    }

    /// Returns the buffer that small replies are appended to.
    fn tail(&mut self) -> &mut BytesMut {
        if self.waiting.is_empty() && self.sending.len() < PIECE_BYTES {
            return &mut self.sending;
        }
        if !matches!(self.waiting.back(), Some(Part::Encoded(buffer)) if buffer.len() < PIECE_BYTES) {
            self.waiting.push_back(Part::Encoded(BytesMut::new()));
        }
        match self.waiting.back_mut() {
            Some(Part::Encoded(buffer)) => buffer,
            _ => &mut self.sending,
        }
    }

    /// Returns the next bytes for the socket; empty if nothing is unsent.
    pub fn front(&mut self) -> &[u8] {
        while self.sending.is_empty() {
            match self.waiting.pop_front() {
                None => break,
                Some(Part::Encoded(buffer)) => self.sending = buffer,
                Some(Part::Large(mut encoder)) => {
                    let before = encoder.left();
                    let is_over = encoder.fill(&mut self.sending, PIECE_BYTES);
                    let left = if is_over { 0 } else { encoder.left() };
                    self.bytes = self.bytes + self.sending.len() - (before - left);
                    if !is_over {
                        self.waiting.push_front(Part::Large(encoder));
                    }
                }
            }
        }
        &self.sending
    }

    /// Returns the total of bytes that the socket has accepted.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Records that the socket accepted `count` bytes.
    pub fn sent(&mut self, count: usize) {
        self.sent_bytes += count as u64;
        self.resume();
        self.sending.advance(count);
        self.bytes -= count;
        if self.sending.is_empty() && self.sending.capacity() > KEPT_BYTES {
            self.sending = BytesMut::new();
        }
    }

    /// Records that the socket accepts no bytes now.
    pub fn stall(&mut self) {
        self.stalled = self.stalled.or_else(|| Some(Instant::now()));
    }

    /// Records that the socket accepts bytes again.
    pub fn resume(&mut self) {
        self.stalled = None;
    }

    /// Updates the account, and closes the connection if it is over its limit.
    pub fn charge(&mut self) {
        if self.bytes == self.charged {
            return;
        }
        self.charged = self.bytes;
        let limits = self.account.limits();
        if self.bytes > limits.output_bytes {
            self.account.close(Cause::OutputLimit);
        }
        self.account.set_output(self.bytes);
        let is_over = limits.soft_output_bytes > 0 && self.bytes > limits.soft_output_bytes;
        self.over_soft_limit =
            if is_over { self.over_soft_limit.or_else(|| Some(Instant::now())) } else { None };
    }

    /// Returns when, and why, the connection is to be closed unless its client reads.
    pub fn deadline(&self) -> Option<(Instant, Cause)> {
        let limits = self.account.limits();
        let soft = self.over_soft_limit.map(|since| (since + limits.soft_time, Cause::SoftOutputLimit));
        let stalled = self.stalled.zip(limits.write_timeout);
        let stalled = stalled.map(|(since, limit)| (since + limit, Cause::WriteTimeout));
        soft.into_iter().chain(stalled).min_by_key(|(deadline, _)| *deadline)
    }

    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use helios_service::client_memory::MemoryLimits;
    use helios_service::client_memory::{Account, ClientMemory};
    use helios_service::rejections::Rejections;
    use tokio_util::sync::CancellationToken;

    fn account(limits: MemoryLimits) -> (Arc<Account>, CancellationToken) {
        let cut = CancellationToken::new();
        let memory = ClientMemory::new(limits, Rejections::default());
        (Arc::new(memory.open(([127, 0, 0, 1], 1).into(), cut.clone())), cut)
    }

    fn drained(output: &mut Output) -> (Vec<u8>, usize) {
        let (mut all, mut largest) = (Vec::new(), 0);
        while !output.front().is_empty() {
            let piece = output.front().to_vec();
            largest = largest.max(piece.len());
            output.sent(piece.len());
            all.extend(piece);
        }
        (all, largest)
    }

    #[test]
    fn replies_are_sent_in_order_and_a_large_reply_in_pieces() {
        let (account, _) = account(MemoryLimits::default());
        let mut output = Output::new(account.clone());
        let element = Bytes::from(vec![b'x'; 2_000]);
        let large = Frame::Array(vec![Frame::Bulk(element); 1_000]);
        let frames =
            [Frame::Integer(1), large, Frame::OK, Frame::bulk(vec![b'y'; 300_000]), Frame::Integer(2)];
        let mut expected = BytesMut::new();
        for frame in frames {
            frame.encode(Protocol::Resp3, &mut expected);
            output.reply(frame, Protocol::Resp3);
        }
        output.charge();
        assert!(account.held().0 >= expected.len(), "{:?}", account.held());
        let (sent, largest) = drained(&mut output);
        assert!(sent == expected, "{} bytes of {}", sent.len(), expected.len());
        assert!(largest <= 2 * PIECE_BYTES, "{largest}");
        output.charge();
        assert_eq!((output.len(), account.held().0), (0, 0));
    }

    #[test]
    fn a_reply_over_the_limit_is_an_error_and_many_replies_over_it_close_the_connection() {
        let limits = MemoryLimits { output_bytes: 100_000, ..MemoryLimits::default() };
        let (account, cut) = account(limits);
        let mut output = Output::new(account);
        output.reply(Frame::bulk(vec![0; 100_001]), Protocol::Resp2);
        let text = String::from_utf8(drained(&mut output).0).unwrap();
        assert!(
            text.starts_with("-ERR ") && text.contains("client.output_buffer_limit (100000 bytes)"),
            "{text}"
        );
        for _ in 0..2 {
            assert!(!cut.is_cancelled());
            output.reply(Frame::bulk(vec![0; 60_000]), Protocol::Resp2);
        }
        assert!(cut.is_cancelled());
    }

    #[test]
    fn a_client_that_reads_nothing_has_a_deadline() {
        let (account, _) = account(MemoryLimits { soft_output_bytes: 20_000, ..MemoryLimits::default() });
        let mut output = Output::new(account);
        assert_eq!(output.deadline(), None);
        output.reply(Frame::OK, Protocol::Resp2);
        output.stall();
        assert_eq!(output.deadline().map(|(_, cause)| cause), Some(Cause::WriteTimeout));
        output.reply(Frame::bulk(vec![0; 30_000]), Protocol::Resp2);
        output.sent(2);
        output.charge();
        assert_eq!(output.deadline().map(|(_, cause)| cause), Some(Cause::SoftOutputLimit));
        drained(&mut output);
        output.charge();
        assert_eq!(output.deadline(), None);
    }
}
