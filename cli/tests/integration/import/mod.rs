//! Imports from a real Redis into real members: files, and a running server with a cut-over under writers.

mod live;
mod locked;
mod servers;
mod valkey;

use std::path::Path;
use std::process::Output;

use redis::Connection;
use serde_json::Value;

use self::servers::{Redis, ask, assert_same, connect, content, have_redis};
use crate::dev::{Dev, ctl};

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn import(file: &Path, to: &str, words: &[&str]) -> Output {
    let fixed = ["import", "--rdb", file.to_str().unwrap(), "--to", to, "--output", "json"];
    ctl(&[&fixed[..], words].concat())
}

/// Values of each type, small and large, so that each encoding is used; some with an expiry.
fn fill(connection: &mut Connection) {
    let mut pipe = redis::pipe();
    let numbers = ["1", "-1", "300", "-70000", "9007199254740993", "x", "", "a\r\nb"];
    for (at, number) in numbers.iter().enumerate() {
        pipe.cmd("SET").arg(format!("text:{at}")).arg(number).ignore();
        pipe.cmd("RPUSH").arg("list:small").arg(number).ignore();
        pipe.cmd("SADD").arg("set:small").arg(number).ignore();
        pipe.cmd("HSET").arg("hash:small").arg(number).arg(at).ignore();
    }
    pipe.cmd("SET").arg("lzf").arg("abc".repeat(5000)).ignore();
    pipe.cmd("SET").arg(&b"bytes\xff\x00"[..]).arg(&b"\x00\xff\r\n"[..]).ignore();
    pipe.cmd("SET").arg("large").arg("v".repeat(3 << 20)).ignore();
    pipe.cmd("SADD").arg("set:numbers").arg((0..100).collect::<Vec<_>>()).ignore();
    pipe.cmd("SADD").arg("set:large-numbers").arg(vec![1_i64, 1 << 40]).ignore();
    for (at, score) in ["-inf", "1.5", "3", "1e300", "0.1", "+inf"].iter().enumerate() {
        pipe.cmd("ZADD").arg("zset:small").arg(score).arg(at).ignore();
    }
    for at in 0..3000 {
        pipe.cmd("RPUSH").arg("list:large").arg(format!("element {at}")).ignore();
        pipe.cmd("SADD").arg("set:large").arg(format!("member {at}")).ignore();
        pipe.cmd("HSET").arg("hash:large").arg(format!("field {at}")).arg(at).ignore();
        pipe.cmd("ZADD").arg("zset:large").arg(at as f64 / 7.0).arg(format!("member {at}")).ignore();
    }
    pipe.cmd("RPUSH").arg("list:wide").arg(vec!["w".repeat(200_000); 8]).ignore();
    for key in ["text:0", "list:large", "set:small", "hash:large", "zset:small"] {
        pipe.cmd("PEXPIREAT").arg(key).arg(4_102_444_800_123_u64).ignore();
    }
    pipe.exec(connection).unwrap();
}

#[test]
fn rdb_file_is_imported_with_every_encoding_part_and_expiry() {
    if !have_redis() {
        return;
    }
    let dev = Dev::start();
    let client = dev.clients();
    for settings in [
        &[][..],
        &["--list-max-listpack-size", "4", "--hash-max-listpack-entries", "4", "--rdbcompression", "no"],
    ] {
        let source = Redis::start(settings);
        fill(&mut source.connection());
        let file = source.save();
        let imported = report(&import(&file, &client, &["--replace"]));
        let expected = content(&mut source.connection());
        assert_eq!(imported["keys"], expected.len(), "{imported}");
        let first = client.split(',').next().unwrap();
        assert_same(&expected, &content(&mut connect(first).unwrap()));
    }
}

#[test]
fn rdb_file_that_cannot_be_imported_whole_is_refused_before_anything_is_written() {
    if !have_redis() {
        return;
    }
    let (dev, source) = (Dev::start(), Redis::start(&[]));
    let client = dev.clients();
    let mut target = connect(client.split(',').next().unwrap()).unwrap();
    let mut connection = source.connection();
    ask::<()>(&mut connection, "SET kept 1");
    ask::<()>(&mut connection, "SET expired 1 PX 1");
    let refused = |words: &[&str], expected: &str| {
        let message = error(&import(&source.save(), &client, words));
        assert!(message.contains(expected), "{message}");
        message
    };

    let mut bytes = std::fs::read(source.save()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    let damaged = source.dir.path().join("damaged.rdb");
    std::fs::write(&damaged, bytes).unwrap();
    assert!(error(&import(&damaged, &client, &[])).contains("RDB file"));

    ask::<()>(&mut connection, "XADD events 1-1 a b");
    let message = refused(&[], "stream: 1, e.g. \"events\"");
    assert!(message.contains("--skip-unsupported"), "{message}");
    ask::<()>(&mut connection, "SELECT 5");
    ask::<()>(&mut connection, "SET other 1");
    ask::<()>(&mut connection, "SELECT 0");
    refused(&["--skip-unsupported"], "5 (1 keys), and HeliosDB has one: choose with --database");
    redis::cmd("HSET").arg("wide").arg("f".repeat(70_000)).arg(1).exec(&mut connection).unwrap();
    let chosen = ["--skip-unsupported", "--database", "0"];
    refused(&chosen, "\"wide\"");
    ask::<()>(&mut connection, "DEL wide");
    redis::cmd("SET").arg("huge").arg("v".repeat(8 << 20)).exec(&mut connection).unwrap();
    refused(&chosen, "\"huge\"");
    // More than `heliosd dev` takes, and not more than other members do.
    redis::cmd("SET").arg("huge").arg("v".repeat(5 << 20)).exec(&mut connection).unwrap();
    refused(&chosen, "the value of \"huge\" has 5242880 bytes");
    ask::<()>(&mut connection, "DEL huge");
    assert_eq!(ask::<u64>(&mut target, "DBSIZE"), 0);

    ask::<()>(&mut target, "SET own 1");
    refused(&chosen, "the target has 1 keys");
    let both = report(&import(&source.save(), &client, &[&chosen[..], &["--into-existing"]].concat()));
    assert_eq!((&both["keys"], &both["skipped"]["stream"]), (&Value::from(1), &Value::from(1)), "{both}");
    assert_eq!(ask::<u64>(&mut target, "DBSIZE"), 2);
    let other = report(&import(&source.save(), &client, &["--replace", "--database", "5"]));
    assert_eq!(other["keys"], 1, "{other}");
    assert_eq!(ask::<Vec<String>>(&mut target, "KEYS *"), ["other"]);
}
