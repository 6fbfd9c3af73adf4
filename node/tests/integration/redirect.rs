//! `writes.on_follower: redirect`: a follower answers a write with the leader's name and address
//! (docs/design/product.md, C5).

use helios_proto::v1::{ErrorCode, PutRequest};
use serde_json::Value;

use crate::common::{Cluster, http};

#[tokio::test]
async fn redirecting_follower_answers_writes_with_the_leaders_address() {
    let mut cluster = Cluster::fixed(3);
    for index in 0..3 {
        cluster[index].config_mut().push_str("writes: {on_follower: redirect}\n");
    }
    cluster.start_all();
    cluster.wait_ready().await;
    // The members register their client addresses through the log.
    cluster.wait_registered().await;
    let leader = cluster.leader().await;
    let follower = &cluster[(leader + 1) % 3];
    let address = format!("127.0.0.1:{}", cluster[leader].ports.client);

    let mut client = follower.redis().await;
    let refused = redis::cmd("SET").arg("k").arg("v").query_async::<()>(&mut client).await.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("read only replica") && text.contains(&address), "{text}");
    let status =
        follower.kv().put(PutRequest { key: "k".into(), ..PutRequest::default() }).await.unwrap_err();
    let detail = helios_proto::detail_of(&status);
    assert_eq!((detail.code(), detail.leader_addr), (ErrorCode::NotLeader, address.clone()));
    let (code, body) =
        http(follower.ports.gateway, "POST", "/put", r#"{"key":"k","value":"v"}"#).await.unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, body["error"]["leader_addr"].as_str()), (421, Some(address.as_str())), "{body}");

    let mut at_leader = cluster[leader].redis().await;
    let () = redis::cmd("SET").arg("k").arg("v").query_async(&mut at_leader).await.unwrap();
    // Reads are not redirected: any member serves them.
    let found: String = redis::cmd("GET").arg("k").query_async(&mut client).await.unwrap();
    assert_eq!(found, "v");
    assert_eq!(cluster.agreed_data().await.len(), 1, "a refused write left something");
}
