//! `client.notify_keyspace_events`.

use helios_state::EventFilter;

use super::ConfigError;

pub(super) fn filter(letters: &str) -> Result<EventFilter, ConfigError> {
    letters.parse().map_err(|letter: char| {
        ConfigError(format!(
            "client.notify_keyspace_events {letters:?}: {letter:?} stands for nothing; write letters of {}, \
             for instance KEA",
            EventFilter::CHOICE
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_stands_for_nothing_is_named() {
        assert_eq!(filter("Ex").map(|filter| filter.to_string()), Ok("xE".to_owned()));
        assert!(filter("KEy").unwrap_err().to_string().contains("'y' stands for nothing"));
    }
}
