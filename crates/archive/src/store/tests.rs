use object_store::memory::InMemory;

use super::*;

fn memory() -> Store {
    Store::new(Arc::new(InMemory::new()), "team/backups")
}

#[tokio::test]
async fn second_create_returns_what_is_there_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let local = Store::open(&format!("file://{}/new", directory.path().display())).unwrap();
    for store in [memory(), local] {
        assert_eq!(store.create("a/b", "one".into()).await.unwrap(), Created::New);
        assert_eq!(store.create("a/b", "one".into()).await.unwrap(), Created::New);
        assert_eq!(store.create("a/b", "two".into()).await.unwrap(), Created::Exists("one".into()));
        assert_eq!(store.get("a/b").await.unwrap(), "one");
        assert_eq!(store.get_head("a/b", 2).await.unwrap(), "on");
        assert_eq!(store.get_head("a/b", 99).await.unwrap(), "one");
        store.replace("a/b", "three".into()).await.unwrap();
        assert_eq!(store.list("a").await.unwrap(), [("a/b".to_owned(), 5)]);
        store.delete("a/b").await.unwrap();
        store.delete("a/b").await.unwrap();
        let error = store.get("a/b").await.unwrap_err();
        assert!(matches!(&error, ArchiveError::Missing { object } if object == "a/b"), "{error}");
    }
}

#[tokio::test]
async fn histories_are_found_by_their_folders() {
    let store = memory();
    let histories = [("a", 1), ("a", 2), ("b", 1)].map(|(id, number)| History::new(id, number).unwrap());
    for history in &histories {
        store.create(&history.name(crate::Object::Origin), "x".into()).await.unwrap();
    }
    store.create("readme", "x".into()).await.unwrap();
    assert_eq!(store.histories().await.unwrap(), histories);
    assert_eq!(store.catalogs().await.unwrap().len(), 3);
}

#[test]
fn bad_url_is_refused_with_what_to_write() {
    for (url, reason) in [
        ("backups", "s3://bucket/prefix"),
        ("ftp://host/x", "one of s3, gs, az or file"),
        ("s3:///x", "names no bucket"),
        ("file:///tmp?region=x", "no option \"region\""),
        ("s3://key:secret@bucket/x", "no user and no password"),
        ("s3://bucket/x?pathStyle=yes", "true or false"),
        ("s3://bucket/x?caFile=/nonexistent", "caFile /nonexistent"),
    ] {
        let error = Store::open(url).unwrap_err().to_string();
        assert!(error.contains(reason), "{url}: {error}");
    }
}

#[test]
fn urls_of_remote_stores_are_opened_without_a_request() {
    for url in [
        "s3://bucket/some/prefix?endpoint=http://127.0.0.1:1&region=eu&pathStyle=true&allowHttp=true&credentials=/x",
        "gs://bucket/prefix",
        "az://container/prefix?account=name",
    ] {
        let store = Store::open(url).unwrap();
        assert!(store.prefix.as_ref().ends_with("prefix"), "{url}");
    }
}

#[tokio::test]
async fn missing_credentials_are_refused_by_their_file() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = directory.path().display();
    let url = format!(
        "s3://bucket/p?endpoint=http://127.0.0.1:1&region=x&allowHttp=true&credentials={credentials}"
    );
    let error = Store::open(&url).unwrap().get("a").await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ArchiveError::Refused { call: "GET", .. }), "{text}");
    assert!(text.contains("AWS_ACCESS_KEY_ID"), "{text}");
}
