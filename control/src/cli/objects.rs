//! `stoker apply`, `get`, `describe`, `delete`, `edit`, `export`, `import`:
//! declared objects, in the YAML that kubectl would take.

use super::api::Api;
use super::{Failure, Reach, servers, table};
use control::api::objects::{Applied, ObjectList};
use control::resource::{Kind, Object};
use hyper::Method;
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The largest file that is applied, bytes.
const MAX_FILE: u64 = 64 << 20;
/// Times that an editor is opened again after a refusal.
const EDITS: usize = 20;

/// Arguments of `stoker apply`.
#[derive(clap::Args)]
#[command(after_help = "\
Several documents in one file are divided by lines of `---`. What an earlier apply wrote and
this one leaves out is taken away; what agents wrote (spec.hardware) stays.

Examples:
  stoker apply -f rack7.yaml
  stoker get server 6f0c4e2a-0b1d-4c5e-8f90-123456789abc -o yaml | sed s/old/new/ | stoker apply -f -")]
pub struct Apply {
    #[command(flatten)]
    reach: Reach,
    /// File of YAML or JSON documents, `-` for standard input; may be given several times
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    file: Vec<PathBuf>,
}

/// Arguments of `stoker get`.
#[derive(clap::Args)]
#[command(after_help = "\
Kinds: server, serverclass (class), environment (env), serverbinding (binding), secret

Examples:
  stoker get servers
  stoker get servers -l zone=a -o name
  stoker get class any -o yaml")]
pub struct Get {
    #[command(flatten)]
    reach: Reach,
    /// Kind of object
    kind: String,
    /// Its name; all without it
    name: Option<String>,
    /// yaml, json, name or wide
    #[arg(short, long, value_parser = ["yaml", "json", "name", "wide"])]
    output: Option<String>,
    /// Only objects with these labels: `key=value`, several by commas
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Namespace of a Secret [default: stoker]
    #[arg(short, long)]
    namespace: Option<String>,
}

/// Arguments of `stoker describe`.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  stoker describe server 6f0c4e2a-0b1d-4c5e-8f90-123456789abc     phase, why, what comes next, orders, hardware"
)]
pub struct Describe {
    #[command(flatten)]
    reach: Reach,
    /// Kind of object
    kind: String,
    /// Its name
    name: String,
}

/// Arguments of `stoker delete`.
#[derive(clap::Args)]
#[command(after_help = "\
A ServerBinding is a machine's owner: deleting it releases the machine, which is wiped.

Example:
  stoker delete serverclass old")]
pub struct Delete {
    #[command(flatten)]
    reach: Reach,
    /// Kind of object
    kind: String,
    /// Names
    #[arg(required = true)]
    name: Vec<String>,
    /// Namespace of a Secret [default: stoker]
    #[arg(short, long)]
    namespace: Option<String>,
}

/// Arguments of `stoker edit`.
#[derive(clap::Args)]
#[command(after_help = "\
Opens $VISUAL or $EDITOR; what is refused is shown at the top, and the editor opens again.

Example:
  stoker edit server 6f0c4e2a-0b1d-4c5e-8f90-123456789abc")]
pub struct Edit {
    #[command(flatten)]
    reach: Reach,
    /// Kind of object
    kind: String,
    /// Its name
    name: String,
}

/// Arguments of `stoker export`.
#[derive(clap::Args)]
#[command(after_help = "\
The lines hold Secrets: keep them as you would keep passwords.

Example:
  stoker export > backup.jsonl")]
pub struct Export {
    #[command(flatten)]
    reach: Reach,
}

/// Arguments of `stoker import`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  stoker import backup.jsonl     into an empty store, all or nothing")]
pub struct Import {
    #[command(flatten)]
    reach: Reach,
    /// What `stoker export` wrote
    file: PathBuf,
}

impl Apply {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let mut documents = Vec::new();
        for file in &self.file {
            let read = parse(&read(file)?).map_err(|why| Failure::Usage(format!("{}: {why}", file.display())))?;
            documents.extend(read);
        }
        let (api, mut failed) = (Api::new(&self.reach), 0);
        for document in documents {
            let word = |at: &str| document.pointer(at).and_then(Value::as_str).unwrap_or("?").to_owned();
            let what = format!("{}/{}", word("/kind").to_ascii_lowercase(), word("/metadata/name"));
            match api.call::<Applied>(Method::POST, "/api/v1/objects", Some(&document)).await {
                Ok(Applied::Created) => table::line(&format!("{what} created")),
                Ok(Applied::Configured) => table::line(&format!("{what} configured")),
                Ok(Applied::Unchanged) => table::line(&format!("{what} unchanged")),
                Err(Failure::Failed(why)) => {
                    failed += 1;
                    eprintln!("{what}: {why}");
                }
                Err(other) => return Err(other),
            }
        }
        match failed {
            0 => Ok(ExitCode::SUCCESS),
            n => Err(Failure::Failed(format!("{n} of the objects were refused; the others are applied"))),
        }
    }
}

impl Get {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let (api, kind) = (Api::new(&self.reach), kind(&self.kind)?);
        let mut objects = match &self.name {
            Some(name) => vec![api.get::<Object>(&path(kind, name, self.namespace.as_deref())?).await?],
            None => api.get::<ObjectList>(&format!("/api/v1/objects/{kind}")).await?.items,
        };
        if let Some(namespace) = &self.namespace {
            objects.retain(|o| o.metadata.namespace == *namespace);
        }
        for pair in self.selector.iter().flat_map(|s| s.split(',')) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Failure::Usage(format!("-l {pair:?} is not key=value")));
            };
            objects.retain(|o| o.metadata.labels.get(key).is_some_and(|v| v == value));
        }
        match self.output.as_deref() {
            Some("json") => match (&self.name, &objects[..]) {
                (Some(_), [one]) => table::json(one)?,
                _ => table::json(&ObjectList { items: objects })?,
            },
            Some("yaml") => print!("{}", yaml(&objects)?),
            Some("name") => {
                for object in &objects {
                    table::line(&format!("{}/{}", kind.name().to_ascii_lowercase(), object.metadata.name));
                }
            }
            wide => servers::show(kind, &objects, wide.is_some()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Describe {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let kind = kind(&self.kind)?;
        let object: Object = Api::new(&self.reach).get(&path(kind, &self.name, None)?).await?;
        match kind {
            Kind::Server => servers::sheet(&object)?.iter().for_each(|line| table::line(line)),
            _ => print!("{}", yaml(std::slice::from_ref(&object))?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Delete {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let (api, kind) = (Api::new(&self.reach), kind(&self.kind)?);
        for name in &self.name {
            let path = path(kind, name, self.namespace.as_deref())?;
            let done: Value = api.call(Method::DELETE, &path, None::<&()>).await?;
            let how = if done["deleted"] == true { "deleted" } else { "is being deleted" };
            table::line(&format!("{}/{name} {how}", kind.name().to_ascii_lowercase()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Edit {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let (api, kind) = (Api::new(&self.reach), kind(&self.kind)?);
        let object: Object = api.get(&path(kind, &self.name, None)?).await?;
        let before = yaml(std::slice::from_ref(&object))?;
        let mut text = before.clone();
        for _ in 0..EDITS {
            let edited = editor(&text)?;
            let body: String = edited.lines().filter(|l| !l.starts_with("# ")).map(|l| format!("{l}\n")).collect();
            if body == before {
                table::line("nothing has changed");
                return Ok(ExitCode::SUCCESS);
            }
            if body.trim().is_empty() {
                return Err(Failure::Failed("the file is empty: nothing was changed".into()));
            }
            let refused = match parse(&body) {
                Ok(documents) if documents.len() == 1 => {
                    match api.call::<Object>(Method::PUT, "/api/v1/objects", documents.first()).await {
                        Ok(_) => {
                            table::line(&format!("{}/{} edited", kind.name().to_ascii_lowercase(), self.name));
                            return Ok(ExitCode::SUCCESS);
                        }
                        Err(Failure::Failed(why)) => why,
                        Err(other) => return Err(other),
                    }
                }
                Ok(_) => "there must be one document".to_owned(),
                Err(why) => why,
            };
            if edited == text {
                return Err(Failure::Failed(format!("nothing was changed: {refused}")));
            }
            text = format!("# {}\n{body}", refused.replace('\n', " "));
        }
        Err(Failure::Failed("given up".into()))
    }
}

impl Export {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let mut lines = Api::new(&self.reach).lines("/api/v1/export").await?;
        while let Some(object) = lines.next::<Value>().await? {
            table::line(&object.to_string());
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Import {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let text = std::fs::read(&self.file)
            .map_err(|e| Failure::Usage(format!("{} cannot be read: {e}", self.file.display())))?;
        let done: Value = Api::new(&self.reach).send_text("/api/v1/import", text).await?;
        table::line(&format!("{} objects imported", done["imported"]));
        Ok(ExitCode::SUCCESS)
    }
}

fn kind(word: &str) -> Result<Kind, Failure> {
    Kind::from_word(word).ok_or_else(|| {
        Failure::Usage(format!(
            "{word:?} is no kind of object; there are server, serverclass, environment, serverbinding, secret, metalcluster, metalmachine"
        ))
    })
}

fn path(kind: Kind, name: &str, namespace: Option<&str>) -> Result<String, Failure> {
    for part in [Some(name), namespace].into_iter().flatten() {
        if part.is_empty() || !part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.')) {
            return Err(Failure::Usage(format!("{part:?} is no name: letters, digits, '-' and '.'")));
        }
    }
    let query = namespace.map(|n| format!("?namespace={n}")).unwrap_or_default();
    Ok(format!("/api/v1/objects/{kind}/{}{query}", name.to_ascii_lowercase()))
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::Usage(format!("{}: {e}", path.display()));
    let source: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(|e| failed(&e))?)
    };
    let mut text = String::new();
    source.take(MAX_FILE).read_to_string(&mut text).map_err(|e| failed(&e))?;
    Ok(text)
}

/// The documents of a text; a `List` (or what `get -o json` writes) counts as its items.
fn parse(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! { strict_booleans: true, legacy_octal_numbers: true, with_snippet: false };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|e| {
        let line = e.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
        format!("{line}this is not YAML: {}", e.to_string().lines().next().unwrap_or_default())
    })?;
    let mut all = Vec::new();
    for mut document in documents {
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => all.extend(items),
            _ if document.is_null() => {}
            _ => all.push(document),
        }
    }
    if all.is_empty() { Err("there is no object in it".into()) } else { Ok(all) }
}

fn yaml(objects: &[Object]) -> Result<String, Failure> {
    let parts: Result<Vec<String>, _> = objects.iter().map(serde_saphyr::to_string).collect();
    Ok(parts.map_err(Failure::from_error)?.join("---\n"))
}

fn editor(text: &str) -> Result<String, Failure> {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().map_err(Failure::from_error)?;
    file.write_all(text.as_bytes()).map_err(Failure::from_error)?;
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|v| std::env::var(v).ok()).unwrap_or_else(|| "vi".into());
    // As git does: the variable may hold arguments.
    let status = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("editor")
        .arg(file.path())
        .status()
        .map_err(|e| Failure::Failed(format!("{editor} cannot be started: {e}; set EDITOR")))?;
    if !status.success() {
        return Err(Failure::Failed(format!("{editor} ended with {status}: nothing was changed")));
    }
    std::fs::read_to_string(file.path()).map_err(Failure::from_error)
}
