//! Checks that every link between the Markdown pages of this repository resolves: to an existing file or
//! folder, and to a heading of the file where the link names one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Returns the Markdown pages tracked by git, as paths below the root.
fn pages() -> Vec<PathBuf> {
    let listed = Command::new("git").args(["-C", ROOT, "ls-files", "*.md"]).output().expect("git is here");
    assert!(listed.status.success(), "{listed:?}");
    String::from_utf8(listed.stdout).expect("paths are UTF-8").lines().map(PathBuf::from).collect()
}

/// Returns the text without code, where brackets are no links.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    let joined = lines.collect::<Vec<_>>().join("\n");
    joined.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// Returns the anchors of the headings, by the rule of GitHub and mdBook.
fn targets(text: &str) -> Vec<String> {
    let prose = prose(text);
    let after = prose.split("](").skip(1);
    after.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// As GitHub and mdBook name headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        let Some((marks, title)) = line.split_once(' ').filter(|_| !is_code) else { continue };
        if marks.is_empty() || marks.chars().any(|mark| mark != '#') {
            continue;
        }
        let kept = title.to_lowercase().replace(' ', "-");
        found.insert(
            kept.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect(),
        );
    }
    found
}

#[test]
fn every_link_between_pages_resolves() {
    let mut broken = Vec::new();
    let mut checked = 0;
    for page in pages() {
        let path = Path::new(ROOT).join(&page);
        // A page that is deleted and not yet committed.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for target in targets(&text).iter().filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let is_found = file.exists()
                && (anchor.is_empty()
                    || anchors(&fs::read_to_string(&file).unwrap_or_default()).contains(anchor));
            if !is_found {
                broken.push(format!("{}: {target}", page.display()));
            }
            checked += 1;
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    assert!(checked > 100, "{checked} links: the pages were not read");
}

#[test]
fn links_in_code_are_ignored_and_headings_have_anchors() {
    assert_eq!(targets("a [b](c.md#d) `[x](y)`\n```\n[n](m)\n```\n![i](j.png)"), ["c.md#d", "j.png"]);
    let expected = ["how-we-know", "a-full-disk"].map(str::to_owned);
    assert_eq!(anchors("# How we know\n## A full disk!\n```\n# no\n```"), BTreeSet::from(expected));
}
