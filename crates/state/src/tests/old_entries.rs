//! Log entries as the builds of formats 1 to 5 encoded them, with the answers and events that these builds gave.
//!
//! `old_entries.txt` was written by the last build of format 5. Each line holds the encoded command, the encoded reply
//! and the keyspace events; the last line is the checksum of the resulting keys. The file never changes.

use helios_proto::v1::{Command, Reply};
use prost::Message as _;

use crate::{Store, Value};

const FILE: &str = include_str!("old_entries.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn events_of(store: &Store, index: u64) -> String {
    let page = store.changes_after(index - 1).unwrap();
    let events = page.entries.iter().flat_map(|changed| &changed.events);
    let events: Vec<_> = events
        .map(|event| format!("{}:{}:{}", event.name, event.class, String::from_utf8_lossy(&event.key)))
        .collect();
    if events.is_empty() { "-".to_owned() } else { events.join(",") }
}

fn checksum(store: &Store) -> String {
    let pairs = store.scan_all().unwrap().into_iter();
    let text: String = pairs
        .map(|(key, value)| {
            let Value { kind, data, expire_at_ms, revision, .. } = value;
            format!("{key:?} {} {data:?} {expire_at_ms:?} {revision}\n", kind.code())
        })
        .collect();
    hex(&crc32c::crc32c(text.as_bytes()).to_be_bytes())
}

#[test]
fn entries_of_older_formats_apply_as_the_builds_that_wrote_them_applied_them() {
    let store = Store::in_memory();
    store.record_events(true);
    let mut lines: Vec<_> = FILE.lines().collect();
    let expected = lines.pop().unwrap();
    for (position, line) in lines.into_iter().enumerate() {
        let index = position as u64 + 1;
        let [entry, reply, events] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let command = Command::decode(&unhex(entry)[..]).unwrap();
        let answer = store.apply(index, 1, &command);
        assert_eq!(answer, Reply::decode(&unhex(reply)[..]).unwrap(), "line {index}: {command:?}");
        assert_eq!(events_of(&store, index), events, "line {index}: {command:?}");
        assert_eq!(hex(&command.encode_to_vec()), entry, "line {index}");
    }
    assert_eq!(checksum(&store), expected);
}
