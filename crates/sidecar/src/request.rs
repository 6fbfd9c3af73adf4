//! Meaning of a request for a proxy: whether it has effects, and which state of the connection it changes (pure).

use bytes::{Bytes, BytesMut};
use helios_redis::table::{Flags, Spec, resolve};

/// A request, classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No effect: may be repeated on another member.
    Read,
    /// Reply that depends on the connection's last write: `WAIT`, `HELIOS.TOKEN`.
    LastWrite,
    /// `HELIOS.TOKEN SEEN`: as [`Kind::LastWrite`], and it does not know of reads that no member answered.
    Seen,
    /// State of the connection that is set again on another member.
    Setting(Setting),
    /// Effects, or effects that are not known: never repeated once it was sent.
    Write,
    /// A script that may write. Its author chooses the words of its errors.
    Script,
    Subscribe,
    Watch,
    Unwatch,
    Multi,
    Exec,
    Discard,
    Reset,
    Auth,
    Hello,
    /// `CLIENT REPLY`.
    Silence(Silence),
    /// `INFO sidecar`.
    OwnInfo,
    /// `HELIOS.READ` without a level: what reads see.
    Level,
    Quit,
    /// The first line of an HTTP request: a browser was made to connect to this port.
    Http,
    /// A request of the sidecar itself, whose reply no client gets.
    Internal,
    /// [`POSITION`], sent by the sidecar after requests whose replies show state.
    Position,
}

/// Request for the index of a state that has all that the connection has read or written.
pub const POSITION: [&[u8]; 2] = [b"HELIOS.TOKEN", b"SEEN"];

/// Settings of a connection, in the order in which they are set on another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    Protocol,
    Name,
    LibraryName,
    LibraryVersion,
    Ack,
    Token,
    Freshness,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    On,
    Off,
    Skip,
}

/// Commands outside the groups of keys that have no effect on the member, or none that a repetition changes.
const WITHOUT_EFFECT: [&str; 10] = [
    "ping",
    "echo",
    "time",
    "info",
    "role",
    "select",
    "command",
    "helios.ack",
    "config|get",
    "script|exists",
];
const CONTAINERS_WITHOUT_EFFECT: [&str; 5] = ["command|", "acl|", "pubsub|", "object|", "memory|"];
const CLIENT_WITHOUT_EFFECT: [&str; 9] = [
    "client|getname",
    "client|getredir",
    "client|help",
    "client|id",
    "client|info",
    "client|list",
    "client|no-evict",
    "client|no-touch",
    "client|tracking",
];

/// Classifies a request (its words, the name first).
pub fn kind(words: &[Bytes]) -> Kind {
    let is =
        |at: usize, text: &str| words.get(at).is_some_and(|word| word.eq_ignore_ascii_case(text.as_bytes()));
    if is(0, "post") || is(0, "host:") {
        return Kind::Http;
    }
    // A member of a later version may know the command, and what it does is not known here.
    let Ok(spec) = resolve(words) else { return Kind::Write };
    let setting = |words_of_query: usize, setting| match words.len() > words_of_query {
        true => Kind::Setting(setting),
        false => Kind::Read,
    };
    match spec.name {
        "auth" => Kind::Auth,
        "hello" => Kind::Hello,
        "reset" => Kind::Reset,
        "quit" => Kind::Quit,
        "multi" => Kind::Multi,
        "exec" => Kind::Exec,
        "discard" => Kind::Discard,
        "watch" => Kind::Watch,
        "unwatch" => Kind::Unwatch,
        "subscribe" | "psubscribe" | "unsubscribe" | "punsubscribe" => Kind::Subscribe,
        "eval" | "evalsha" => Kind::Script,
        "wait" => Kind::LastWrite,
        "helios.token" if words.len() == 1 => Kind::LastWrite,
        "helios.token" if is(1, "seen") => Kind::Seen,
        "helios.token" => Kind::Setting(Setting::Token),
        "helios.ack" => setting(1, Setting::Ack),
        "helios.read" if words.len() == 1 => Kind::Level,
        "helios.read" => Kind::Setting(Setting::Freshness),
        "readonly" | "readwrite" => Kind::Setting(Setting::Freshness),
        "client|setname" => Kind::Setting(Setting::Name),
        "client|setinfo" if is(2, "lib-name") => Kind::Setting(Setting::LibraryName),
        "client|setinfo" => Kind::Setting(Setting::LibraryVersion),
        "client|reply" if is(2, "on") => Kind::Silence(Silence::On),
        "client|reply" if is(2, "off") => Kind::Silence(Silence::Off),
        "client|reply" if is(2, "skip") => Kind::Silence(Silence::Skip),
        "info" if words.len() == 2 && is(1, "sidecar") => Kind::OwnInfo,
        _ if has_no_effect(spec) => Kind::Read,
        _ => Kind::Write,
    }
}

/// Whether a request may block or run long: the sidecar requests the log index of the earlier replies before it.
pub fn may_wait(words: &[Bytes], kind: Kind) -> bool {
    let blocks = || resolve(words).is_ok_and(|spec| spec.has(Flags::BLOCKING));
    kind == Kind::Script || kind == Kind::LastWrite || kind == Kind::Write && blocks()
}

fn has_no_effect(spec: &Spec) -> bool {
    let is_read = spec.has(Flags::READONLY) && !spec.has(Flags::BLOCKING);
    is_read
        || WITHOUT_EFFECT.contains(&spec.name)
        || CLIENT_WITHOUT_EFFECT.contains(&spec.name)
        || CONTAINERS_WITHOUT_EFFECT.iter().any(|container| spec.name.starts_with(container))
}

/// Returns the words of a `HELLO` without its credentials: the sidecar authenticates itself.
pub fn without_credentials(words: &[Bytes]) -> Vec<Bytes> {
    let mut kept = Vec::with_capacity(words.len());
    let mut at = 0;
    while let Some(word) = words.get(at) {
        // Options follow the version.
        let is_option = |text: &[u8]| at >= 2 && word.eq_ignore_ascii_case(text);
        let taken = if is_option(b"auth") { 3 } else { 1 + usize::from(is_option(b"setname")) };
        if !is_option(b"auth") {
            kept.extend(words[at..].iter().take(taken).cloned());
        }
        at += taken;
    }
    kept
}

/// Appends a request to `out`.
pub fn encode(words: &[impl AsRef<[u8]>], out: &mut BytesMut) {
    header(b'*', words.len(), out);
    for word in words {
        let word = word.as_ref();
        header(b'$', word.len(), out);
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn header(kind: u8, mut number: usize, out: &mut BytesMut) {
    let (mut digits, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&[kind]);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Returns the words of a request.
#[cfg(test)]
pub fn words(line: &str) -> Vec<Bytes> {
    line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_classified_by_their_effects_and_their_state() {
        let cases = [
            ("GET k", Kind::Read),
            ("EVAL_RO x 0", Kind::Read),
            ("EVAL x 0", Kind::Script),
            ("SET k v", Kind::Write),
            ("GETEX k PERSIST", Kind::Write),
            ("BLPOP k 0", Kind::Write),
            ("PUBLISH c m", Kind::Write),
            ("COMMANDOFTOMORROW k", Kind::Write),
            ("PING", Kind::Read),
            ("CLIENT ID", Kind::Read),
            ("CLIENT KILL ID 3", Kind::Write),
            ("CONFIG SET timeout 3", Kind::Write),
            ("CONFIG GET timeout", Kind::Read),
            ("SCRIPT LOAD x", Kind::Write),
            ("client setname n", Kind::Setting(Setting::Name)),
            ("CLIENT SETINFO LIB-VER 1", Kind::Setting(Setting::LibraryVersion)),
            ("HELIOS.READ", Kind::Level),
            ("HELIOS.READ STALE", Kind::Setting(Setting::Freshness)),
            ("HELIOS.TOKEN", Kind::LastWrite),
            ("helios.token Seen", Kind::Seen),
            ("HELIOS.TOKEN demo:1:2", Kind::Setting(Setting::Token)),
            ("WAIT 1 0", Kind::LastWrite),
            ("INFO", Kind::Read),
            ("INFO Sidecar", Kind::OwnInfo),
            ("CLIENT REPLY OFF", Kind::Silence(Silence::Off)),
            ("CLIENT REPLY sometimes", Kind::Write),
            ("SUBSCRIBE a b", Kind::Subscribe),
            ("POST / HTTP/1.1", Kind::Http),
        ];
        for (line, expected) in cases {
            assert_eq!(kind(&words(line)), expected, "{line}");
        }
    }

    #[test]
    fn every_command_that_may_be_repeated_is_no_write_and_does_not_block() {
        for spec in helios_redis::table::COMMANDS
            .iter()
            .flat_map(|spec| std::iter::once(*spec).chain(spec.subcommands))
        {
            if has_no_effect(spec) {
                assert!(!spec.has(Flags::WRITE) && !spec.has(Flags::BLOCKING), "{}", spec.name);
            }
        }
    }

    #[test]
    fn requests_that_may_take_long_are_known() {
        let waits = |line: &str| may_wait(&words(line), kind(&words(line)));
        assert!(
            waits("BLPOP k 0")
                && waits("EVAL x 0")
                && waits("WAIT 1 0")
                && !waits("SET k v")
                && !waits("GET k")
        );
    }

    #[test]
    fn credentials_are_removed_from_a_hello_and_nothing_else() {
        let cases = [
            ("HELLO 3 AUTH auth setname SETNAME auth", "HELLO 3 SETNAME auth"),
            ("HELLO 3 SETNAME auth", "HELLO 3 SETNAME auth"),
            ("HELLO 3 auth u", "HELLO 3"),
            ("HELLO", "HELLO"),
            ("HELLO auth", "HELLO auth"),
        ];
        for (given, expected) in cases {
            assert_eq!(without_credentials(&words(given)), words(expected), "{given}");
        }
    }

    #[test]
    fn encoded_requests_are_decoded_to_the_same_words() {
        let given = words("SET key value-of-12");
        let mut out = BytesMut::new();
        encode(&given, &mut out);
        assert_eq!(out, "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$11\r\nvalue-of-12\r\n");
    }
}
