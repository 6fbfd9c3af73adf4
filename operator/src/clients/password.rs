//! Passwords of a HeliosClient's user: the next write of its Secret, and its line in the members' list of users. Pure.
//!
//! A password is written to the Secret as `next-password` first, then its hash to the members, and only when all members
//! have it, it becomes `password`. So an application never reads a password that a member refuses. The previous one stays
//! valid for the overlap. **Everything follows from the Secret and the list**: an operator that continues after a crash
//! finds out where the one before it was.

use jiff::{SignedDuration, Timestamp};

use crate::security::users::{ClientLine, hash};

use super::grant::Rights;

/// Passwords in the Secret of a HeliosClient, and when the present one was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passwords {
    pub present: Option<String>,
    /// Password that members may not have yet.
    pub next: Option<String>,
    pub rotated_at: Option<Timestamp>,
}

/// Times of the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// `None`: never.
    pub interval: Option<SignedDuration>,
    pub overlap: SignedDuration,
}

/// User whose passwords are decided.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    pub name: &'a str,
    pub rights: &'a Rights,
    pub rotation: Rotation,
}

/// Result of a decision.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision {
    /// Passwords that the Secret is to have.
    pub passwords: Passwords,
    /// Line that the list of users is to have.
    pub line: ClientLine,
    /// Whether the application can use the password in the Secret with all members, as far as is known.
    pub is_usable: bool,
    /// When the next decision is due; `None`: when members have the list.
    pub due: Option<Timestamp>,
}

/// Decides the next step. `line` is the user's line in the list, `have_members` whether all members use that list.
pub fn decide(
    user: User<'_>,
    found: &Passwords,
    line: Option<&ClientLine>,
    have_members: bool,
    now: Timestamp,
    draw: impl FnOnce() -> Result<String, String>,
) -> Result<Decision, String> {
    let User { name, rights, rotation } = user;
    let make = |newest: &str, previous: Option<String>| ClientLine {
        name: name.to_owned(),
        password_sha256: newest.to_owned(),
        previous_password_sha256: previous.filter(|previous| previous != newest),
        role: rights.role.name().to_owned(),
        prefixes: (!rights.prefixes.is_empty()).then(|| rights.prefixes.clone()),
    };
    let is_written = |wanted: &ClientLine| have_members && line == Some(wanted);
    let present = found.present.as_deref().map(hash);
    if let Some(next) = &found.next {
        let wanted = make(&hash(next), present.clone());
        let passwords = match is_written(&wanted) {
            true => Passwords { present: Some(next.clone()), next: None, rotated_at: Some(now) },
            false => found.clone(),
        };
        let is_published = passwords.next.is_none();
        let due = is_published.then(|| now + rotation.overlap);
        return Ok(Decision { is_usable: is_published || present.is_some(), passwords, line: wanted, due });
    }
    let begin = |draw: Result<String, String>| {
        let next = draw?;
        let line = make(&hash(&next), present.clone());
        let passwords = Passwords { next: Some(next), ..found.clone() };
        Ok(Decision { is_usable: present.is_some(), passwords, line, due: None })
    };
    let Some(newest) = present.clone() else { return begin(draw()) };
    let previous = line.and_then(|line| match line.password_sha256 == newest {
        true => line.previous_password_sha256.clone(),
        // The password in the Secret was changed by a user, or the list is older than it.
        false => Some(line.password_sha256.clone()),
    });
    let rotated_at = found.rotated_at.unwrap_or(Timestamp::UNIX_EPOCH);
    let overlap_end = rotated_at + rotation.overlap;
    let next_rotation = rotation.interval.map(|interval| rotated_at + interval);
    if let Some(previous) = previous {
        let with_both = make(&newest, Some(previous));
        let is_over = now >= overlap_end && is_written(&with_both);
        let due = (now < overlap_end).then_some(overlap_end);
        let line = if is_over { make(&newest, None) } else { with_both };
        return Ok(Decision { is_usable: is_written(&line), passwords: found.clone(), line, due });
    }
    if next_rotation.is_some_and(|at| now >= at) {
        return begin(draw());
    }
    let line = make(&newest, None);
    Ok(Decision { is_usable: is_written(&line), passwords: found.clone(), line, due: next_rotation })
}

/// Parses a duration in minutes, hours or days; `None` for 0.
///
/// # Errors
/// In words, for a text that the CRD does not accept either.
pub fn duration(text: &str) -> Result<Option<SignedDuration>, String> {
    if text == "0" {
        return Ok(None);
    }
    let unit = |unit: char| text.strip_suffix(unit).and_then(|digits| digits.parse::<i64>().ok());
    let minutes =
        unit('m').or_else(|| unit('h')?.checked_mul(60)).or_else(|| unit('d')?.checked_mul(24 * 60));
    let minutes = minutes.filter(|minutes| (1..=2_000_000_000).contains(minutes));
    let minutes = minutes.ok_or_else(|| format!("{text:?} is no duration; write e.g. 30d, 24h or 90m"))?;
    Ok(Some(SignedDuration::from_mins(minutes)))
}

#[cfg(test)]
mod tests {
    use helios_crds::ClientRole;

    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    struct World {
        passwords: Passwords,
        line: Option<ClientLine>,
        drawn: u32,
        now: Timestamp,
    }

    impl World {
        fn new() -> Self {
            let now = Timestamp::from_second(1_800_000_000).unwrap();
            Self { passwords: Passwords::default(), line: None, drawn: 0, now }
        }

        /// A reconcile that writes the Secret and the list; returns whether either changed.
        fn step(&mut self, have_members: bool) -> (bool, Decision) {
            let rights = Rights { role: ClientRole::ReadWrite, prefixes: vec!["shop:".to_owned()] };
            let rotation = Rotation { interval: Some(30 * DAY), overlap: DAY };
            let drawn = &mut self.drawn;
            let draw = || {
                *drawn += 1;
                Ok(format!("drawn{drawn}"))
            };
            let decided = decide(
                User { name: "ns.shop", rights: &rights, rotation },
                &self.passwords,
                self.line.as_ref(),
                have_members,
                self.now,
                draw,
            )
            .unwrap();
            let changed = decided.passwords != self.passwords || self.line.as_ref() != Some(&decided.line);
            (self.passwords, self.line) = (decided.passwords.clone(), Some(decided.line.clone()));
            (changed, decided)
        }

        fn hashes(&self) -> (String, Option<String>) {
            let line = self.line.clone().unwrap();
            (line.password_sha256, line.previous_password_sha256)
        }
    }

    #[test]
    fn password_is_published_when_members_have_it_and_rotated_with_an_overlap() {
        let mut world = World::new();
        assert!(world.step(true).0);
        assert_eq!(
            (world.passwords.present.clone(), world.passwords.next.as_deref()),
            (None, Some("drawn1"))
        );
        let waiting = world.step(false);
        assert!(!waiting.0 && !waiting.1.is_usable, "members do not have it yet");
        let published = world.step(true);
        assert!(published.0 && published.1.is_usable);
        assert_eq!(world.passwords.present.as_deref(), Some("drawn1"));
        assert_eq!(world.hashes(), (hash("drawn1"), None));
        assert!(!world.step(true).0, "settled");
        assert_eq!(world.step(true).1.due, Some(world.now + 30 * DAY));

        world.now += 30 * DAY;
        assert!(world.step(true).1.is_usable, "the present password stays valid");
        assert_eq!(world.hashes(), (hash("drawn2"), Some(hash("drawn1"))));
        assert_eq!(world.passwords.present.as_deref(), Some("drawn1"));
        assert!(!world.step(false).0);
        let published = world.step(true).1;
        assert_eq!(
            (world.passwords.present.as_deref(), published.due),
            (Some("drawn2"), Some(world.now + DAY))
        );
        assert!(!world.step(true).0, "within the overlap");
        world.now += DAY;
        assert!(!world.step(false).0, "not all members have the list with both");
        assert_eq!(world.hashes(), (hash("drawn2"), Some(hash("drawn1"))));
        assert!(world.step(true).0);
        assert_eq!(world.hashes(), (hash("drawn2"), None));
        assert_eq!(world.drawn, 2);
    }

    #[test]
    fn deleted_secret_is_made_again_and_its_password_is_revoked() {
        let mut world = World::new();
        for _ in 0..3 {
            world.step(true);
        }
        world.passwords = Passwords::default();
        world.step(true);
        assert_eq!(world.passwords.next.as_deref(), Some("drawn2"));
        world.step(true);
        assert_eq!(
            (world.passwords.present.as_deref(), world.hashes()),
            (Some("drawn2"), (hash("drawn2"), None))
        );
    }

    #[test]
    fn password_that_a_user_writes_into_the_secret_is_taken_over_with_an_overlap() {
        let mut world = World::new();
        for _ in 0..3 {
            world.step(true);
        }
        world.passwords.present = Some("mine".to_owned());
        let decided = world.step(true).1;
        assert!(!decided.is_usable, "no member has it");
        assert_eq!(world.hashes(), (hash("mine"), Some(hash("drawn1"))));
        assert!(world.step(true).1.is_usable);
    }

    #[test]
    fn passwords_are_never_rotated_with_interval_0() {
        let rights = Rights { role: ClientRole::ReadOnly, prefixes: Vec::new() };
        let rotation = Rotation { interval: None, overlap: DAY };
        let found = Passwords { present: Some("p".to_owned()), ..Passwords::default() };
        let decided =
            decide(User { name: "u", rights: &rights, rotation }, &found, None, true, Timestamp::MAX, || {
                panic!("drawn")
            })
            .unwrap();
        assert_eq!((decided.passwords, decided.due, decided.line.prefixes), (found, None, None));
    }

    #[test]
    fn durations_have_minutes_hours_or_days() {
        let hours = |count| Ok(Some(SignedDuration::from_hours(count)));
        assert_eq!(["30d", "24h", "60m"].map(duration), [hours(720), hours(24), hours(1)]);
        assert_eq!(duration("0"), Ok(None));
        for wrong in ["", "d", "-1d", "0d", "1s", "99999999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
