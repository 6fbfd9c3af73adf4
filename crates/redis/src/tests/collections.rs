//! Commands on hashes, sets, lists and sorted sets, and the newer string commands.

use super::commands::check_all;
use super::*;

#[tokio::test]
async fn newer_string_commands_reply_as_redis() {
    check_all(&[
        ("APPEND s ab", ":2"),
        ("APPEND s cd", ":4"),
        ("GETRANGE s 1 -2", "$2\r\nbc"),
        ("SETRANGE s 6 x", ":7"),
        ("GET s", "$7\r\nabcd\0\0x"),
        ("SETRANGE s -1 x", "-ERR offset is out of range"),
        ("SETRANGE s 99999999 x", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)"),
        ("INCRBYFLOAT f 0.1", "$3\r\n0.1"),
        ("INCRBYFLOAT f 0.2", "$3\r\n0.3"),
        ("INCRBYFLOAT f x", "-ERR value is not a valid float"),
        ("GETEX f PX 100000", "$3\r\n0.3"),
        ("TTL f", ":100"),
        ("INCRBYFLOAT f 1", "$3\r\n1.3"),
        ("TTL f", ":100"),
        ("GETEX f PERSIST", "$3\r\n1.3"),
        ("TTL f", ":-1"),
        ("GETEX f EX 0", "-ERR invalid expire time in 'getex' command"),
        ("GETDEL f", "$3\r\n1.3"),
        ("GETDEL f", "$-1"),
        ("SETBIT b 7 1", ":0"),
        ("GETBIT b 7", ":1"),
        ("BITCOUNT b", ":1"),
        ("BITPOS b 1", ":7"),
        ("BITOP NOT c b", ":1"),
        ("BITCOUNT c", ":7"),
        ("MSET x ohmytext y mynewtext", "+OK"),
        ("LCS x y", "$6\r\nmytext"),
        ("LCS x y LEN", ":6"),
        ("RENAME x z", "+OK"),
        ("RENAME x z", "-ERR no such key"),
        ("RENAMENX z y", ":0"),
        ("COPY z w", ":1"),
        ("GET w", "$8\r\nohmytext"),
        ("COPY z w", ":0"),
        ("COPY z z", "-ERR source and destination objects are the same"),
        ("OBJECT ENCODING z", "$6\r\nembstr"),
    ])
    .await;
}

#[tokio::test]
async fn hash_commands_reply_as_redis() {
    check_all(&[
        ("HSET h a 1 b 2", ":2"),
        ("HSET h a 3 c", "-ERR wrong number of arguments for 'hset' command"),
        ("HSET h a 3", ":0"),
        ("HGET h a", "$1\r\n3"),
        ("HGETALL h", "*4\r\n$1\r\na\r\n$1\r\n3\r\n$1\r\nb\r\n$1\r\n2"),
        ("HMGET h b none", "*2\r\n$1\r\n2\r\n$-1"),
        ("HINCRBY h a 4", ":7"),
        ("HINCRBYFLOAT h a .5", "$3\r\n7.5"),
        ("HINCRBY h a 4", "-ERR hash value is not an integer"),
        ("HLEN h", ":2"),
        ("TYPE h", "+hash"),
        ("GET h", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("HDEL h a none", ":1"),
        ("HDEL h b", ":1"),
        ("EXISTS h", ":0"),
        ("HSETNX h a 1", ":1"),
        ("EXPIRE h 100", ":1"),
        ("HSET h z 1", ":1"),
        ("TTL h", ":100"),
        ("RENAME h g", "+OK"),
        ("HKEYS g", "*2\r\n$1\r\na\r\n$1\r\nz"),
        ("TTL g", ":100"),
        ("SET g x", "+OK"),
        ("HSET g a 1", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("DBSIZE", ":1"),
    ])
    .await;
}

#[tokio::test]
async fn set_commands_reply_as_redis() {
    check_all(&[
        ("SADD s a b c", ":3"),
        ("SADD t b c d", ":3"),
        ("SISMEMBER s a", ":1"),
        ("SMISMEMBER s a x", "*2\r\n:1\r\n:0"),
        ("SINTER s t", "*2\r\n$1\r\nb\r\n$1\r\nc"),
        ("SDIFF s t", "*1\r\n$1\r\na"),
        ("SUNIONSTORE u s t", ":4"),
        ("SINTERCARD 2 s t LIMIT 1", ":1"),
        ("SMOVE s t a", ":1"),
        ("SCARD t", ":4"),
        ("SINTERSTORE u s none", ":0"),
        ("EXISTS u", ":0"),
        ("SREM s b c", ":2"),
        ("EXISTS s", ":0"),
        ("SPOP t 10", "*4\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd"),
        ("EXISTS t", ":0"),
    ])
    .await;
}

#[tokio::test]
async fn list_commands_reply_as_redis() {
    check_all(&[
        ("RPUSH l b c", ":2"),
        ("LPUSH l a", ":3"),
        ("LRANGE l 0 -1", "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc"),
        ("LINSERT l BEFORE b x", ":4"),
        ("LRANGE l 0 2", "*3\r\n$1\r\na\r\n$1\r\nx\r\n$1\r\nb"),
        ("LINSERT l AFTER c y", ":5"),
        ("LINDEX l -1", "$1\r\ny"),
        ("LSET l 1 z", "+OK"),
        ("LSET l 9 z", "-ERR index out of range"),
        ("LREM l 0 z", ":1"),
        ("LPOS l c", ":2"),
        ("LTRIM l 1 2", "+OK"),
        ("LRANGE l 0 -1", "*2\r\n$1\r\nb\r\n$1\r\nc"),
        ("LMOVE l m LEFT RIGHT", "$1\r\nb"),
        ("RPOPLPUSH l m", "$1\r\nc"),
        ("EXISTS l", ":0"),
        ("LMPOP 2 l m LEFT COUNT 2", "*2\r\n$1\r\nm\r\n*2\r\n$1\r\nc\r\n$1\r\nb"),
        ("LPOP m", "$-1"),
        ("LPOP m 1", "*-1"),
        ("RPOP m 1 2", "-ERR wrong number of arguments for 'rpop' command"),
        ("LPUSHX m a", ":0"),
    ])
    .await;
}

#[tokio::test]
async fn sorted_set_commands_reply_as_redis() {
    check_all(&[
        ("ZADD z 1 a 2 b 3 c", ":3"),
        ("ZADD z XX CH 5 a", ":1"),
        ("ZRANGE z 0 -1", "*3\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\na"),
        ("ZRANGE z (2 +inf BYSCORE LIMIT 0 1 WITHSCORES", "*2\r\n$1\r\nc\r\n$1\r\n3"),
        ("ZREVRANGE z 0 0", "*1\r\n$1\r\na"),
        ("ZRANK z a", ":2"),
        ("ZREVRANK z a", ":0"),
        ("ZRANK z a WITHSCORE", "*2\r\n:2\r\n$1\r\n5"),
        ("ZREVRANK z nosuch WITHSCORE", "*-1"),
        ("ZRANK z a WITHSCORES", "-ERR syntax error"),
        ("ZINCRBY z -10 a", "$2\r\n-5"),
        ("ZSCORE z a", "$2\r\n-5"),
        ("ZCOUNT z -inf 2", ":2"),
        ("ZADD z nan a", "-ERR value is not a valid float"),
        ("ZADD z NX XX 1 a", "-ERR XX and NX options at the same time are not compatible"),
        ("ZPOPMIN z", "*2\r\n$1\r\na\r\n$2\r\n-5"),
        ("ZADD w 0 a 0 b 0 c", ":3"),
        ("ZRANGEBYLEX w [b +", "*2\r\n$1\r\nb\r\n$1\r\nc"),
        ("ZUNIONSTORE u 2 z w WEIGHTS 2 1", ":3"),
        ("ZSCORE u c", "$1\r\n6"),
        ("ZINTER 2 z w WITHSCORES", "*4\r\n$1\r\nb\r\n$1\r\n2\r\n$1\r\nc\r\n$1\r\n3"),
        ("ZREMRANGEBYRANK u 0 1", ":2"),
        ("ZCARD u", ":1"),
        ("ZPOPMAX u 5", "*2\r\n$1\r\nc\r\n$1\r\n6"),
        ("EXISTS u", ":0"),
    ])
    .await;
}

#[tokio::test]
async fn element_scan_ends_and_returns_each_element_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for number in 0..25 {
        client.check(&format!("HSET h f{number:02} {number}"), ":1").await;
    }
    let (mut cursor, mut fields) = ("0".to_owned(), Vec::new());
    loop {
        let (next, page) = client.scan(&format!("HSCAN h {cursor} COUNT 10")).await;
        fields.extend(page.into_iter().step_by(2));
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    let expected: Vec<_> = (0..25).map(|number| format!("f{number:02}")).collect();
    assert_eq!(fields, expected);
    let (next, page) = client.scan("HSCAN h 12345 MATCH *").await;
    assert_eq!((next.as_str(), page.len()), ("0", 0), "a cursor that was never issued");
}

#[tokio::test]
async fn scores_and_pairs_are_typed_in_resp3() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("ZADD z 1.5 a", ":1").await;
    client.send("HELLO 3\r\n").await;
    while client.line().await != "*0" {}
    client.check("ZSCORE z a", ",1.5").await;
    client.check("ZRANGE z 0 -1 WITHSCORES", "*1\r\n*2\r\n$1\r\na\r\n,1.5").await;
    client.check("HSET h a 1", ":1").await;
    client.check("HGETALL h", "%1\r\n$1\r\na\r\n$1\r\n1").await;
    client.check("SADD s a", ":1").await;
    client.check("SMEMBERS s", "~1\r\n$1\r\na").await;
}
