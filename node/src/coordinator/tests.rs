use super::*;

#[tokio::test]
async fn apply_within_times_out_before_the_request_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let config = ClusterConfig {
        node_id: "node1".into(),
        listen_addr: "127.0.0.1:0".into(),
        // Nothing listens at these addresses, so no leader is elected.
        peer_addrs: vec!["node2=127.0.0.1:1".into(), "node3=127.0.0.1:2".into()],
        data_dir: dir.path().join("data"),
        segment_bytes: 4 << 20,
        ..ClusterConfig::default()
    };
    let node = ClusterCoordinator::new(config).await.unwrap();
    node.start().await.unwrap();
    let limit = Duration::from_millis(100);
    let refused = tokio::select! {
        biased;
        _ = node.apply("text", "begun first") => panic!("the limit has no effect"),
        refused = node.apply_within("text", "begun last", limit) => refused.unwrap_err(),
    };
    assert_eq!(refused.code, ErrorCode::NoLeader);
    node.stop().await;
}
