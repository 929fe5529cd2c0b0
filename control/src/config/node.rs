//! A YAML document as a tree that remembers its lines, and a reader that
//! collects every complaint in place of stopping at the first.

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;
use std::str::FromStr;

/// One complaint about the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Line in the file, from 1; 0 where there is none (a flag, the file as a whole).
    pub line: u64,
    /// Which setting: `machines[2].environment`; empty for the file as a whole.
    pub at: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(out, "line {}: ", self.line)?;
        }
        if !self.at.is_empty() {
            write!(out, "{}: ", self.at)?;
        }
        write!(out, "{}; {}", self.what, self.remedy)
    }
}

/// A value of the document.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it stands, from 1.
    pub line: u64,
    /// What it is.
    pub kind: Kind,
}

/// The shapes of a value.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number with a fraction.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(String, u64, Node)>),
}

impl Kind {
    const fn name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a yes-or-no value",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Reads a document.
///
/// # Errors
/// Where it is not YAML (with the line), or has duplicate keys or aliases beyond reason.
pub fn parse(text: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! { strict_booleans: true, legacy_octal_numbers: true, with_snippet: false };
    serde_saphyr::from_str_with_options::<Option<Node>>(text, options)
        .map(|node| node.unwrap_or(Node { line: 1, kind: Kind::Null }))
        .map_err(|e| Problem {
            line: e.location().map_or(0, |at| at.line()),
            at: String::new(),
            what: format!("this is not the YAML that was expected: {}", first_line(&e.to_string())),
            remedy: "correct the syntax (indent with spaces, one `key: value` a line, each key once)".into(),
        })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

impl Node {
    /// The same as JSON, for a part that another module reads with serde.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::{Number, Value};
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(b) => Value::Bool(*b),
            Kind::Int(n) => Number::from_i128(*n).map_or(Value::Null, Value::Number),
            Kind::Float(f) => Number::from_f64(*f).map_or(Value::Null, Value::Number),
            Kind::Text(t) => Value::String(t.clone()),
            Kind::List(l) => Value::Array(l.iter().map(Self::to_json).collect()),
            Kind::Map(m) => Value::Object(m.iter().map(|(k, _, v)| (k.clone(), v.to_json())).collect()),
        }
    }

    /// The line of the first key or text in this tree that equals one of `words`.
    pub fn line_of(&self, words: &[&str]) -> Option<u64> {
        match &self.kind {
            Kind::Text(t) => words.contains(&t.as_str()).then_some(self.line),
            Kind::List(l) => l.iter().find_map(|n| n.line_of(words)),
            Kind::Map(m) => m
                .iter()
                .find_map(|(k, line, v)| if words.contains(&k.as_str()) { Some(*line) } else { v.line_of(words) }),
            _ => None,
        }
    }
}

/// A mapping being read: keys are taken out one by one; what is left at the
/// end was not known.
pub struct Section<'a> {
    /// Path in words, such as `machines[2]`.
    pub at: String,
    /// Line of the mapping.
    pub line: u64,
    left: Vec<(String, u64, Node)>,
    known: Vec<&'static str>,
    /// Where complaints go.
    pub problems: &'a mut Vec<Problem>,
}

impl<'a> Section<'a> {
    /// Begins to read `node`, which should be a mapping (nothing counts as an empty one).
    pub fn new(node: Node, at: impl Into<String>, problems: &'a mut Vec<Problem>) -> Self {
        let (at, line) = (at.into(), node.line);
        let left = match node.kind {
            Kind::Map(entries) => entries,
            Kind::Null => Vec::new(),
            other => {
                problems.push(Problem {
                    line,
                    at: at.clone(),
                    what: format!("a mapping belongs here, this is {}", other.name()),
                    remedy: "write `key: value` lines, indented".into(),
                });
                Vec::new()
            }
        };
        Self { at, line, left, known: Vec::new(), problems }
    }

    /// Takes a key out.
    pub fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        let i = self.left.iter().position(|(k, ..)| k == key)?;
        let (_, _, node) = self.left.remove(i);
        (!matches!(node.kind, Kind::Null)).then_some(node)
    }

    /// Takes every remaining entry: for mappings whose keys are names.
    pub fn take_all(&mut self) -> Vec<(String, u64, Node)> {
        std::mem::take(&mut self.left)
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> bool {
        self.left.iter().any(|(k, ..)| k == key)
    }

    /// The line of a key that has not been taken yet, else of the mapping.
    pub fn line_of_key(&self, key: &str) -> u64 {
        self.left.iter().find(|(k, ..)| k == key).map_or(self.line, |(_, line, _)| *line)
    }

    /// The path of a key below this mapping.
    pub fn path(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_string() } else { format!("{}.{key}", self.at) }
    }

    /// Complains.
    pub fn complain(&mut self, line: u64, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        let at = if key.is_empty() { self.at.clone() } else { self.path(key) };
        self.problems.push(Problem { line, at, what: what.into(), remedy: remedy.into() });
    }

    /// A text that must parse as `T`; numbers count as texts.
    pub fn parsed<T: FromStr>(&mut self, key: &'static str, remedy: &str) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        let node = self.take(key)?;
        let line = node.line;
        let text = self.as_text(key, node)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(e) => {
                self.complain(line, key, format!("`{}` is not valid: {e}", shorten(&text)), remedy);
                None
            }
        }
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        let node = self.take(key)?;
        self.as_text(key, node)
    }

    /// A whole number within a range.
    pub fn number(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let node = self.take(key)?;
        let (low, high) = (*range.start(), *range.end());
        let number = match &node.kind {
            Kind::Int(n) => u64::try_from(*n).ok().filter(|n| range.contains(n)),
            _ => None,
        };
        if number.is_none() {
            let what = format!("a whole number from {low} to {high} belongs here");
            self.complain(node.line, key, what, "write such a number, without quotes");
        }
        number
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        let node = self.take(key)?;
        match node.kind {
            Kind::Bool(value) => Some(value),
            other => {
                let what = format!("true or false belongs here, this is {}", other.name());
                self.complain(node.line, key, what, "write true or false, without quotes");
                None
            }
        }
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let node = self.take(key)?;
        let Kind::List(items) = node.kind else {
            let what = format!("a list belongs here, this is {}", node.kind.name());
            self.complain(node.line, key, what, "write each item on a line of its own, beginning with `- `");
            return None;
        };
        Some(items.into_iter().filter_map(|item| self.as_text(key, item)).collect())
    }

    /// A list.
    pub fn list(&mut self, key: &'static str) -> Vec<Node> {
        match self.take(key) {
            None => Vec::new(),
            Some(Node { kind: Kind::List(items), .. }) => items,
            Some(other) => {
                let what = format!("a list belongs here, this is {}", other.kind.name());
                self.complain(other.line, key, what, "write each item on a line of its own, beginning with `- `");
                Vec::new()
            }
        }
    }

    fn as_text(&mut self, key: &str, node: Node) -> Option<String> {
        match node.kind {
            Kind::Text(t) => Some(t),
            Kind::Int(n) => Some(n.to_string()),
            Kind::Float(f) => Some(f.to_string()),
            other => {
                let what = format!("a text belongs here, this is {}", other.name());
                self.complain(node.line, key, what, "put the text in quotes");
                None
            }
        }
    }

    /// Complains about every key that nobody took.
    pub fn finish(mut self) {
        for (key, line, _) in std::mem::take(&mut self.left) {
            let remedy = match nearest(&key, &self.known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("remove it; known here: {}", self.known.join(", ")),
            };
            self.complain(line, &key, "this setting is not known", remedy);
        }
    }
}

/// Cuts a text for a message.
pub fn shorten(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let plain = |s: &str| s.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|k| (distance(&plain(key), &plain(k)), *k))
        .filter(|(d, k)| *d <= 1 + k.len() / 5)
        .min()
        .map(|(_, k)| k)
}

/// How many letters must be put in, taken out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cb, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let here = (diagonal + usize::from(ca != *cb)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(d)?;
        Ok(Self { line: spanned.referenced.line(), kind: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }
    fn visit_none<E: de::Error>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Kind, D::Error> {
        Kind::deserialize(d)
    }
    fn visit_bool<E: de::Error>(self, b: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(b))
    }
    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Kind, E> {
        Ok(Kind::Int(n.into()))
    }
    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Kind, E> {
        Ok(Kind::Int(n.into()))
    }
    fn visit_f64<E: de::Error>(self, n: f64) -> Result<Kind, E> {
        Ok(Kind::Float(n))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Kind, E> {
        Ok(Kind::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Node>()? {
            entries.push((key.value, key.referenced.line(), value));
        }
        Ok(Kind::Map(entries))
    }
}
