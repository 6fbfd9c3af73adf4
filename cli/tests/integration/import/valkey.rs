//! Imports from a real Valkey 9, whose files have another version than those of Redis.

use redis::Connection;

use super::live::Import;
use super::servers::{Redis, ask, assert_same, connect, content, valkey_server};
use super::{error, fill, import, report};
use crate::dev::Dev;

fn target(dev: &Dev) -> Connection {
    connect(dev.clients().split(',').next().unwrap()).unwrap()
}

#[test]
fn valkey_is_imported_from_its_file_and_while_it_runs() {
    let Some(program) = valkey_server() else { return };
    let (dev, source) = (Dev::start(), Redis::start_with(&program, "", |_| Vec::new()));
    let mut connection = source.connection();
    fill(&mut connection);
    let expected = content(&mut connection);
    let of_file = report(&import(&source.save(), &dev.clients(), &[]));
    assert_eq!(of_file["keys"], expected.len(), "{of_file}");
    assert_same(&expected, &content(&mut target(&dev)));

    let of_server = Import::start(&source, &dev.clients(), &["--replace", "--cut-over", "--fence"]).report();
    assert_eq!(of_server["cutOver"]["sourceKeys"], of_server["cutOver"]["targetKeys"], "{of_server}");
    assert_same(&content(&mut connection), &content(&mut target(&dev)));
    let refused = redis::cmd("SET").arg("late").arg(1).exec(&mut connection).unwrap_err();
    assert!(refused.to_string().contains("NOREPLICAS"), "{refused}");
}

#[test]
fn hash_of_valkey_whose_fields_expire_is_refused_and_can_be_left_out() {
    let Some(program) = valkey_server() else { return };
    let (dev, source) = (Dev::start(), Redis::start_with(&program, "", |_| Vec::new()));
    let mut connection = source.connection();
    ask::<()>(&mut connection, "HSET session user 7 token x");
    ask::<()>(&mut connection, "HSET plain user 7");
    assert_eq!(ask::<Vec<i64>>(&mut connection, "HEXPIRE session 1000 FIELDS 1 token"), [1]);
    let refused = error(&import(&source.save(), &dev.clients(), &[]));
    assert!(refused.contains("hash whose fields expire: 1, e.g. \"session\""), "{refused}");
    let rest = report(&import(&source.save(), &dev.clients(), &["--skip-unsupported"]));
    assert_eq!(rest["keys"], 1, "{rest}");
}
