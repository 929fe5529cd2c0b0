//! The files of the repository, with comments and literals blanked out where code is meant.

use std::path::{Path, PathBuf};

/// One file.
pub struct File {
    /// Relative to the repository.
    pub path: String,
    /// As it is.
    pub raw: String,
    /// The same lines without comments and without the insides of literals.
    pub code: String,
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the repository").to_path_buf()
}

/// All files with this extension (or this very name), in order.
pub fn tree(extension: &str) -> impl Iterator<Item = File> + use<> {
    let mut found = Vec::new();
    walk(&root(), 0, &mut |path| {
        let matches =
            path.extension().is_some_and(|e| e == extension) || path.file_name().is_some_and(|n| n == extension);
        if matches {
            found.push(path.to_path_buf());
        }
    });
    found.sort();
    found.into_iter().map(|path| File::read(&path))
}

/// Folders that hold nothing of ours.
const SKIPPED: &[&str] = &["target", ".git", ".stoker", "node_modules"];
/// Deeper than any of our folders.
const DEPTH_MAX: usize = 12;

fn walk(folder: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let skipped = entry.file_name().to_str().is_some_and(|name| SKIPPED.contains(&name));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !skipped && depth < DEPTH_MAX => walk(&path, depth + 1, visit),
            Ok(kind) if kind.is_file() => visit(&path),
            _ => {}
        }
    }
}

impl File {
    /// Reads one; what is not UTF-8 is no source.
    pub fn read(path: &Path) -> Self {
        let raw = std::fs::read(path).unwrap_or_default();
        let raw = String::from_utf8_lossy(&raw).into_owned();
        let code = if path.extension().is_some_and(|e| e == "rs") { strip(&raw) } else { raw.clone() };
        let path = path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned();
        Self { path, raw, code }
    }

    /// Whether the whole file is a test.
    pub fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.contains("/tests/") || self.path.ends_with("/simulation.rs")
    }

    /// `file:line: text` of all lines of code that match.
    pub fn lines(&self, matches: impl Fn(&str) -> bool) -> Vec<String> {
        self.found(self.code.lines(), matches)
    }

    /// The same before the file's `mod tests`.
    pub fn lines_outside_tests(&self, matches: impl Fn(&str) -> bool) -> Vec<String> {
        let end = self.code.find("#[cfg(test)]\nmod tests").unwrap_or(self.code.len());
        self.found(self.code[..end].lines(), matches)
    }

    /// The same with comments and literals.
    pub fn raw_lines(&self, matches: impl Fn(&str) -> bool) -> Vec<String> {
        self.found(self.raw.lines(), matches)
    }

    fn found<'a>(&self, lines: impl Iterator<Item = &'a str>, matches: impl Fn(&str) -> bool) -> Vec<String> {
        let hits = lines.enumerate().filter(|(_, line)| matches(line));
        hits.map(|(i, line)| format!("{}:{}: {}", self.path, i + 1, line.trim())).collect()
    }
}

/// Rust source with comments and the insides of literals turned into spaces; lines keep their numbers.
pub fn strip(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let blank = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest, &out) {
            length
        } else if c == '"' {
            quoted(rest)
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        if blank == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..blank].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[blank..];
        }
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn raw_string(text: &str, before: &str) -> Option<usize> {
    let inside_word = before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    let after = text.strip_prefix('r').filter(|_| !inside_word || before.ends_with('b'))?;
    let hashes = after.bytes().take_while(|&b| b == b'#').count();
    let body = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close).map_or(body.len(), |at| at + close.len());
    Some(1 + hashes + 1 + end)
}

fn quoted(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// A character literal, or 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[2..].char_indices().skip(1).find(|&(_, c)| c == '\'').map_or(0, |(at, _)| at + 3),
        Some((at, c)) if text[at + c.len_utf8()..].starts_with('\'') => at + c.len_utf8() + 1,
        _ => 0,
    }
}

/// The targets of Markdown links, with their lines; code blocks hold none.
pub fn links(page: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (i, line) in page.lines().enumerate() {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            if let Some(target) = line[at + 2..].split(')').next() {
                found.push((i + 1, target.split_whitespace().next().unwrap_or_default().to_owned()));
            }
        }
    }
    found
}

#[test]
fn stripping_keeps_code_and_drops_the_rest() {
    let source = "let a = \"un\\\"safe\"; // unsafe\n/* unsafe /* nested */ unsafe\n*/ let b = 'x'; let c: &'static str = r#\"unsafe \"x\"#; let d = '\\''; unsafe {";
    let code = strip(source);
    assert_eq!(code.matches("unsafe").count(), 1, "{code}");
    assert!(code.ends_with("unsafe {") && code.contains("&'static str"), "{code}");
    assert_eq!(code.lines().count(), source.lines().count());
    assert_eq!(strip("b'\\\\' unsafe '\\u{1f}' x"), "b     unsafe          x");
}

#[test]
fn links_are_found() {
    let page = "see [a](b.md#c) and [d](<e> \"f\")\n```\n[x](nothing)\n```\n";
    assert_eq!(links(page), [(1, "b.md#c".to_owned()), (1, "<e>".to_owned())]);
}
