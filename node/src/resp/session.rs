//! What one connection has agreed on so far.

use super::frame::Protocol;
use crate::database::Ack;

#[derive(Debug, Clone)]
pub struct Session {
    pub protocol: Protocol,
    pub authenticated: bool,
    /// Reads are answered from this node's state, however old (`READONLY`).
    pub stale_reads: bool,
    /// Voters that hold a write of this connection on disk before it is acknowledged (`HELIOS.ACK`).
    pub ack: Ack,
    /// Log index of this connection's last write, for `WAIT`.
    pub last_write_index: u64,
    /// Close once what was asked so far is answered (`QUIT`).
    pub closing: bool,
}

impl Session {
    pub fn new(authenticated: bool) -> Self {
        Self {
            protocol: Protocol::default(),
            authenticated,
            stale_reads: false,
            ack: Ack::default(),
            last_write_index: 0,
            closing: false,
        }
    }
}
