//! One try at fetching one file: resumed where the last one broke off,
//! checked, moved into the object folder. Nothing unchecked is ever published
//! (F16).

use crate::config::{AssetSource, Digest};
use crate::limits;
use crate::metadata::words::clean;
use crate::publish::{Objects, PublishError, Stored};
use protocol::manifest::ObjectId;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256, Sha512};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Fetches files into an object folder.
pub(super) struct Fetcher {
    objects: Objects,
    client: OnceLock<Result<Client, String>>,
    silence: Duration,
}

/// What became of a try.
#[derive(Debug)]
pub(super) enum Fetched {
    /// It is in the object folder.
    New { stored: Stored, validator: Option<String> },
    /// The source says that it is as it was.
    Same,
}

/// Why a try failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub text: String,
    /// Another try soon would end the same way.
    pub hopeless: bool,
}

impl Failure {
    pub fn transient(text: String) -> Self {
        Self { text, hopeless: false }
    }
    fn hopeless(text: String) -> Self {
        Self { text, hopeless: true }
    }
}

type Progress<'a> = &'a (dyn Fn(u64, Option<u64>) + Sync);

impl Fetcher {
    pub fn new(objects: Objects) -> Self {
        Self { objects, client: OnceLock::new(), silence: limits::FETCH_SILENCE }
    }

    /// A fetcher that gives a silent server up sooner.
    #[cfg(test)]
    pub fn impatient(objects: Objects, silence: Duration) -> Self {
        Self { silence, ..Self::new(objects) }
    }

    /// Where a file is while it is not whole.
    pub fn part(&self, source: &AssetSource) -> PathBuf {
        Part::path(&self.objects, source)
    }

    /// Throws away what was begun, unless somebody is at it still.
    pub fn discard(&self, source: &AssetSource) {
        let path = self.part(source);
        if path.exists()
            && let Ok(part) = Part::open(&self.objects, source)
        {
            part.discard();
        }
    }

    /// Fetches, unless `known` (a validator of an earlier fetch) still holds.
    pub async fn fetch(
        &self,
        source: &AssetSource,
        known: Option<&str>,
        progress: Progress<'_>,
    ) -> Result<Fetched, Failure> {
        match source.url.strip_prefix("file://") {
            Some(path) => self.copy(source, PathBuf::from(path), known, progress).await,
            None => self.download(source, known, progress).await,
        }
    }

    async fn copy(
        &self,
        source: &AssetSource,
        path: PathBuf,
        known: Option<&str>,
        progress: Progress<'_>,
    ) -> Result<Fetched, Failure> {
        let unreadable = |e: io::Error| Failure::transient(format!("{} cannot be read: {e}", path.display()));
        let meta = tokio::fs::metadata(&path).await.map_err(unreadable)?;
        let validator = format!("{}-{}-{}", meta.len(), meta.mtime(), meta.mtime_nsec());
        if known == Some(validator.as_str()) {
            return Ok(Fetched::Same);
        }
        self.room(meta.len())?;
        progress(0, Some(meta.len()));
        let (mut part, from) = (Part::open(&self.objects, source)?, path.clone());
        let source = source.clone();
        let objects = self.objects.clone();
        let copied = tokio::task::spawn_blocking(move || {
            part.restart()?;
            let mut file =
                File::open(&from).map_err(|e| Failure::transient(format!("{} cannot be read: {e}", from.display())))?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                let n = file
                    .read(&mut buffer)
                    .map_err(|e| Failure::transient(format!("{} cannot be read: {e}", from.display())))?;
                if n == 0 {
                    return part.finish(&source, &objects);
                }
                part.write(buffer.get(..n).unwrap_or_default())?;
            }
        });
        let stored = copied.await.map_err(|e| Failure::transient(e.to_string()))??;
        Ok(Fetched::New { stored, validator: Some(validator) })
    }

    async fn download(
        &self,
        source: &AssetSource,
        known: Option<&str>,
        progress: Progress<'_>,
    ) -> Result<Fetched, Failure> {
        let client = self.client.get_or_init(client).as_ref().map_err(|e| Failure::hopeless(e.clone()))?;
        let url = Url::parse(&source.url).map_err(|e| Failure::hopeless(format!("not a URL: {e}")))?;
        let (mut part, had) = resume(&self.objects, source).await?;
        let mut request = client.get(url);
        if part.length > 0 {
            request = request.header(RANGE, format!("bytes={}-", part.length));
            if let Some(validator) = &had {
                request = request.header(IF_RANGE, validator);
            }
        } else if let Some(known) = known.filter(|k| k.starts_with('"')) {
            request = request.header(IF_NONE_MATCH, known);
        }
        let silence = self.silence;
        let response = tokio::time::timeout(silence, request.send()).await;
        let mut response = response.map_err(|_| quiet(silence))?.map_err(|e| Failure::transient(network(&e)))?;
        let validator = validator_of(response.headers());
        match response.status() {
            StatusCode::NOT_MODIFIED => return Ok(Fetched::Same),
            StatusCode::PARTIAL_CONTENT if begins_at(response.headers(), part.length) => {}
            StatusCode::OK => part.restart()?,
            StatusCode::RANGE_NOT_SATISFIABLE => {
                part.discard();
                return Err(Failure::transient("the server does not continue the download; it begins anew".into()));
            }
            status
                if status.is_client_error()
                    && status != StatusCode::TOO_MANY_REQUESTS
                    && status != StatusCode::REQUEST_TIMEOUT =>
            {
                return Err(Failure::hopeless(format!("the server answered {status}; check the URL")));
            }
            status => return Err(Failure::transient(format!("the server answered {status}"))),
        }
        part.remember(validator.as_deref());
        let total = response.content_length().map(|rest| rest + part.length);
        if let Err(e) = self.check_total(source, total, part.length) {
            part.discard();
            return Err(e);
        }
        self.read_body(&mut response, &mut part, total, progress).await?;
        let (source, objects) = (source.clone(), self.objects.clone());
        let finished = tokio::task::spawn_blocking(move || part.finish(&source, &objects));
        let stored = finished.await.map_err(|e| Failure::transient(e.to_string()))??;
        Ok(Fetched::New { stored, validator })
    }

    async fn read_body(
        &self,
        response: &mut Response,
        part: &mut Part,
        total: Option<u64>,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        progress(part.length, total);
        loop {
            let chunk = tokio::time::timeout(self.silence, response.chunk()).await.map_err(|_| quiet(self.silence))?;
            let Some(chunk) = chunk.map_err(|e| {
                Failure::transient(format!("the download broke off after {} bytes: {}", part.length, network(&e)))
            })?
            else {
                break;
            };
            if part.length + chunk.len() as u64 > limits::ASSET_BYTES {
                part.discard();
                return Err(Failure::hopeless(format!("it is larger than {} bytes", limits::ASSET_BYTES)));
            }
            // Page cache writes of one chunk; the flush at the end is in a blocking thread.
            part.write(&chunk)?;
            progress(part.length, total);
        }
        match total {
            Some(total) if part.length < total => {
                Err(Failure::transient(format!("the download broke off after {} of {total} bytes", part.length)))
            }
            _ => Ok(()),
        }
    }

    fn check_total(&self, source: &AssetSource, total: Option<u64>, have: u64) -> Result<(), Failure> {
        let Some(total) = total else { return Ok(()) };
        if let Some(size) = source.size.filter(|s| *s != total) {
            return Err(Failure::hopeless(format!("the server has {total} bytes, the configuration says {size}")));
        }
        if total > limits::ASSET_BYTES {
            return Err(Failure::hopeless(format!("it has {total} bytes, more than {}", limits::ASSET_BYTES)));
        }
        self.room(total.saturating_sub(have))
    }

    /// Better to say so before than to fill the disk.
    fn room(&self, bytes: u64) -> Result<(), Failure> {
        let Ok(disk) = rustix::fs::statvfs(self.objects.incoming()) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if bytes > free {
            let folder = self.objects.incoming().display();
            return Err(Failure::transient(format!(
                "no room: {bytes} bytes are needed in {folder}, {free} are free; free some"
            )));
        }
        Ok(())
    }
}

/// The unfinished file, with its digests so far.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    sha256: Sha256,
    sha512: Option<Sha512>,
}

impl Part {
    fn path(objects: &Objects, source: &AssetSource) -> PathBuf {
        let digest = source.digest.as_ref().map(ToString::to_string).unwrap_or_default();
        objects.incoming().join(format!("{}.part", ObjectId::of(format!("{} {digest}", source.url).as_bytes())))
    }

    fn open(objects: &Objects, source: &AssetSource) -> Result<Self, Failure> {
        let path = Self::path(objects, source);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| on_disk(&path, &e))?;
        // A try that was given up may be writing its last bytes.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Failure::transient("another fetch of the same file is just ending".into()))?;
        let sha512 = matches!(source.digest, Some(Digest::Sha512(_))).then(Sha512::new);
        Ok(Self { path, file, length: 0, sha256: Sha256::new(), sha512 })
    }

    /// Reads what is there already into the digests.
    fn catch_up(&mut self) -> Result<(), Failure> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = self.file.read(&mut buffer).map_err(|e| on_disk(&self.path, &e))?;
            if n == 0 {
                return Ok(());
            }
            self.digest(buffer.get(..n).unwrap_or_default());
        }
    }

    fn digest(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(hash) = &mut self.sha512 {
            hash.update(bytes);
        }
        self.length += bytes.len() as u64;
    }

    fn restart(&mut self) -> Result<(), Failure> {
        let done = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        done.map_err(|e| on_disk(&self.path, &e))?;
        self.length = 0;
        self.sha256 = Sha256::new();
        self.sha512 = self.sha512.take().map(|_| Sha512::new());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if let Err(e) = self.file.write_all(bytes) {
            if e.kind() == io::ErrorKind::StorageFull {
                // Others need the room more than an unfinished file does.
                self.discard();
            }
            return Err(on_disk(&self.path, &e));
        }
        self.digest(bytes);
        Ok(())
    }

    /// Checks and moves it into the object folder. What does not match is thrown away.
    fn finish(self, source: &AssetSource, objects: &Objects) -> Result<Stored, Failure> {
        let stored = Stored { object: ObjectId(self.sha256.clone().finalize().into()), length: self.length };
        let wrong = match (&source.digest, source.size) {
            (_, Some(size)) if size != self.length => {
                Some(format!("it has {} bytes, the configuration says {size}", self.length))
            }
            (Some(Digest::Sha256(hex)), _) if *hex != stored.object.to_string() => {
                Some(format!("its sha256 is {}", stored.object))
            }
            (Some(Digest::Sha512(hex)), _) => {
                let found = self.sha512.clone().map(|h| hex_of(&h.finalize())).unwrap_or_default();
                (*hex != found).then(|| format!("its sha512 is {found}"))
            }
            _ if self.length == 0 => Some("it is empty".into()),
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.discard();
            return Err(Failure::transient(format!(
                "the file is not the one that was asked for: {wrong}; correct the digest (in stoker.yaml, or in the Environment object) or the file at its source"
            )));
        }
        let _ = std::fs::remove_file(validator_path(&self.path));
        objects.take(&self.path, stored).map_err(|e: PublishError| Failure::transient(e.to_string()))?;
        Ok(stored)
    }

    fn remember(&self, validator: Option<&str>) {
        let path = validator_path(&self.path);
        let _ = match validator {
            Some(v) => std::fs::write(path, v),
            None => std::fs::remove_file(path),
        };
    }

    fn discard(&self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(validator_path(&self.path));
    }
}

/// Opens the unfinished file. It is continued only where the end can be told
/// to be right: by a strong validator, or by a digest in the configuration.
async fn resume(objects: &Objects, source: &AssetSource) -> Result<(Part, Option<String>), Failure> {
    let mut part = Part::open(objects, source)?;
    let had = std::fs::read_to_string(validator_path(&part.path)).ok().filter(|v| v.starts_with('"'));
    if had.is_none() && source.digest.is_none() {
        part.restart()?;
        return Ok((part, None));
    }
    let caught_up = tokio::task::spawn_blocking(move || part.catch_up().map(|()| part));
    Ok((caught_up.await.map_err(|e| Failure::transient(e.to_string()))??, had))
}

fn validator_path(part: &Path) -> PathBuf {
    part.with_extension("etag")
}

fn validator_of(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).filter(|v| v.len() <= 256).map(str::to_owned);
    text(ETAG).filter(|e| e.starts_with('"')).or_else(|| text(LAST_MODIFIED))
}

fn begins_at(headers: &HeaderMap, at: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    range.is_some_and(|r| r.starts_with(&format!("bytes {at}-")))
}

fn client() -> Result<Client, String> {
    let builder = || {
        Client::builder()
            .user_agent(concat!("stoker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits::FETCH_CONNECT)
            .redirect(reqwest::redirect::Policy::limited(limits::FETCH_REDIRECTS))
            .pool_idle_timeout(Duration::from_secs(30))
    };
    // A host without CA certificates can still fetch by http.
    builder().build().or_else(|first| {
        let bare = builder().tls_certs_only([]).build();
        bare.inspect(|_| tracing::warn!(error = %first, "no CA certificates on this host (install ca-certificates): https:// assets cannot be fetched"))
            .map_err(|e| format!("no HTTP client: {}", network(&e)))
    })
}

fn quiet(silence: Duration) -> Failure {
    Failure::transient(format!("the server sent nothing for {} s", silence.as_secs_f32()))
}

fn network(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(deeper) = cause.take().filter(|_| text.len() < limits::NETWORK_TEXT) {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    clean(&text)
}

fn on_disk(path: &Path, e: &io::Error) -> Failure {
    let remedy = if e.kind() == io::ErrorKind::StorageFull { "; free some space there" } else { "" };
    Failure::transient(format!("{} cannot be written: {e}{remedy}", path.display()))
}

fn hex_of(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, b| {
        let _ = write!(hex, "{b:02x}");
        hex
    })
}
