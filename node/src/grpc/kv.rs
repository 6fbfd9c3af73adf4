//! Key-value service for gRPC clients; every member answers every call.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use helios_proto::v1::kv_server::Kv;
use helios_proto::v1::{
    self as proto, AckLevel, Consistency, DeleteRequest, DeleteResponse, Entry, ErrorCode, GetRequest,
    GetResponse, Guard, PutRequest, PutResponse, RangeRequest, RangeResponse, Reply, RequestId, Token,
    TransactionRequest, TransactionResponse, WatchRequest, WatchResponse, command::Op, reply,
};
use helios_service::database::{Database, Freshness, WriteRequest};
use helios_service::tls::Caller;
use ring::digest::{SHA256, digest};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::guard::{Answers, User, bounded};
use super::transaction;
use super::watch::Watcher;
use crate::error::Error;
use crate::state::{Applied, Kind, StateError, Value, commands};

const DEFAULT_RANGE: u32 = 1_000;
const MAX_RANGE: u32 = 10_000;
/// Limit of keys and values in one page, bytes; the last pair may exceed it. Clients accept messages of 4 MiB by
/// default.
const MAX_RANGE_BYTES: usize = 2 << 20;

/// Bytes of the identity digest in each entry with a request id.
const IDENTITY_BYTES: usize = 16;

/// Limit of concurrent watches of this node's keys.
const MAX_WATCHES: usize = 1_024;

pub struct KvService<D> {
    database: D,
    watches: Arc<Semaphore>,
    /// Ends the watches when the node stops.
    stop: CancellationToken,
}

impl<D: Database> KvService<D> {
    pub fn new(database: D, stop: CancellationToken) -> Self {
        Self { database, watches: Arc::new(Semaphore::new(MAX_WATCHES)), stop }
    }

    /// Replicates a write.
    ///
    /// # Errors
    /// The write was not applied, or the state machine rejected it.
    async fn write(
        &self,
        op: Op,
        request_id: Option<RequestId>,
        identity: Bytes,
        ack: AckLevel,
    ) -> Result<Reply, Error> {
        if let Some(id) = &request_id {
            check_request_id(id)?;
        }
        let write = WriteRequest { op, request_id, identity };
        let outcome = self.database.submit(vec![write], ack.into()).await.pop();
        let reply = outcome.unwrap_or_else(|| Err(Error::outcome_unknown()))?;
        match reply.kind {
            Some(reply::Kind::Error(refusal)) => Err(refusal.into()),
            _ => Ok(reply),
        }
    }

    /// Checks the guards of a transaction without writes, which never enters the log.
    async fn check_guards(&self, guards: Vec<Guard>) -> Result<TransactionResponse, Error> {
        transaction::check_steps(guards.len())?;
        self.database.await_fresh(Freshness::Linearizable, None).await?;
        let store = self.database.store();
        let Applied { index, term } = store.applied();
        let succeeded = store.holds(&guards, self.database.now_ms())?;
        let token = Token { cluster_id: self.database.cluster_id(), term, index };
        Ok(TransactionResponse { succeeded, revision: index, token: Some(token), deleted: 0 })
    }

    async fn await_fresh(
        &self,
        consistency: Consistency,
        max_staleness_ms: u32,
        after: Option<&Token>,
    ) -> Result<(), Error> {
        let max_staleness = (max_staleness_ms > 0).then(|| Duration::from_millis(max_staleness_ms.into()));
        let freshness = match (consistency, max_staleness) {
            (Consistency::Stale, max_staleness) => Freshness::Stale(max_staleness),
            (_, Some(_)) => return Err(Error::invalid("max_staleness_ms requires consistency STALE")),
            (Consistency::Linearizable, None) => Freshness::Linearizable,
            (Consistency::Lease, None) => Freshness::Lease,
        };
        self.database.await_fresh(freshness, after).await
    }
}

#[tonic::async_trait]
impl<D: Database> Kv for KvService<D> {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        User::of(request.extensions()).check_keys([&request.get_ref().key])?;
        let request = request.into_inner();
        let GetRequest { consistency: _, max_staleness_ms, after, key } = &request;
        self.await_fresh(request.consistency(), *max_staleness_ms, after.as_ref()).await?;
        let value = self.database.store().get(key, self.database.now_ms()).map_err(unreadable)?;
        let value = value.map(Value::into_string).transpose()?;
        Ok(Response::new(GetResponse { entry: value.map(|value| entry(request.key, value)) }))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        User::of(request.extensions()).check_keys([&request.get_ref().key])?;
        let identity = identity(&request);
        let request = request.into_inner();
        let ack = request.ack();
        let PutRequest { key, value, ttl_ms, request_id, ack: _ } = request;
        if key.is_empty() {
            return Err(Error::invalid("key is empty").into());
        }
        let expire_at_ms = (ttl_ms > 0).then(|| helios_service::time::wall_ms().saturating_add(ttl_ms));
        let set = proto::Set { key, value, expire_at_ms, ..proto::Set::default() };
        let reply = self.write(commands::set(set), request_id, identity, ack).await?;
        Ok(Response::new(PutResponse { revision: reply.index, token: Some(self.database.token_of(&reply)) }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        User::of(request.extensions()).check_keys(&request.get_ref().keys)?;
        let identity = identity(&request);
        let request = request.into_inner();
        let ack = request.ack();
        let DeleteRequest { keys, request_id, ack: _ } = request;
        let delete = commands::delete(keys);
        let reply = self.write(delete, request_id, identity, ack).await?;
        let deleted = match reply.kind {
            Some(reply::Kind::Integer(count)) => u64::try_from(count).unwrap_or(0),
            _ => 0,
        };
        let token = Some(self.database.token_of(&reply));
        Ok(Response::new(DeleteResponse { deleted, revision: reply.index, token }))
    }

    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let user = User::of(request.extensions());
        let request = request.into_inner();
        let end = (!request.end.is_empty()).then_some(request.end.as_ref());
        user.check_range(&request.start, end)?;
        self.await_fresh(request.consistency(), request.max_staleness_ms, request.after.as_ref()).await?;
        let limit = match request.limit {
            0 => DEFAULT_RANGE,
            limit => limit.min(MAX_RANGE),
        } as usize;
        // Read before the keys, so that a watch from this revision may repeat a concurrent write but misses none.
        let revision = self.database.store().changes_through();
        let (found, more) = strings(&self.database, &request.start, end, limit).await.map_err(unreadable)?;
        let entries = found.into_iter().map(|(key, value)| entry(key, value)).collect();
        Ok(Response::new(RangeResponse { entries, more, revision }))
    }

    async fn transaction(
        &self,
        request: Request<TransactionRequest>,
    ) -> Result<Response<TransactionResponse>, Status> {
        User::of(request.extensions()).check_keys(transaction::keys(request.get_ref()))?;
        let identity = identity(&request);
        let request = request.into_inner();
        let ack = request.ack();
        let TransactionRequest { guards, writes, request_id, ack: _ } = request;
        if writes.is_empty() {
            return self.check_guards(guards).await.map(Response::new).map_err(Status::from);
        }
        let operation = transaction::operation(guards, writes)?;
        let reply = self.write(operation, request_id, identity, ack).await?;
        let token = Some(self.database.token_of(&reply));
        let (succeeded, deleted) = transaction::outcome(&reply)?;
        Ok(Response::new(TransactionResponse { succeeded, revision: reply.index, token, deleted }))
    }

    type WatchStream = Answers<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        // Also with `prefix`: then all watched keys begin with `key`.
        User::of(&extensions).check_keys([&request.key])?;
        if request.key.is_empty() && !request.prefix {
            return Err(Error::invalid("key is empty: name one, or set prefix to watch every key").into());
        }
        let permit = Arc::clone(&self.watches).try_acquire_owned().map_err(|_| {
            Error::new(
                ErrorCode::Overloaded,
                format!("this member has {MAX_WATCHES} watches: use another member"),
            )
        })?;
        let watcher = Watcher::new(self.database.store().clone(), request, permit);
        Ok(bounded(watcher.into_stream(), self.stop.clone(), &extensions))
    }
}

/// Returns the first strings from `start` on, at most `limit` and about [`MAX_RANGE_BYTES`], and whether there are
/// more. Keys of other types have no value here and are skipped: a page of nothing else would be empty, and the client
/// could not name the start of the next one.
async fn strings(
    database: &impl Database,
    start: &[u8],
    end: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<(Bytes, Value)>, bool), StateError> {
    let (mut found, mut next, mut bytes) = (Vec::new(), Some(Bytes::copy_from_slice(start)), 0);
    while let Some(start) = next.take() {
        let scanned = database.store().scan(&start, end, limit + 1, database.now_ms())?;
        next = scanned.next;
        for (key, value) in scanned.pairs.into_iter().filter(|(_, value)| value.kind == Kind::String) {
            if found.len() >= limit || bytes >= MAX_RANGE_BYTES {
                return Ok((found, true));
            }
            bytes += key.len() + value.data.len();
            found.push((key, value));
        }
        // Many keys of other types must not occupy the worker.
        tokio::task::yield_now().await;
    }
    Ok((found, false))
}

/// Returns the identity whose share of the remembered clients a request is charged to: its user, or else its host; for
/// IPv6, where a host has many addresses, its /64.
fn identity<T>(request: &Request<T>) -> Bytes {
    let user = User::of(request.extensions()).0;
    let caller = request.extensions().get::<Caller>();
    let name = match (user, caller.map(|caller| caller.client.address.ip().to_canonical())) {
        (Some(user), _) => format!("user {}", user.name()).into_bytes(),
        (None, Some(IpAddr::V4(address))) => [b"host", &address.octets()[..]].concat(),
        (None, Some(IpAddr::V6(address))) => [b"host", &address.octets()[..8]].concat(),
        (None, None) => b"host".to_vec(),
    };
    Bytes::copy_from_slice(&digest(&SHA256, &name).as_ref()[..IDENTITY_BYTES])
}

/// Checks the prefix of a request id; the state machine, which stores request ids, checks the rest.
fn check_request_id(id: &RequestId) -> Result<(), Error> {
    // Members use ids with this prefix for the writes that they forward.
    if id.client_id.first() == Some(&0) {
        return Err(Error::invalid("request_id.client_id begins with a zero byte: begin with another"));
    }
    Ok(())
}

fn entry(key: Bytes, value: Value) -> Entry {
    Entry { key, value: value.data, revision: value.revision, expire_at_ms: value.expire_at_ms }
}

fn unreadable(error: StateError) -> Error {
    Error::new(ErrorCode::StorageUnavailable, format!("the state cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use helios_service::auth::{Access, AccessOptions, Client};

    fn from(user: Option<&str>, address: &str) -> Bytes {
        let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        let line = |name| format!("{{name: {name}, password_sha256: {hash}, role: admin}}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("users: [{}, {}]", line("a"), line("b"))).unwrap();
        let options = AccessOptions { users_file: Some(file.path().to_owned()), ..AccessOptions::default() };
        let access = Access::load(options).unwrap();
        let user = user.map(|user| access.authenticate(user.as_bytes(), b"secret").unwrap());
        let mut request = Request::new(());
        let client = Client::new(address.parse().unwrap());
        request.extensions_mut().insert(Caller { client, certificate: None });
        request.extensions_mut().insert(User(user));
        identity(&request)
    }

    #[test]
    fn a_write_is_charged_to_its_user_or_else_to_its_host() {
        assert_eq!(from(Some("a"), "10.0.0.1:1"), from(Some("a"), "10.0.0.2:9"));
        assert_ne!(from(Some("a"), "10.0.0.1:1"), from(Some("b"), "10.0.0.1:1"));
        assert_eq!(from(None, "10.0.0.1:1"), from(None, "10.0.0.1:2"));
        assert_ne!(from(None, "10.0.0.1:1"), from(None, "10.0.0.2:1"));
        assert_eq!(from(None, "[2001:db8::1]:1"), from(None, "[2001:db8::ffff]:1"));
        assert_eq!(from(None, "[::ffff:10.0.0.1]:1"), from(None, "10.0.0.1:1"));
    }
}
