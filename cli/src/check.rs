//! Results of `doctor`, one line for each check. Pure.

use serde::Serialize;

use crate::table::table;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub what: String,
    pub ok: bool,
    pub found: String,
    /// Remedy, when the check failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    pub fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), ok: true, found: found.into(), fix: None }
    }

    pub fn failed(what: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), ok: false, found: found.into(), fix: Some(fix.into()) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checks {
    pub checks: Vec<Check>,
    /// True when no API server or member answered, so that nothing could be checked.
    pub nobody_answered: bool,
}

impl Checks {
    /// Returns 0 when all checks are ok, 1 when one failed, 2 when nothing could be checked.
    pub fn exit_code(&self) -> u8 {
        match (self.nobody_answered, self.checks.iter().all(|check| check.ok)) {
            (true, _) => 2,
            (false, true) => 0,
            (false, false) => 1,
        }
    }

    /// Returns a table, and below it the remedy of each failure.
    pub fn text(&self) -> String {
        let row = |check: &Check| {
            let verdict = if check.ok { "ok" } else { "FAILED" };
            [verdict.to_owned(), check.what.clone(), check.found.clone()]
        };
        let mut text = table(["", "CHECK", "FOUND"], &self.checks.iter().map(row).collect::<Vec<_>>());
        let fixes: Vec<_> = self
            .checks
            .iter()
            .filter_map(|check| Some(format!("{}: {}", check.what, check.fix.as_ref()?)))
            .collect();
        if !fixes.is_empty() {
            text += &format!("\nTo do:\n  {}\n", fixes.join("\n  "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_listed_with_their_remedy() {
        let checks = Checks {
            checks: vec![Check::ok("one", "fine"), Check::failed("two", "gone", "bring it back")],
            nobody_answered: false,
        };
        assert_eq!(
            checks.text(),
            "         CHECK   FOUND\nok       one     fine\nFAILED   two     gone\n\nTo do:\n  two: bring it back\n"
        );
        assert_eq!(checks.exit_code(), 1);
    }
}
