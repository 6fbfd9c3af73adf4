//! A log entry that members hold back, since applying it crashed their processes: its description and how to skip it. Pure.

use std::collections::BTreeMap;

use helios_proto::v1::{EntryUnappliable, StatusResponse};

/// Message about the first entry that is held, if any.
pub fn held(nodes: &BTreeMap<u32, StatusResponse>) -> Option<String> {
    let holding = || nodes.values().filter_map(|node| Some((node, node.entry_unappliable.as_ref()?)));
    let (_, entry) = holding().min_by_key(|(_, entry)| entry.index)?;
    let EntryUnappliable { index, command, size_bytes, crc } = entry;
    let names =
        |of: Vec<&StatusResponse>| of.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
    let by = names(holding().filter(|(_, other)| *other == entry).map(|(node, _)| node).collect());
    let past: Vec<_> = nodes.values().filter(|node| node.applied_index >= *index).collect();
    let what = format!(
        "applying log entry {index} ({command}, {size_bytes} bytes, crc {crc:08x}) ended the processes of {by} twice, and \
         they do not apply it"
    );
    Some(match past.is_empty() {
        true => format!(
            "{what}: heliosctl log skip {index} --crc {crc:08x} makes it a no-op on all members, and its write is lost"
        ),
        false => format!(
            "{what}; {} applied it, so it is not to be skipped: see the runbook HeliosEntryUnappliable",
            names(past)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ordinal: u32, applied_index: u64, held: Option<u64>) -> (u32, StatusResponse) {
        let entry_unappliable = held.map(|index| EntryUnappliable {
            index,
            command: "SORT".to_owned(),
            size_bytes: 90,
            crc: 0xab,
        });
        let name = format!("demo-{ordinal}");
        (ordinal, StatusResponse { name, applied_index, entry_unappliable, ..StatusResponse::default() })
    }

    #[test]
    fn held_entry_is_reported_with_the_command_that_skips_it() {
        assert_eq!(held(&BTreeMap::from([node(0, 6, None), node(1, 6, None)])), None);
        let text =
            held(&BTreeMap::from([node(0, 6, Some(7)), node(1, 6, Some(7)), node(2, 5, None)])).unwrap();
        for part in
            ["entry 7 (SORT, 90 bytes, crc 000000ab)", "demo-0, demo-1 twice", "log skip 7 --crc 000000ab"]
        {
            assert!(text.contains(part), "{text}");
        }
        let text = held(&BTreeMap::from([node(0, 6, Some(7)), node(1, 8, Some(9))])).unwrap();
        assert!(text.contains("entry 7") && text.contains("demo-1 applied it"), "{text}");
        assert!(!text.contains("heliosctl log skip"), "{text}");
    }
}
