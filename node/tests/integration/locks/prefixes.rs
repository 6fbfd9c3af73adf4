//! Users who may access keys with certain prefixes only, and users with two passwords.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use helios_proto::v1::cluster_info_client::ClusterInfoClient;
use helios_proto::v1::write::Kind;
use helios_proto::v1::{
    DeleteRequest, ErrorCode, FollowRequest, GetRequest, Guard, PutRequest, PutWrite, RangeRequest,
    StatusRequest, TransactionRequest, WatchRequest, Write,
};

use super::users::{Guarded, OTHER, SECRET, first_word, signed};
use crate::common::{error_code, eventually};
use crate::follow::Follower;

fn header(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("app:{password}")))
}

/// The line of the user `app`, with these hashes.
fn app(hashes: &str) -> String {
    format!(
        "- {{name: app, {hashes}, role: read-write, prefixes: ['app:']}}\n- {{name: boss, password_sha256: {SECRET}, role: admin}}\n"
    )
}

async fn guarded() -> Guarded {
    let mut guarded = Guarded::start().await;
    guarded.put_users(&app(&format!("password_sha256: {SECRET}")));
    let mut connection = guarded.node.redis().await;
    eventually("the users are reloaded", async || {
        (first_word(&mut connection, &["AUTH", "app", "secret"]).await == "OK").then_some(())
    })
    .await;
    guarded
}

#[tokio::test]
async fn user_with_prefixes_is_refused_other_keys_on_every_port() {
    let guarded = guarded().await;
    let mut boss = guarded.as_user("boss").await;
    for key in ["app:k", "other"] {
        assert_eq!(first_word(&mut boss, &["SET", key, "v"]).await, "OK");
    }
    let authorization = format!("authorization: {}\r\n", header("secret"));
    let put = |key: &str| format!(r#"{{"key": "{key}", "value": "v"}}"#);
    let apply =
        |kind: &str, key: &str| format!(r#"{{"type": "{kind}", "data": {{"key": "{key}", "value": "v"}}}}"#);
    for (method, path, body, expected) in [
        ("GET", "/get?key=app:k", String::new(), 200),
        ("GET", "/get?key=other", String::new(), 403),
        ("POST", "/read", r#"{"query": "other"}"#.to_owned(), 403),
        ("POST", "/put", put("app:k"), 200),
        ("POST", "/put", put("other"), 403),
        ("POST", "/apply", apply("set", "app:k"), 200),
        ("POST", "/apply", apply("set", "other"), 403),
        ("POST", "/apply", r#"{"type": "delete", "data": {"key": "other"}}"#.to_owned(), 403),
        ("GET", "/leader", String::new(), 200),
        ("GET", "/status", String::new(), 403),
        ("GET", "/metrics", String::new(), 403),
        ("GET", "/config", String::new(), 403),
        ("GET", "/status/stream", String::new(), 403),
    ] {
        assert_eq!(
            guarded.http(method, path, &authorization, &body).await,
            expected,
            "{method} {path} {body}"
        );
    }

    let mut kv = guarded.kv();
    let basic = header("secret");
    let write = |key: &str| Write {
        kind: Some(Kind::Put(PutWrite { key: key.to_owned().into(), ..PutWrite::default() })),
    };
    for (key, allowed) in [("app:k", true), ("other", false)] {
        let key = || key.to_owned().into();
        let check = |code: Option<ErrorCode>, what: &str| {
            assert_eq!(code, (!allowed).then_some(ErrorCode::Forbidden), "{what} {:?}", key());
        };
        let code = |error: tonic::Status| error_code::<()>(Err(error));
        let request = GetRequest { key: key(), ..GetRequest::default() };
        check(kv.get(signed(&basic, request)).await.err().map(code), "get");
        let request = PutRequest { key: key(), ..PutRequest::default() };
        check(kv.put(signed(&basic, request)).await.err().map(code), "put");
        let request = WatchRequest { key: key(), prefix: true, ..WatchRequest::default() };
        check(kv.watch(signed(&basic, request)).await.err().map(code), "watch");
        let guards = vec![Guard { key: key(), revision: 0 }];
        let request = TransactionRequest { guards, ..TransactionRequest::default() };
        check(kv.transaction(signed(&basic, request)).await.err().map(code), "guard of");
        let writes = vec![write(std::str::from_utf8(&key()).unwrap())];
        let request = TransactionRequest { writes, ..TransactionRequest::default() };
        check(kv.transaction(signed(&basic, request)).await.err().map(code), "write of");
        let request = DeleteRequest { keys: vec!["app:k".into(), key()], ..DeleteRequest::default() };
        check(kv.delete(signed(&basic, request)).await.err().map(code), "delete");
    }
    for (start, end, allowed) in
        [("app:", "app;", true), ("app:", "", false), ("", "", false), ("a", "app;", false)]
    {
        let request = RangeRequest { start: start.into(), end: end.into(), ..RangeRequest::default() };
        let refused = kv
            .range(signed(&basic, request))
            .await
            .is_err_and(|error| error_code::<()>(Err(error)) == ErrorCode::Forbidden);
        assert_eq!(refused, !allowed, "{start} {end}");
    }
    let request = WatchRequest { prefix: true, ..WatchRequest::default() };
    assert_eq!(error_code(kv.watch(signed(&basic, request)).await), ErrorCode::Forbidden);
    let address = format!("http://127.0.0.1:{}", guarded.node.ports.grpc);
    let mut info = ClusterInfoClient::connect(address).await.unwrap();
    let status = info.status(signed(&basic, StatusRequest {})).await.unwrap().into_inner();
    assert_eq!((status.keys, status.state, status.name.as_str()), (0, None, "node-1"));
}

#[tokio::test]
async fn user_with_prefixes_follows_no_other_keys() {
    let mut guarded = guarded().await;
    let mut boss = guarded.as_user("boss").await;
    for key in ["app:k", "other"] {
        assert_eq!(first_word(&mut boss, &["SET", key, "v"]).await, "OK");
    }
    let (basic, mut client) = (header("secret"), guarded.node.follow());
    for (prefix, allowed) in [("app:", true), ("app:k", true), ("app", false), ("other", false), ("", false)]
    {
        let request = FollowRequest { prefixes: vec![prefix.into()], ..FollowRequest::default() };
        let code = client.follow(signed(&basic, request)).await.map_err(|error| error_code::<()>(Err(error)));
        assert_eq!(code.is_ok(), allowed, "{prefix}");
        assert!(allowed || code.is_err_and(|code| code == ErrorCode::Forbidden));
    }
    assert_eq!(error_code(client.follow(FollowRequest::default()).await), ErrorCode::Unauthenticated);
    // Without prefixes, a user follows all keys that the user may access.
    let request = FollowRequest { snapshot_ok: true, ..FollowRequest::default() };
    let mut follower = Follower::of(client.follow(signed(&basic, request)).await.unwrap().into_inner()).await;
    follower.until("the snapshot", |follower| follower.is_whole).await;
    assert_eq!((follower.records.len(), follower.has("app:k", "v")), (1, true));
    for words in [["SET", "other", "w"], ["SET", "app:k", "w"]] {
        assert_eq!(first_word(&mut boss, &words).await, "OK");
    }
    follower.until("the change", |follower| follower.has("app:k", "w")).await;
    assert_eq!(follower.records.len(), 1);
    // The stream ends when the user's prefixes change.
    guarded.put_users(&app(&format!("password_sha256: {SECRET}")).replace("'app:'", "'api:'"));
    assert_eq!(follower.error().await, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn connection_stays_authenticated_when_its_password_is_changed_with_an_overlap() {
    let mut guarded = guarded().await;
    let mut old = guarded.as_user("app").await;
    let both = format!("password_sha256: {OTHER}, previous_password_sha256: {SECRET}");
    guarded.put_users(&app(&both));
    let mut connection = guarded.node.redis().await;
    eventually("the new password is valid", async || {
        (first_word(&mut connection, &["AUTH", "app", "other"]).await == "OK").then_some(())
    })
    .await;
    assert_eq!(first_word(&mut connection, &["AUTH", "app", "secret"]).await, "OK", "so is the previous one");
    guarded.put_users(&app(&format!("password_sha256: {OTHER}")));
    eventually("the previous password is not", async || {
        (first_word(&mut connection, &["AUTH", "app", "secret"]).await == "WRONGPASS").then_some(())
    })
    .await;
    assert_eq!(first_word(&mut old, &["GET", "app:k"]).await, "OK");
    guarded.put_users("");
    eventually("the user is removed", async || {
        (first_word(&mut old, &["GET", "app:k"]).await == "NOAUTH").then_some(())
    })
    .await;
}
