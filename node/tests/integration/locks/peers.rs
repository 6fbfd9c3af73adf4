//! TLS on the peer port.

use std::time::Duration;

use helios_proto::tls::{ClientTls, connect, why};
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::restore_client::RestoreClient;
use helios_proto::v1::{
    ErrorCode, ForceNewRequest, Handshake, PeerFrame, RemoveRequest, SnapshotRequest, StatusRequest,
    TransferRequest, peer_frame::Kind,
};
use tonic::transport::Channel;

use super::Locked;
use crate::common::{
    Authority, Cluster, Load, Mounted, Node, Operator, begin_of, error_code, eventually, http,
};

const TAKEN_OVER: &str = "certificates reloaded";
const LIMIT: Duration = Duration::from_secs(10);

/// Waits until every member has logged the reload at least `times` times.
async fn await_reload(cluster: &Cluster, times: usize) {
    for node in cluster.nodes() {
        eventually(&format!("{} reloads its certificates", node.name), async || {
            (node.log().matches(TAKEN_OVER).count() >= times).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn rotation_of_certificate_and_ca_loses_no_write_and_causes_no_election() {
    let (old, new) = (Authority::new("the first CA"), Authority::new("the second CA"));
    let (first, second, third) = (old.leaf(2081), old.leaf(2082), new.leaf(2083));
    let mut locked = Locked::started(&old, &first).await;
    let terms = |statuses: &[helios_proto::v1::StatusResponse]| -> Vec<_> {
        statuses.iter().map(|status| status.term).collect()
    };
    let before = terms(&locked.cluster.statuses().await);
    let load = Load::start(&locked.cluster.client_ports());
    load.wait_for(50).await;

    let stages: [(_, &[&Authority]); 4] =
        [(&second, &[&old]), (&second, &[&old, &new]), (&third, &[&old, &new]), (&third, &[&new])];
    for (times, (leaf, trusted)) in (1..).zip(stages) {
        locked.put(leaf, trusted);
        await_reload(&locked.cluster, times).await;
        load.wait_for(50).await;
    }
    for node in locked.cluster.nodes() {
        assert_eq!(
            node.metric("helios_cert_expiry_timestamp_seconds{for=\"peer\"}").await,
            Some(begin_of(2083).cast_unsigned())
        );
        // The old certificates are rejected, the new ones accepted.
        let address = node.peer_addr();
        let refused = connect(&address, "127.0.0.1", Some(&old.client(Some(&second))), LIMIT, LIMIT).await;
        assert!(refused.unwrap_err().0.contains("its certificate is not signed by a trusted CA"));
        node.ask_with(new.client(Some(&third)));
    }
    assert_eq!(terms(&locked.cluster.statuses().await), before);
    let report = load.finish().await;
    assert_eq!(report.failures, 0, "a client had to try again");

    // Reconnected peer links use the present certificates.
    let follower = (locked.cluster.leader().await + 1) % 3;
    locked.cluster[follower].kill();
    locked.cluster[follower].start();
    locked.cluster.wait_ready().await;
    report.assert_kept(&locked.cluster.agreed_data().await);
}

async fn status_with(node: &Node, tls: Option<&ClientTls>) -> Result<(), String> {
    let channel =
        connect(&node.peer_addr(), "127.0.0.1", tls, LIMIT, LIMIT).await.map_err(|error| error.0)?;
    let answer = ClusterClient::new(channel).status(StatusRequest {}).await;
    answer.map(drop).map_err(|status| why(&status))
}

#[tokio::test]
async fn client_without_a_trusted_certificate_is_rejected_with_a_reason_and_counted() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let leaf = ours.leaf(2081);
    let locked = Locked::started(&ours, &leaf).await;
    let node = &locked.cluster[0];
    assert_eq!(status_with(node, Some(&ours.client(Some(&leaf)))).await, Ok(()));
    let foreign = theirs.leaf(2081);
    let expired = ours.leaf(2001);
    let cases = [
        (None, "speaks TLS only", "it does not speak TLS, which this port requires"),
        (Some(ours.client(None)), "asks for a certificate, and none was shown", "it showed no certificate"),
        (
            Some(ours.client(Some(&foreign))),
            "does not trust the CA of the certificate shown",
            "its certificate is not signed by a trusted CA",
        ),
        (
            Some(ours.client(Some(&expired))),
            "the certificate shown to it has expired",
            "its certificate has expired",
        ),
    ];
    for (tls, theirs, ours) in &cases {
        let error = status_with(node, tls.as_ref()).await.unwrap_err();
        assert!(error.contains(theirs), "{error} is not {theirs}");
        // The second rejection is counted and not logged again.
        drop(status_with(node, tls.as_ref()).await);
        assert_eq!(node.log().matches(ours).count(), 1, "{ours}: {}", node.log());
    }
    let counted = async |reason: &str| {
        node.metric(&format!("helios_rejected_total{{reason=\"{reason}\"}}")).await.unwrap_or_default()
    };
    // A channel may connect more than once.
    assert!(counted("tls_handshake").await >= 6 && counted("no_tls").await >= 2);
}

#[tokio::test]
async fn removed_or_foreign_member_is_rejected_despite_a_valid_certificate() {
    let ours = Authority::new("ours");
    let leaf = ours.leaf(2081);
    let mut locked = Locked::started(&ours, &leaf).await;
    locked.cluster.wait_registered().await;
    let leader = locked.cluster.leader().await;
    let gone = (leader + 1) % 3;
    let (status, removed) = (locked.cluster[leader].status().await, locked.cluster[gone].status().await);
    locked.cluster[gone].kill();
    Operator::remove(&locked.cluster[leader], removed.member_id).await;

    let node = &locked.cluster[leader];
    let mut peer = PeerClient::new(node.peer_channel());
    let hello = Handshake {
        cluster_id: status.cluster_id.clone(),
        from_id: removed.member_id,
        from_name: removed.name,
        from_disk_id: removed.disk_id,
        from_boot_epoch: removed.boot_epoch,
        to_id: status.member_id,
        ..Handshake::default()
    };
    let other = Handshake { cluster_id: "another".into(), ..hello.clone() };
    for (hello, code, reason) in [
        (other, ErrorCode::WrongCluster, "wrong_cluster"),
        (hello, ErrorCode::MemberRemoved, "removed_member"),
    ] {
        let frame = PeerFrame { kind: Some(Kind::Handshake(hello)) };
        assert_eq!(error_code(peer.messages(tokio_stream::iter([frame])).await), code);
        let metric = format!("helios_rejected_total{{reason=\"{reason}\"}}");
        assert!(node.metric(&metric).await.unwrap_or_default() > 0, "{reason} is not counted");
        assert!(node.log().contains(&format!("reason=\"{reason}\"")), "{}", node.log());
    }
}

#[tokio::test]
async fn member_without_tls_and_its_peers_log_the_mismatch() {
    let ours = Authority::new("ours");
    let leaf = ours.leaf(2081);
    let mut locked = Locked::new(&ours, &leaf);
    let open = &mut locked.cluster[2];
    let section = open.config_mut().find("tls:").unwrap();
    open.config_mut().truncate(section);
    open.ask_without();
    locked.cluster.start_all();
    for index in [0, 1] {
        locked.cluster[index].wait_ready().await;
        eventually("a member with TLS logs that its peer has none", async || {
            locked.cluster[index].log().contains("it does not speak TLS").then_some(())
        })
        .await;
    }
    eventually("the member without TLS logs that its peers require it", async || {
        locked.cluster[2].log().contains("it speaks TLS only, and this connection has none").then_some(())
    })
    .await;
}

#[tokio::test]
async fn invalid_certificate_files_prevent_a_start_and_are_ignored_by_a_running_node() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let leaf = ours.leaf(2081);
    let mut locked = Locked::started(&ours, &leaf).await;
    let mixed = crate::common::Leaf { certificate: leaf.certificate.clone(), key: theirs.leaf(2081).key };
    locked.mounts[0].put_certificates(&mixed, &[&ours]);
    let node = &locked.cluster[0];
    eventually("the new files are refused", async || {
        node.log().contains("certificates not reloaded").then_some(())
    })
    .await;
    assert_eq!(status_with(node, Some(&ours.client(Some(&leaf)))).await, Ok(()));

    let dir = crate::common::temporary_directory();
    let mount = Mounted::new(&dir.path().join("tls"));
    let ports = crate::common::Ports::take();
    let config = format!("tls: {{peer: {}}}\n", mount.section());
    let mut node = Node::new(dir.path(), "node-1", ports.node(0), "bootstrap: single", &config);
    node.start();
    assert_eq!(node.ended().await.code(), Some(78));
    let log = node.log();
    assert!(
        log.contains("tls.peer.cert_file") && log.contains("tls.crt") && log.lines().count() == 1,
        "{log}"
    );
}

async fn cluster_with(node: &Node, tls: &ClientTls) -> ClusterClient<Channel> {
    ClusterClient::new(connect(&node.peer_addr(), "127.0.0.1", Some(tls), LIMIT, LIMIT).await.unwrap())
}

#[tokio::test]
async fn member_certificate_cannot_manage_once_an_admin_certificate_was_seen() {
    let authority = Authority::new("ours");
    let (leaf, admin) = (authority.leaf(2081), authority.admin());
    let locked = Locked::started(&authority, &leaf).await;
    let (member, manager) = (authority.client(Some(&leaf)), authority.client(Some(&admin)));
    let leader = locked.cluster.leader().await;
    let node = &locked.cluster[leader];
    // An operator of an earlier version presents the members' certificate, which is accepted at first.
    cluster_with(node, &member).await.snapshot(SnapshotRequest {}).await.unwrap();
    // An operator of this version requests a status with the admin certificate; from then on only that one
    // may manage.
    cluster_with(node, &manager).await.status(StatusRequest {}).await.unwrap();
    let mut as_member = cluster_with(node, &member).await;
    assert_eq!(error_code(as_member.snapshot(SnapshotRequest {}).await), ErrorCode::Forbidden);
    assert_eq!(error_code(as_member.force_new(ForceNewRequest::default()).await), ErrorCode::Forbidden);
    let transfer = TransferRequest::default();
    assert_eq!(error_code(as_member.transfer_leadership(transfer).await), ErrorCode::Forbidden);
    let remove = RemoveRequest { id: 1, ..RemoveRequest::default() };
    assert_eq!(error_code(as_member.remove(remove).await), ErrorCode::Forbidden);
    let channel = connect(&node.peer_addr(), "127.0.0.1", Some(&member), LIMIT, LIMIT).await.unwrap();
    let restored = RestoreClient::new(channel).restore(tokio_stream::empty()).await;
    assert_eq!(error_code(restored), ErrorCode::Forbidden);
    // Members still request each other's status, and the admin certificate manages.
    as_member.status(StatusRequest {}).await.unwrap();
    cluster_with(node, &manager).await.snapshot(SnapshotRequest {}).await.unwrap();
    let reason = "helios_rejected_total{reason=\"not_manager\"}";
    assert!(node.metric(reason).await.unwrap_or_default() >= 4);
    // A follower forwards an admin's request at its gateway to the leader with its member certificate.
    let follower = &locked.cluster[(leader + 1) % 3];
    let gone = node.status().await.membership.unwrap().members;
    let gone = gone.iter().find(|member| ![&node.name, &follower.name].contains(&&member.name)).unwrap().id;
    let body = format!("{{\"node_id\": {gone}}}");
    let answer = http(follower.ports.gateway, "POST", "/nodes/remove", &body).await.unwrap();
    assert_eq!(answer.0, 200, "{answer:?}");
}
