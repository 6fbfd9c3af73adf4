//! Keys on which the calls operate.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline, RedisResult};

use super::{ELEMENTS, scale};

/// Keys, with the command that counts the elements of each.
const COUNTS: [(&str, &str); 7] = [
    ("LIST", "LLEN"),
    ("SET", "SCARD"),
    ("ZSET", "ZCARD"),
    ("HASH", "HLEN"),
    ("TEXT", "STRLEN"),
    ("WIDE", "SCARD"),
    ("short", "STRLEN"),
];
const TEXT_BYTES: usize = 1_000_000;

/// Keys with a dump of each, from which those that a call removed are restored.
pub struct Keys(Vec<Key>);

struct Key {
    name: &'static str,
    count: &'static str,
    elements: usize,
    dump: Vec<u8>,
}

impl Keys {
    pub async fn make(redis: &mut MultiplexedConnection) -> Self {
        let name = |n: usize| format!("e{n:07}");
        for chunk in (0..ELEMENTS * scale()).collect::<Vec<_>>().chunks(5_000) {
            let mut pipe = redis::pipe();
            for (command, key) in [("RPUSH", "LIST"), ("SADD", "SET")] {
                pipe.cmd(command).arg(key).arg(chunk.iter().map(|n| name(*n)).collect::<Vec<_>>());
            }
            let add = pipe.cmd("ZADD").arg("ZSET");
            for n in chunk {
                add.arg(n).arg(name(*n));
            }
            let set = pipe.cmd("HSET").arg("HASH");
            for n in chunk {
                set.arg(name(*n)).arg("value");
            }
            run::<()>(redis, &pipe).await;
        }
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg("TEXT").arg("t".repeat(TEXT_BYTES));
        pipe.cmd("SADD").arg("WIDE").arg("w".repeat(2_000));
        pipe.cmd("SET").arg("short").arg("ab".repeat(2_000));
        run::<()>(redis, &pipe).await;
        let mut keys = Vec::new();
        for (name, count) in COUNTS {
            let (elements, dump) = run(redis, redis::pipe().cmd(count).arg(name).cmd("DUMP").arg(name)).await;
            keys.push(Key { name, count, elements, dump });
        }
        Self(keys)
    }

    pub async fn restore(&self, redis: &mut MultiplexedConnection) {
        run::<()>(redis, redis::pipe().cmd("DEL").arg(&["new", "LIST2", "SET2", "n"]).ignore()).await;
        for Key { name, count, elements, dump } in &self.0 {
            let whole = redis::cmd(count).arg(name).query_async::<usize>(redis).await;
            // The key has another type or too few elements; a difference of a few elements does not matter.
            if whole.is_ok_and(|found| found + 10 >= *elements) {
                continue;
            }
            run::<()>(redis, redis::pipe().cmd("RESTORE").arg(name).arg(0).arg(&dump[..]).arg("REPLACE"))
                .await;
        }
    }
}

/// Executes `pipe`; retries while the member rejects writes because it is overloaded.
async fn run<T: FromRedisValue>(redis: &mut MultiplexedConnection, pipe: &Pipeline) -> T {
    loop {
        let answer: RedisResult<T> = pipe.query_async(redis).await;
        match answer {
            Err(error) if super::is_overloaded(&error.to_string()) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            answer => return answer.unwrap(),
        }
    }
}
