//! Selection of keyspace events by the letters of Redis's `notify-keyspace-events`.

use std::fmt;
use std::str::FromStr;

use super::Event;

/// Letters of the event classes in the order in which they are shown; `A` stands for the first ten. No event
/// is ever published for `e` (evicted), `t` (streams), `d` (modules) and `m` (missed); they are accepted for
/// tools that set them.
const LETTERS: &[u8] = b"g$lshzxetdnKEm";
const ALL: u16 = (1 << 10) - 1;

/// A set of event classes and channels; empty by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventFilter(u16);

impl EventFilter {
    /// The valid letters, in the order of Redis's error message for an invalid one.
    pub const CHOICE: &str = "Ag$lshzxeKEtmdn";

    /// Whether any event is published: at least one class and one kind of channel are selected.
    pub fn is_on(self) -> bool {
        (self.by_key() || self.by_event()) && self.0 & (ALL | bit(b'n')) != 0
    }

    /// Whether events are published on `__keyspace@0__:<key>`.
    pub fn by_key(self) -> bool {
        self.has(b'K')
    }

    /// Whether events are published on `__keyevent@0__:<event>`.
    pub fn by_event(self) -> bool {
        self.has(b'E')
    }

    pub fn wants(self, event: &Event) -> bool {
        self.has(event.class as u8)
    }

    fn has(self, letter: u8) -> bool {
        self.0 & bit(letter) != 0
    }
}

/// Returns the bit of a letter; 0 for an unknown letter.
fn bit(letter: u8) -> u16 {
    LETTERS.iter().position(|known| *known == letter).map_or(0, |position| 1 << position)
}

impl FromStr for EventFilter {
    /// The first unknown letter.
    type Err = char;

    fn from_str(letters: &str) -> Result<Self, char> {
        letters.chars().try_fold(Self::default(), |Self(bits), letter| match u8::try_from(letter) {
            Ok(b'A') => Ok(Self(bits | ALL)),
            Ok(known) if bit(known) != 0 => Ok(Self(bits | bit(known))),
            _ => Err(letter),
        })
    }
}

impl fmt::Display for EventFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_all = self.0 & ALL == ALL;
        let shown = if is_all { self.0 & !ALL } else { self.0 };
        if is_all {
            formatter.write_str("A")?;
        }
        LETTERS
            .iter()
            .filter(|letter| shown & bit(**letter) != 0)
            .try_for_each(|letter| write!(formatter, "{}", char::from(*letter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_shown_as_redis_does() {
        for (letters, shown) in
            [("", ""), ("gKE", "gKE"), ("KEA", "AKE"), ("$lshzxeKE", "$lshzxeKE"), ("EKn", "nKE")]
        {
            assert_eq!(letters.parse::<EventFilter>().unwrap().to_string(), shown, "{letters}");
        }
        assert_eq!("KEa".parse::<EventFilter>(), Err('a'));
        assert_eq!("Ké".parse::<EventFilter>(), Err('é'));
    }

    #[test]
    fn filter_is_on_with_a_class_and_a_channel() {
        let is_on = |letters: &str| letters.parse::<EventFilter>().unwrap().is_on();
        assert!(is_on("Kg") && is_on("EA") && is_on("En"));
        assert!(!is_on("") && !is_on("A") && !is_on("KE") && !is_on("Em"));
    }
}
