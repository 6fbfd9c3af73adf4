//! Parsing of `client.notify_keyspace_events`.

use helios_state::EventFilter;

use super::ConfigError;

pub(super) fn filter(letters: &str) -> Result<EventFilter, ConfigError> {
    letters.parse().map_err(|letter: char| {
        ConfigError(format!(
            "client.notify_keyspace_events {letters:?}: {letter:?} is not a known letter; write letters of {}, \
             for instance KEA",
            EventFilter::CHOICE
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_event_letter_is_named_in_the_error() {
        assert_eq!(filter("Ex").map(|filter| filter.to_string()), Ok("xE".to_owned()));
        assert!(filter("KEy").unwrap_err().to_string().contains("'y' is not a known letter"));
    }
}
