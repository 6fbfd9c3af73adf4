//! Limits of scripts, and conversion of their results in RESP3.

use super::scripts::{command, eval};
use super::*;

const BACKTRACKS: &str = "string.find(('a'):rep(60), ('a*'):rep(30) .. 'b')";

async fn resp3(server: &Server) -> Client {
    let mut client = server.client().await;
    client.send("HELLO 3\r\n").await;
    while client.line().await != "*0" {}
    client
}

/// Runs a script without keys and arguments and returns its error reply.
async fn error_of(client: &mut Client, script: &str) -> String {
    command(client, &["EVAL", script, "0"]).await;
    let line = client.line().await;
    assert!(line.starts_with('-'), "{script}: {line}");
    line
}

#[tokio::test]
async fn script_results_convert_by_setresp_and_client_protocol() {
    let server = Server::start().await;
    let (mut two, mut three) = (server.client().await, resp3(&server).await);
    two.check("HSET h a 1", ":1").await;
    two.check("SADD s m", ":1").await;
    two.check("ZADD z 1.5 m", ":1").await;
    // Script, reply in RESP2, reply in RESP3.
    for (script, of_two, of_three) in [
        ("return false", "$-1", "_"),
        ("return true", ":1", ":1"),
        ("return nil", "$-1", "_"),
        (
            "return {1, false, true, {false}}",
            "*4\r\n:1\r\n$-1\r\n:1\r\n*1\r\n$-1",
            "*4\r\n:1\r\n_\r\n:1\r\n*1\r\n_",
        ),
        ("redis.setresp(3) return true", ":1", "#t"),
        ("redis.setresp(3) return false", ":0", "#f"),
        ("redis.setresp(3) return nil", "$-1", "_"),
        ("redis.setresp(3) return {false, {true}}", "*2\r\n:0\r\n*1\r\n:1", "*2\r\n#f\r\n*1\r\n#t"),
        ("redis.setresp(3) redis.setresp(2) return true", ":1", ":1"),
        ("return 3.99", ":3", ":3"),
        ("return 'x'", "$1\r\nx", "$1\r\nx"),
        ("return print", "-ERR", "-ERR"),
        ("return tostring", "$-1", "_"),
        ("return {double=1.5}", "$3\r\n1.5", ",1.5"),
        ("return {map={a=true}}", "*2\r\n$1\r\na\r\n:1", "%1\r\n$1\r\na\r\n:1"),
        ("redis.setresp(3) return {map={a=true}}", "*2\r\n$1\r\na\r\n:1", "%1\r\n$1\r\na\r\n#t"),
        ("return {set={a=true}}", "*1\r\n$1\r\na", "~1\r\n$1\r\na"),
        ("return {big_number='12\\r\\n3'}", "$5\r\n12  3", "(12  3"),
        ("return {verbatim_string={format='markdown', string='x\\0y'}}", "$3\r\nx\0y", "=7\r\nmar:x\0y"),
        ("return {verbatim_string={format='a', string=''}}", "$0\r\n", "=4\r\na  :"),
        ("return {ok='a\\nb'}", "+a b", "+a b"),
        // Lua values that redis.call returns.
        ("return redis.call('get', 'absent') == false", ":1", ":1"),
        ("redis.setresp(3) return {redis.call('get', 'absent') == nil}", "*1\r\n:1", "*1\r\n#t"),
        ("return redis.call('hgetall', 'h')", "*2\r\n$1\r\na\r\n$1\r\n1", "*2\r\n$1\r\na\r\n$1\r\n1"),
        (
            "redis.setresp(3) return redis.call('hgetall', 'h')",
            "*2\r\n$1\r\na\r\n$1\r\n1",
            "%1\r\n$1\r\na\r\n$1\r\n1",
        ),
        ("return redis.call('smembers', 's')", "*1\r\n$1\r\nm", "*1\r\n$1\r\nm"),
        ("redis.setresp(3) return redis.call('smembers', 's')", "*1\r\n$1\r\nm", "~1\r\n$1\r\nm"),
        ("return redis.call('zscore', 'z', 'm')", "$3\r\n1.5", "$3\r\n1.5"),
        ("redis.setresp(3) return redis.call('zscore', 'z', 'm')", "$3\r\n1.5", ",1.5"),
        ("redis.setresp(3) return redis.call('zscore', 'z', 'm').double * 2", ":3", ":3"),
    ] {
        for (client, reply) in [(&mut two, of_two), (&mut three, of_three)] {
            if reply == "-ERR" {
                error_of(client, script).await;
            } else {
                eval(client, script, &["0"], reply).await;
            }
        }
    }
}

#[tokio::test]
async fn script_over_its_memory_budget_is_an_error() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let limit = "-ERR reached lua stack limit";
    let cycle = "local t={} t[1]=t t[2]=t return t";
    eval(&mut client, cycle, &["0"], &format!("*2\r\n{limit}\r\n{limit}")).await;
    for script in [
        // No table contains itself, and all together have 2^60 elements.
        "local t = {1} for _ = 1, 60 do t = {t, t} end return t",
        "local s = ('x'):rep(2^20) local t = {} for i = 1, 100 do t[i] = s end return t",
        "local s = ('x'):rep(2^20) local t = {} for i = 1, 100 do t[i] = {map={[i] = {verbatim_string={format='txt', string=s}}}} end return t",
        "local s = ('x'):rep(2^20) for i = 1, 100 do redis.call('publish', 'c', s) end",
        "local s = ('x'):rep(2^20) for i = 1, 100 do redis.pcall('publish', 'c', s) end",
        "local s = ('x'):rep(2^20) for i = 1, 100 do pcall(redis.call, 'set', 'k' .. i, s) end",
        "local t = {('x'):rep(1000)} for _ = 1, 60 do t = {t, t} end return cjson.encode(t)",
        "return #string.gsub(('x'):rep(2^20), 'x', ('y'):rep(1000))",
        "return #string.gsub(('x'):rep(2^17), 'x', function() return ('y'):rep(1000) end)",
        "return string.rep('x', 2^27)",
        "local s = ('x'):rep(2^20) local t = {} for i = 1, 100 do t[i] = s end return #table.concat(t)",
        "local s = ('x'):rep(2^25) return #(string.format('%s%s', s, s))",
    ] {
        let error = error_of(&mut client, script).await;
        // On a busy machine the time limit is reached first.
        let is_bounded = error.contains("not enough memory") || error.contains("stopped after 5 seconds");
        assert!(is_bounded, "{script}: {error}");
    }
    client.check("DBSIZE", ":0").await;
    let many = error_of(&mut client, "for i = 1, 10001 do redis.call('publish', 'c', 'm') end").await;
    assert!(many.contains("10000 messages"), "{many}");
    let deep = "local t = {} for i = 1, 200 do t = {t} end return t";
    command(&mut client, &["EVAL", deep, "0"]).await;
    let mut line = client.line().await;
    while line == "*1" {
        line = client.line().await;
    }
    assert_eq!(line, "-ERR reached lua stack limit");
    let huge = error_of(&mut client, "error(('\\255'):rep(2^24))").await;
    assert!(huge.len() < 4 * 65_536, "{}", huge.len());
    eval(&mut client, "for i = 1, 100000 do redis.log(3, 'x') end return 1", &["0"], ":1").await;
}

#[tokio::test]
async fn transaction_with_scripts_has_one_budget_for_all_replies() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("MULTI", "+OK").await;
    for _ in 0..8 {
        command(&mut client, &["EVAL", "return ('x'):rep(10000000)", "0"]).await;
        client.expect("+QUEUED\r\n").await;
    }
    client.send("EXEC\r\nQUIT\r\n").await;
    let mut answer = Vec::new();
    timeout(PATIENCE, client.stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"*8\r\n$10000000\r\n") && answer.len() < 64 << 20, "{}", answer.len());
    assert!(memchr::memmem::find(&answer, b"not enough memory").is_some());
}

#[tokio::test]
async fn a_script_with_more_text_than_the_limit_is_not_compiled() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let long = format!("return 1 -- {}", "x".repeat(256 << 10));
    command(&mut client, &["EVAL", &long, "0"]).await;
    assert!(client.line().await.contains("BUDGET_EXCEEDED (4008)"));
    command(&mut client, &["SCRIPT", "LOAD", &long]).await;
    assert!(client.line().await.contains("BUDGET_EXCEEDED (4008)"));
    let inside = "return select(2, loadstring('return 1 --' .. ('x'):rep(2^18)))";
    command(&mut client, &["EVAL", inside, "0"]).await;
    client.line().await;
    assert!(client.line().await.starts_with("BUDGET_EXCEEDED (4008)"));
}

#[tokio::test]
async fn a_script_gets_as_many_arguments_as_a_request_may_have() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let words: Vec<String> = (0..20_000).map(|number| number.to_string()).collect();
    let mut request = vec!["EVAL", "return {#ARGV, ARGV[20000]}", "0"];
    request.extend(words.iter().map(String::as_str));
    command(&mut client, &request).await;
    client.expect("*2\r\n:20000\r\n$5\r\n19999\r\n").await;
    let unpacked = "local t = {} for i = 1, 7999 do t[i] = i end return redis.call('sadd', 's', unpack(t))";
    eval(&mut client, unpacked, &["0"], ":7999").await;
}

#[tokio::test]
async fn string_functions_agree_with_lua() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (script, reply) in [
        ("return {string.find('hello world', 'o w')}", "*2\r\n:5\r\n:7"),
        ("return {string.find('a.b', '.', 1, true)}", "*2\r\n:2\r\n:2"),
        ("return {('key=val'):match('(%w+)=(%w+)')}", "*2\r\n$3\r\nkey\r\n$3\r\nval"),
        ("return {('abc'):find('()b()')}", "*4\r\n:2\r\n:2\r\n:2\r\n:3"),
        ("return {('abc'):find('b', -1)}", "*0"),
        ("return {('abc'):gsub('%w', '%0%0')}", "*2\r\n$6\r\naabbcc\r\n:3"),
        ("return {('abc'):gsub('', '-')}", "*2\r\n$7\r\n-a-b-c-\r\n:4"),
        ("return {('abc'):gsub('^a', 'x', 5)}", "*2\r\n$3\r\nxbc\r\n:1"),
        ("return {('hello'):gsub('l', {l='L'}, 1)}", "*2\r\n$5\r\nheLlo\r\n:1"),
        ("return {('a1b2'):gsub('%d', function(d) return d + 1 end)}", "*2\r\n$4\r\na2b3\r\n:2"),
        ("return {('abc'):gsub('x*', function() return '-' end)}", "*2\r\n$7\r\n-a-b-c-\r\n:4"),
        ("return {('ab'):gsub('.', function() end)}", "*2\r\n$2\r\nab\r\n:2"),
        (
            "local t = {} for k, v in ('a=1,b=2'):gmatch('(%w)=(%w)') do t[#t + 1] = k .. v end return t",
            "*2\r\n$2\r\na1\r\n$2\r\nb2",
        ),
        ("local n = 0 for _ in ('abc'):gmatch('') do n = n + 1 end return n", ":4"),
        ("return select(2, pcall(string.find, 'a', '['))", "$37\r\nmalformed pattern (missing ']')"),
        ("return {pcall(function() string.rep() end)}", "*2\r\n$-1"),
        ("return {('x'):rep(3), (''):rep(2^31), ('ab'):rep(0)}", "*3\r\n$3\r\nxxx\r\n$0\r\n\r\n$0\r\n"),
        ("local t = {3,1,2} table.sort(t) return t", "*3\r\n:1\r\n:2\r\n:3"),
        ("local t = {3,1,2} table.sort(t, function(a, b) return a > b end) return t", "*3\r\n:3\r\n:2\r\n:1"),
        ("local t = {1,3} table.insert(t, 2, 2) table.insert(t, 4) return t", "*4\r\n:1\r\n:2\r\n:3\r\n:4"),
        ("return {unpack({1,2,3}, 2)}", "*2\r\n:2\r\n:3"),
        ("return loadstring('return 1 + 1')()", ":2"),
        ("return string.format('%5.2f|%s', 3.14159, 'x')", "$7\r\n 3.14|x"),
    ] {
        if reply.ends_with("missing ']')") {
            command(&mut client, &["EVAL", script, "0"]).await;
            client.line().await;
            assert!(client.line().await.ends_with("malformed pattern (missing ']')"));
        } else if script.contains("rep() end") {
            command(&mut client, &["EVAL", script, "0"]).await;
            assert_eq!(client.line().await, "*2");
            client.expect("$-1\r\n").await;
            client.line().await;
            assert!(client.line().await.contains("bad argument #1 to"));
        } else {
            eval(&mut client, script, &["0"], reply).await;
        }
    }
    let error = error_of(&mut client, "\nreturn (string.find('a', '%'))").await;
    assert!(error.starts_with("-ERR user_script:2: malformed pattern (ends with '%')"), "{error}");
}

#[tokio::test]
async fn long_running_lua_functions_are_bounded() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (script, text) in [
        ("return string.find(string.rep('a', 2^18), string.rep('.?', 2^18))", "pattern too complex"),
        ("return string.gsub(string.rep('a', 2^18), string.rep('.?', 2^18), '')", "pattern too complex"),
        (
            "for _ in string.gmatch(string.rep('a', 2^18), string.rep('.?', 2^18)) do end",
            "pattern too complex",
        ),
        ("return string.match(string.rep('a', 2^18), string.rep('(', 2^18))", "too many captures"),
        ("return table.insert({}, -2^31, 1)", "position out of bounds"),
        ("return unpack({}, -2^31, 2^31 - 1)", "too many results to unpack"),
        ("return unpack({}, 0, 2^53)", "too many results to unpack"),
        ("local function f() return (string.gsub('a', 'a', f)) end return f()", "stack overflow"),
        (
            "local function f() return pcall(f) end local t = {} t[1] = string.rep('x', 2^27)",
            "not enough memory",
        ),
    ] {
        let error = error_of(&mut client, script).await;
        assert!(error.contains(text), "{script}: {error}");
    }
    // Linear time for any subject and text.
    eval(
        &mut client,
        "return string.find(('a'):rep(2^22), ('a'):rep(2^21) .. 'b', 1, true) == nil",
        &["0"],
        ":1",
    )
    .await;
}

#[tokio::test]
async fn script_kill_stops_any_endless_function() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    for endless in [
        BACKTRACKS,
        "string.match(('a'):rep(60), ('a*'):rep(30) .. 'b')",
        "string.gsub(('a'):rep(60), ('a*'):rep(30) .. 'b', 'x')",
        "string.gsub(('a'):rep(60), ('a*'):rep(30) .. 'b', function() end)",
        "(string.gmatch(('a'):rep(60), ('a*'):rep(30) .. 'b'))()",
        "(function() local a, b = ('a'):rep(2^23) .. 'x', ('a'):rep(2^23) .. 'y' while true do local _ = a < b end end)()",
        "(function() local t = {} for i = 1, 1e6 do t[i] = i % 7 end while true do table.insert(t, 1, 1) table.remove(t) end end)()",
        "(function() while true do collectgarbage() end end)()",
        "(function() while true do cjson.decode(cjson.encode({1, 2, 3})) end end)()",
        "(function() while true do loadstring('return 1') end end)()",
    ] {
        command(
            &mut client,
            &["EVAL", &format!("while true do pcall(function() return {endless} end) end"), "0"],
        )
        .await;
        loop {
            other.send("SCRIPT KILL\r\n").await;
            if other.line().await == "+OK" {
                break;
            }
        }
        let reply = client.line().await;
        assert!(reply.contains("killed by user with SCRIPT KILL"), "{endless}: {reply}");
    }
}
