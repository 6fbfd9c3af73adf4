//! Random bytes and random commands: no connection task panics, and a connection replies as a model of a few
//! keys does, whether a command is sent alone, in a transaction or by a script.
//!
//! Each test takes a second; `HELIOS_FUZZ_SECONDS` makes it longer, and `HELIOS_FUZZ_SEED` runs one seed again.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tracing::subscriber::DefaultGuard;

use super::super::codec::DecodeLimits;
use super::super::codec::tests::decode_all;
use super::*;

const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const COMMANDS_PER_SEED: usize = 60;

/// Returns one seed after the other until the time is over.
pub fn seeds() -> impl Iterator<Item = u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seconds, only) = (number("HELIOS_FUZZ_SECONDS").unwrap_or(1), number("HELIOS_FUZZ_SEED"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let first = only.unwrap_or_else(rand::random);
    let more = move |seed: &u64| *seed == first || (only.is_none() && Instant::now() < end);
    (0..).map(move |step| first.wrapping_add(step)).take_while(more)
}

/// Returns random bytes that resemble the protocol more often than chance would make them.
fn noise(random: &mut StdRng) -> Vec<u8> {
    const TOKENS: [&[u8]; 14] = [
        b"*1\r\n",
        b"*3\r\n",
        b"$3\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"GET",
        b"\r\n",
        b"\n",
        b"\"",
        b"'",
        b"\\x4",
        b" ",
        b"*1048577\r\n",
        b"$0\r\n\r\n",
    ];
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(1..30) {
        match random.random_range(0..3) {
            0 => bytes.push(random.random()),
            _ => bytes.extend_from_slice(TOKENS[random.random_range(0..TOKENS.len())]),
        }
    }
    bytes
}

pub fn encode(words: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        wire.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        wire.extend_from_slice(word);
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

const LIMITS: DecodeLimits = DecodeLimits { request_bytes: 4096, authenticated: true };

#[test]
fn decoding_does_not_depend_on_how_bytes_are_split() {
    for seed in seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        let words = |random: &mut StdRng| -> Vec<Vec<u8>> {
            let count = random.random_range(1..5);
            (0..count).map(|_| (0..random.random_range(0..20)).map(|_| random.random()).collect()).collect()
        };
        let sent: Vec<_> = (0..random.random_range(0..4)).map(|_| words(&mut random)).collect();
        let mut wire: Vec<u8> = sent.iter().flat_map(|words| encode(words)).collect();
        let (requests, error) = decode_all(std::iter::once(&wire[..]), LIMITS);
        assert_eq!((requests.len(), error), (sent.len(), None), "seed {seed}");
        assert!(requests.iter().flatten().eq(sent.iter().flatten()), "seed {seed}");

        wire.extend(noise(&mut random));
        if random.random_ratio(1, 2) {
            let position = random.random_range(0..wire.len());
            wire[position] = random.random();
        }
        let whole = decode_all(std::iter::once(&wire[..]), LIMITS);
        let size = random.random_range(1..8);
        assert_eq!(decode_all(wire.chunks(size), LIMITS), whole, "seed {seed}");
    }
}

/// Model of a few commands on a few keys.
#[derive(Default)]
struct Model(BTreeMap<String, Held>);

enum Held {
    Text(String),
    List(VecDeque<String>),
}

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
const NOT_AN_INTEGER: &str = "-ERR value is not an integer or out of range\r\n";

impl Model {
    /// Executes a command and returns its RESP2 reply.
    fn answer(&mut self, words: &[String]) -> String {
        let key = words[1].clone();
        let value = words.get(2).cloned().unwrap_or_default();
        match (words[0].as_str(), self.0.get_mut(&key)) {
            ("SET", _) => {
                self.0.insert(key, Held::Text(value));
                "+OK\r\n".to_owned()
            }
            ("DEL", held) => {
                let count = usize::from(held.is_some());
                self.0.remove(&key);
                format!(":{count}\r\n")
            }
            ("EXISTS", held) => format!(":{}\r\n", usize::from(held.is_some())),
            ("TYPE", held) => match held {
                None => "+none\r\n".to_owned(),
                Some(Held::Text(_)) => "+string\r\n".to_owned(),
                Some(Held::List(_)) => "+list\r\n".to_owned(),
            },
            ("GET", None) => "$-1\r\n".to_owned(),
            ("GET", Some(Held::Text(text))) => bulk(text),
            ("APPEND", Some(Held::Text(text))) => {
                text.push_str(&value);
                format!(":{}\r\n", text.len())
            }
            ("APPEND", None) => {
                let length = value.len();
                self.0.insert(key, Held::Text(value));
                format!(":{length}\r\n")
            }
            ("INCR", None) => {
                self.0.insert(key, Held::Text("1".to_owned()));
                ":1\r\n".to_owned()
            }
            ("INCR", Some(Held::Text(text))) => match text.parse::<i64>() {
                Ok(number) if number.to_string() == *text => {
                    *text = (number + 1).to_string();
                    format!(":{text}\r\n")
                }
                _ => NOT_AN_INTEGER.to_owned(),
            },
            ("LLEN" | "LPOP" | "RPOP", None) => {
                if words[0] == "LLEN" {
                    ":0\r\n".to_owned()
                } else {
                    "$-1\r\n".to_owned()
                }
            }
            ("LLEN", Some(Held::List(list))) => format!(":{}\r\n", list.len()),
            ("LPUSH" | "RPUSH", None) => {
                self.0.insert(key, Held::List([value].into()));
                ":1\r\n".to_owned()
            }
            ("LPUSH" | "RPUSH", Some(Held::List(list))) => {
                if words[0] == "LPUSH" {
                    list.push_front(value)
                } else {
                    list.push_back(value)
                }
                format!(":{}\r\n", list.len())
            }
            ("LPOP" | "RPOP", Some(Held::List(list))) => {
                let popped = if words[0] == "LPOP" { list.pop_front() } else { list.pop_back() };
                if list.is_empty() {
                    self.0.remove(&key);
                }
                bulk(&popped.unwrap())
            }
            _ => WRONG_TYPE.to_owned(),
        }
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn command(random: &mut StdRng) -> Vec<String> {
    const NAMES: [&str; 12] =
        ["SET", "DEL", "EXISTS", "TYPE", "GET", "APPEND", "INCR", "LLEN", "LPUSH", "RPUSH", "LPOP", "RPOP"];
    let name = NAMES[random.random_range(0..NAMES.len())];
    let key = KEYS[random.random_range(0..KEYS.len())];
    let mut words = vec![name.to_owned(), key.to_owned()];
    if matches!(name, "SET" | "APPEND" | "LPUSH" | "RPUSH") {
        words.push(random.random_range(0..50).to_string());
    }
    words
}

/// Returns one or more commands in one of three ways, and the whole reply to them.
fn exchange(random: &mut StdRng, model: &mut Model) -> (Vec<u8>, String) {
    let bytes =
        |words: &[String]| encode(&words.iter().map(|word| word.clone().into_bytes()).collect::<Vec<_>>());
    let commands: Vec<_> = (0..random.random_range(1..4)).map(|_| command(random)).collect();
    match random.random_range(0..4) {
        0 => {
            let mut wire = b"MULTI\r\n".to_vec();
            commands.iter().for_each(|words| wire.extend(bytes(words)));
            let by_script = random.random_ratio(1, 2);
            let (script, script_reply) =
                if by_script { ("EVAL 'return 7' 0\r\n", ":7\r\n") } else { ("", "") };
            wire.extend_from_slice(format!("{script}EXEC\r\n").as_bytes());
            let queued = commands.len() + usize::from(by_script);
            let replies: String = commands.iter().map(|words| model.answer(words)).collect();
            (wire, format!("+OK\r\n{}*{queued}\r\n{replies}{script_reply}", "+QUEUED\r\n".repeat(queued)))
        }
        1 => {
            // All in one script; errors are returned as they are.
            let script = "local all = {} for call in ARGV[1]:gmatch('[^;]+') do local words = {} \
                          for word in call:gmatch('%S+') do words[#words + 1] = word end \
                          all[#all + 1] = redis.pcall(unpack(words)) end return all";
            let calls = commands.iter().map(|words| words.join(" ")).collect::<Vec<_>>().join(";");
            let words = ["EVAL", script, "0", &calls].map(str::to_owned);
            let replies: String = commands.iter().map(|words| model.answer(words)).collect();
            (bytes(&words), format!("*{}\r\n{replies}", commands.len()))
        }
        _ => {
            let wire = commands.iter().flat_map(|words| bytes(words)).collect();
            (wire, commands.iter().map(|words| model.answer(words)).collect())
        }
    }
}

/// Log of the server at level error. Its tasks run on the test's own thread.
struct ErrorLog {
    text: LogText,
    _subscriber: DefaultGuard,
}

#[derive(Clone, Default)]
struct LogText(Arc<Mutex<Vec<u8>>>);

impl Write for LogText {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl ErrorLog {
    fn start() -> Self {
        let text = LogText::default();
        let writer = text.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::ERROR)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self { text, _subscriber: tracing::subscriber::set_default(subscriber) }
    }

    /// Returns the log after every connection of `server` has ended.
    async fn of(self, server: &mut Server) -> String {
        server.shutdown.cancel();
        timeout(PATIENCE, &mut server.task).await.unwrap().unwrap().unwrap();
        String::from_utf8(self.text.0.lock().unwrap().clone()).unwrap()
    }
}

const PANICKED: &str = "the task of a Redis connection panicked";

#[tokio::test]
async fn panic_of_a_connection_task_is_logged_for_the_fuzz_test() {
    let log = ErrorLog::start();
    let mut server = Server::start().await;
    let mut client = server.client().await;
    // `LocalDb` unwraps the permit, so a closed gate makes the connection task panic.
    server.db.0.gate.close();
    client.send("SET k v\r\n").await;
    client.expect_end().await;
    let log = log.of(&mut server).await;
    assert!(log.contains(PANICKED), "{log:?}");
}

#[tokio::test]
async fn connection_replies_as_the_model_despite_garbage_from_others() {
    for seed in seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        let log = ErrorLog::start();
        let mut server = Server::start().await;
        let (mut client, mut model) = (server.client().await, Model::default());
        for _ in 0..COMMANDS_PER_SEED {
            if random.random_ratio(1, 8) {
                let mut other = server.client().await;
                // The server may have closed the connection already.
                let _ = other.stream.write_all(&noise(&mut random)).await;
            }
            let (wire, reply) = exchange(&mut random, &mut model);
            for piece in wire.chunks(random.random_range(1..200)) {
                client.send(piece).await;
            }
            let mut received = vec![0; reply.len()];
            let read = timeout(PATIENCE, client.stream.read_exact(&mut received)).await;
            let request = String::from_utf8_lossy(&wire);
            assert!(
                matches!(read, Ok(Ok(_))),
                "seed {seed}: no whole reply to {request}, expected {reply:?}"
            );
            assert_eq!(String::from_utf8_lossy(&received), reply, "seed {seed}: {request}");
        }
        drop(client);
        let log = log.of(&mut server).await;
        assert!(!log.contains(PANICKED), "seed {seed}: {log}");
    }
}
