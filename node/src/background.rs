//! Background tasks of a member: registers its disk through the log, and removes expired keys while it is the leader.

use std::time::Duration;

use helios_proto::v1::reply::Kind;
use helios_proto::v1::{PurgeExpired, RegisterMember, Reply, command::Op};
use helios_service::database::Database;

use crate::decommission;
use crate::node::Node;
use crate::raft::format::FORMAT;
use crate::raft::{Role, membership};

/// Interval at which the leader checks for expired keys.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(100);
/// Limit of expired keys, and of elements of deleted keys, that one log entry removes.
const EXPIRY_BATCH: u32 = 1_000;
const REGISTER_RETRY: Duration = Duration::from_millis(500);

pub fn spawn(node: Node) {
    // The peer service may start the member, and runs on the inner runtime.
    let runtime = node.inner().runtime.clone();
    runtime.spawn(register(node.clone()));
    runtime.spawn(purge_expired(node.clone()));
    runtime.spawn(decommission::run(node));
}

/// Records disk id and boot epoch in the membership, so that peers can detect a wiped or restored disk.
async fn register(node: Node) {
    let Some(member) = node.member() else { return };
    let (disk_id, boot_epoch) = node.identity();
    let mut status = member.raft.watch_status();
    loop {
        let seen = status
            .wait_for(|status| {
                status.leader_id != 0 && membership::member(&status.membership, member.id).is_some()
            })
            .await
            .map(|status| status.membership.clone());
        let Ok(seen) = seen else { return };
        let settings = node.settings();
        let client_addr = &settings.advertise_client_addr;
        let done = membership::member(&seen, member.id).is_some_and(|own| {
            own.disk_id == disk_id && own.boot_epoch == boot_epoch && own.client_addr == *client_addr
        });
        if done {
            return;
        }
        let op = Op::RegisterMember(RegisterMember {
            id: member.id,
            disk_id: disk_id.to_owned(),
            boot_epoch,
            client_addr: client_addr.clone(),
            format: FORMAT,
        });
        match node.write_own(op, None).await {
            Ok(reply) => match reply.kind {
                Some(Kind::Error(error)) => {
                    tracing::error!(reason = %error.message, "member registration rejected");
                    return;
                }
                _ => return,
            },
            _ => tokio::time::sleep(REGISTER_RETRY).await,
        }
    }
}

async fn purge_expired(node: Node) {
    let Some(member) = node.member() else { return };
    let mut status = member.raft.watch_status();
    while status.wait_for(|status| status.role == Role::Leader).await.is_ok() {
        tokio::time::sleep(EXPIRY_INTERVAL).await;
        // The last published role survives a shutdown of the leader.
        if status.has_changed().is_err() {
            return;
        }
        // No pause while more is expired: one deletion may leave many elements to remove.
        while node.store().has_expired(node.bounded_ms()).unwrap_or(false) {
            let purge = Op::PurgeExpired(PurgeExpired { limit: EXPIRY_BATCH });
            let count = match node.write_own(purge, None).await {
                Ok(Reply { kind: Some(Kind::Integer(count)), .. }) => count,
                _ => 0,
            };
            if count < i64::from(EXPIRY_BATCH) {
                break;
            }
        }
    }
}
