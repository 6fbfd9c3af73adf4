//! The words that CONTRIBUTING.md replaces do not come back into prose: comments, strings, pages, and names of tests.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A banned word or phrase in lower case, and what to use instead. A phrase may be broken over two lines.
const BANNED: &[(&str, &str)] = &[
    ("told", "notified, logged, reported, requested, configured"),
    ("tells", "notifies, logs, reports, shows, returns"),
    ("whoever", "the user, client, caller or process that"),
    ("wish", "request, desired state"),
    ("wishes", "requests, desired state"),
    ("wished", "requested, desired"),
    ("anew", "again"),
    ("by itself", "automatically, alone, on its own thread"),
    ("by themselves", "automatically, alone"),
    ("go on", "continue, resume"),
    ("goes on", "continues, resumes"),
    ("going on", "continuing; in progress"),
    ("a person", "a user, an admin"),
    ("of its own", "its own X, a separate X"),
    ("of their own", "their own X, separate X"),
    ("of his own", "his own X, a separate X"),
    ("looked after", "reconciled, maintained"),
    ("who leads", "the leader"),
    ("door", "acceptor, listener, port"),
    ("doors", "acceptors, listeners, ports"),
    ("heeded", "applied, obeyed, taken into account"),
    ("the lot", "all of them"),
];

/// Words after "of its own" where no noun follows: "a thread of its own that ..." is banned, "an entry of its own term" is not.
const NO_NOUNS: &[&str] = &[
    "and", "are", "as", "at", "because", "before", "behind", "beside", "but", "by", "can", "does", "for",
    "from", "has", "have", "if", "in", "is", "it", "may", "must", "nor", "of", "on", "or", "so", "than",
    "that", "the", "they", "to", "too", "under", "until", "was", "were", "when", "where", "which", "while",
    "with", "without",
];

/// Words that do not begin a doc comment: it is a noun phrase, or a verb phrase for a function.
const BARE_STARTS: &[(&str, &str)] = &[
    ("of", "the noun: \"Name of ...\", \"Limit of ...\""),
    ("what", "the noun, or the verb phrase of the function"),
    ("who", "the noun: \"The member that ...\""),
    ("that of", "the noun"),
];

/// Parts of the name of a test: `subject_does_what_when`.
const IN_TEST_NAMES: &[&str] = &["told", "tells", "anew", "whoever", "wish"];
const STARTS_OF_TEST_NAMES: &[&str] = &["what_", "who_"];

/// Files that have other words for a reason.
const SKIPPED: &[&str] = &[
    // Output of crdgen, the golden test and the benchmark. The sources of the texts are checked.
    "bench/reports/",
    "crds/yaml/",
    "helm/helios-operator/templates/crd-heliosclusters.yaml",
    "operator/tests/golden/",
    // The list above.
    "testing/tests/words.rs",
];

const EXTENSIONS: &[&str] = &["md", "proto", "rs", "sh", "toml", "yaml"];

#[derive(Debug, PartialEq)]
struct Finding {
    path: String,
    line: usize,
    word: String,
    instead: &'static str,
}

/// A word in lower case with its line, or a `Break` that no phrase crosses.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String, usize),
    Break,
}

/// Splits prose into words. A path is one word. Text in backticks is code; one that is not closed ends with its paragraph.
struct Tokens {
    found: Vec<Token>,
    word: String,
    is_code: bool,
}

impl Tokens {
    fn new() -> Self {
        Self { found: Vec::new(), word: String::new(), is_code: false }
    }

    fn end_word(&mut self, line: usize) {
        if !self.word.is_empty() {
            let word = std::mem::take(&mut self.word);
            self.found.push(Token::Word(word.trim_end_matches('/').to_owned(), line));
        }
    }

    fn break_here(&mut self, line: usize) {
        self.end_word(line);
        self.is_code = false;
        if self.found.last() != Some(&Token::Break) {
            self.found.push(Token::Break);
        }
    }

    /// Adds one line, or a part of it.
    fn add(&mut self, text: &str, line: usize) {
        let text = text.replace("```", " ");
        for letter in text.chars() {
            match letter {
                '`' => {
                    self.end_word(line);
                    self.is_code ^= true;
                }
                _ if self.is_code => {}
                '/' if !self.word.is_empty() => self.word.push('/'),
                '_' => self.word.push('_'),
                _ if letter.is_alphanumeric() => self.word.extend(letter.to_lowercase()),
                '.' | ',' | ';' | ':' | '!' | '?' | '(' | ')' | '|' => {
                    self.end_word(line);
                    self.found.push(Token::Break);
                }
                _ => self.end_word(line),
            }
        }
        self.end_word(line);
    }
}

fn tokens_of_text(text: &str) -> Vec<Token> {
    let mut tokens = Tokens::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            tokens.break_here(number + 1);
        }
        tokens.add(line, number + 1);
    }
    tokens.found
}

/// The page without the column of the glossary that lists the words to avoid.
fn without_avoided_words(page: &str) -> String {
    let mut is_glossary = false;
    let lines = page.lines().map(|line| {
        if line.starts_with("## ") {
            is_glossary = line == "## Words";
        }
        let row = line.strip_prefix("| ").filter(|_| is_glossary);
        row.and_then(|row| Some(row.trim_end_matches('|').rsplit_once('|')?.0)).unwrap_or(line)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Reads the comments and strings of Rust source; code is left out.
struct RustScanner {
    letters: Vec<char>,
    index: usize,
    line: usize,
    tokens: Tokens,
}

impl RustScanner {
    fn at(&self, offset: usize) -> char {
        self.letters.get(self.index + offset).copied().unwrap_or('\0')
    }

    fn run(mut self) -> Vec<Token> {
        while self.index < self.letters.len() {
            match (self.at(0), self.at(1)) {
                ('/', '/') => self.line_comment(),
                ('/', '*') => self.block_comment(),
                ('"', _) => self.string(),
                // A character; a lifetime has no second quote there.
                ('\'', '\\') => self.index += 3 + self.distance(3, '\'') + 1,
                ('\'', _) if self.at(2) == '\'' => self.index += 3,
                (letter, _) => {
                    if !letter.is_whitespace() {
                        self.tokens.break_here(self.line);
                    }
                    self.skip_one();
                }
            }
        }
        self.tokens.found
    }

    fn skip_one(&mut self) {
        self.line += usize::from(self.at(0) == '\n');
        self.index += 1;
    }

    /// Number of letters from `offset` to the next `end`.
    fn distance(&self, offset: usize, end: char) -> usize {
        self.letters.iter().skip(self.index + offset).take_while(|letter| **letter != end).count()
    }

    fn line_comment(&mut self) {
        let length = self.distance(0, '\n');
        let comment: String = self.letters[self.index..][..length].iter().collect();
        let text = comment.trim_start_matches(['/', '!']);
        if text.trim().is_empty() {
            self.tokens.break_here(self.line);
        }
        self.tokens.add(text, self.line);
        self.index += length;
    }

    fn block_comment(&mut self) {
        self.tokens.break_here(self.line);
        let rest = &self.letters[self.index..];
        let length = rest.windows(2).position(|pair| pair == ['*', '/']).unwrap_or(rest.len());
        let comment: String = rest[..length].iter().collect();
        for (number, text) in comment.split('\n').enumerate() {
            self.line += usize::from(number > 0);
            self.tokens.add(text, self.line);
        }
        self.tokens.break_here(self.line);
        self.index += length + 2;
    }

    fn string(&mut self) {
        self.tokens.break_here(self.line);
        let before = &self.letters[..self.index];
        let hashes = before.iter().rev().take_while(|letter| **letter == '#').count();
        let is_raw = before.iter().rev().nth(hashes) == Some(&'r');
        let end: Vec<char> =
            if is_raw { format!("\"{}", "#".repeat(hashes)) } else { "\"".to_owned() }.chars().collect();
        self.index += 1;
        let mut part = String::new();
        while self.index < self.letters.len() && !self.letters[self.index..].starts_with(&end) {
            match self.at(0) {
                '\n' => self.tokens.add(&std::mem::take(&mut part), self.line),
                '\\' if !is_raw => {
                    part.push(' ');
                    self.skip_one();
                }
                // The name in a placeholder is an identifier.
                '{' => {
                    part.push(' ');
                    let length = self.distance(1, '}');
                    let is_name = |letter: &char| !letter.is_whitespace() && *letter != '"';
                    if self.letters[self.index + 1..][..length].iter().all(is_name) {
                        self.index += length;
                    }
                }
                letter => part.push(letter),
            }
            self.skip_one();
        }
        self.tokens.add(&part, self.line);
        self.tokens.break_here(self.line);
        self.index += end.len();
    }
}

fn tokens_of_rust(source: &str) -> Vec<Token> {
    RustScanner { letters: source.chars().collect(), index: 0, line: 1, tokens: Tokens::new() }.run()
}

fn phrases(path: &str, tokens: &[Token]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (start, token) in tokens.iter().enumerate() {
        let Token::Word(_, line) = token else { continue };
        for (phrase, instead) in BANNED {
            let is_here = phrase.split(' ').enumerate().all(|(offset, expected)| {
                matches!(tokens.get(start + offset), Some(Token::Word(word, _)) if word == expected)
            });
            let has_noun = phrase.ends_with(" own")
                && match tokens.get(start + phrase.split(' ').count()) {
                    Some(Token::Word(word, _)) => !NO_NOUNS.contains(&word.as_str()),
                    Some(Token::Break) | None => false,
                };
            if is_here && !has_noun {
                found.push(Finding {
                    path: path.to_owned(),
                    line: *line,
                    word: (*phrase).to_owned(),
                    instead,
                });
            }
        }
    }
    found
}

/// Doc comments (in .proto files all comments) that begin with one of [`BARE_STARTS`].
fn bare_starts(path: &str, text: &str) -> Vec<Finding> {
    let marks: &[&str] = if path.ends_with(".proto") { &["//"] } else { &["///", "//!"] };
    let comment = |line: &str| {
        let line = line.trim_start();
        marks.iter().find_map(|mark| line.strip_prefix(mark)).map(str::to_owned)
    };
    let mut found = Vec::new();
    let mut is_inside = false;
    for (number, line) in text.lines().enumerate() {
        let Some(text) = comment(line) else {
            is_inside = false;
            continue;
        };
        let text = text.trim_start().to_lowercase();
        let start = BARE_STARTS.iter().find(|(start, _)| text.starts_with(&format!("{start} ")));
        if let Some((start, instead)) = start.filter(|_| !is_inside) {
            let word = format!("doc comment that begins with {start}");
            found.push(Finding { path: path.to_owned(), line: number + 1, word, instead });
        }
        is_inside = true;
    }
    found
}

fn test_names(path: &str, source: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut is_test = false;
    for (number, line) in source.lines().enumerate() {
        let line = line.trim_start();
        if line.starts_with("#[") {
            is_test |= line.contains("test]") || line.contains("::test(");
            continue;
        }
        let name = line.split_once("fn ").map(|(_, rest)| rest.split(['(', '<']).next().unwrap_or_default());
        if let Some(name) = name.filter(|_| is_test) {
            let is_banned = STARTS_OF_TEST_NAMES.iter().any(|start| name.starts_with(start))
                || name.split('_').any(|part| IN_TEST_NAMES.contains(&part));
            if is_banned {
                let word = format!("name of the test {name}");
                let instead = "subject_does_what_when";
                found.push(Finding { path: path.to_owned(), line: number + 1, word, instead });
            }
        }
        if !line.starts_with("//") {
            is_test = false;
        }
    }
    found
}

fn findings(path: &str, text: &str) -> Vec<Finding> {
    let is_rust = path.ends_with(".rs");
    let mut found = match path {
        "CONTRIBUTING.md" => phrases(path, &tokens_of_text(&without_avoided_words(text))),
        _ if is_rust => phrases(path, &tokens_of_rust(text)),
        _ => phrases(path, &tokens_of_text(text)),
    };
    if is_rust || path.ends_with(".proto") {
        found.extend(bare_starts(path, text));
    }
    if is_rust {
        found.extend(test_names(path, text));
    }
    found.sort_by_key(|finding| finding.line);
    found
}

/// Paths below the root of the repository.
fn files() -> Vec<String> {
    let listed = Command::new("git").args(["-C", ROOT, "ls-files"]).output().expect("git is here");
    assert!(listed.status.success(), "{listed:?}");
    let listed = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let checked = listed.lines().filter(|path| {
        let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
        EXTENSIONS.contains(&extension) && !SKIPPED.iter().any(|skipped| path.starts_with(skipped))
    });
    checked.map(str::to_owned).collect()
}

/// A generated page says so in its first lines, by a comment.
fn is_generated(text: &str) -> bool {
    text.lines().take(5).any(|line| line.starts_with("<!-- Generated"))
}

#[test]
fn banned_words_do_not_come_back() {
    let mut count = 0;
    let mut report = String::new();
    for path in files() {
        // A file that is deleted and not yet committed.
        let Ok(text) = fs::read_to_string(Path::new(ROOT).join(&path)) else { continue };
        count += 1;
        if is_generated(&text) {
            continue;
        }
        for Finding { path, line, word, instead } in findings(&path, &text) {
            let _ = writeln!(report, "{path}:{line}: {word}; use: {instead}");
        }
    }
    assert!(count > 500, "{count} files: the repository was not read");
    assert!(report.is_empty(), "{report}");
}

#[test]
fn phrases_are_found_in_comments_and_strings_and_not_in_code() {
    let source = "/// It goes\n/// on.\nlet wish = r#\"a \"door\" {wish}\"#; // `told` told_once\nlet c = '\"'; // anew\n\
                  fn f<'a>(door: &'a str) -> &'static str { \"by\\nitself\" }";
    let found = phrases("a.rs", &tokens_of_rust(source));
    let found: Vec<_> = found.iter().map(|finding| (finding.line, finding.word.as_str())).collect();
    assert_eq!(found, [(1, "goes on"), (3, "door"), (4, "anew"), (5, "by itself")]);
}

#[test]
fn phrases_of_pages_cross_lines_and_not_sentences_or_paragraphs() {
    let found = phrases(
        "a.md",
        &tokens_of_text("Of its\nown. Of its own term. It goes. On it\n\nby\n\nitself `a person` A person's"),
    );
    let found: Vec<_> = found.iter().map(|finding| (finding.line, finding.word.as_str())).collect();
    assert_eq!(found, [(1, "of its own"), (6, "a person")]);
}

#[test]
fn avoided_words_of_the_glossary_are_left_out() {
    let page =
        "| x | told |\n## Words\n| report | to a task | tell, told |\n| again | | anew |\n## Next\ntold";
    let found = findings("CONTRIBUTING.md", page);
    assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [1, 6]);
}

#[test]
fn doc_comments_that_begin_bare_and_names_of_tests_are_found() {
    let source = "//! What it is.\n\n/// Of one port.\n/// Who waits.\nstruct A;\n// Of no doc.\n/// Whoami.\n#[test]\n#[ignore]\n\
                  fn what_is_told() {}\nfn who_is_no_test() {}\n#[tokio::test(start_paused = true)]\nasync fn a_b_anew_c() {}";
    let found = findings("a.rs", source);
    let lines: Vec<_> = found.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [1, 3, 10, 13], "{found:?}");
}
