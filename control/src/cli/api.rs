//! Talking to stoker-control over its Unix socket: HTTP/1.1, JSON.

use super::{Failure, Reach, state};
use control::api::types::Problem;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// An answer must begin within this time.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest answer that is read: the stories of some thousand machines.
const MAX_ANSWER: usize = 64 << 20;
/// The longest line of a watch.
const MAX_LINE: usize = 1 << 20;

/// A way to stoker-control.
#[derive(Clone, Debug)]
pub struct Api {
    state: PathBuf,
    patience: Duration,
}

impl Api {
    /// To the control that these flags mean.
    pub fn new(reach: &Reach) -> Self {
        Self::at(&state::resolve(reach))
    }

    /// To the control of this state directory.
    pub fn at(state: &Path) -> Self {
        Self { state: state.to_owned(), patience: PATIENCE }
    }

    /// The same for what takes its time, such as a machine that is switched.
    pub const fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Gets one object.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] without control, else what control said.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        read(path, self.send(Method::GET, path, Bytes::new()).await?).await
    }

    /// Sends one object (as JSON) and gets one back; `None` sends no body.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(Failure::from_error)?,
            None => Vec::new(),
        };
        read(path, self.send(method, path, body.into()).await?).await
    }

    /// Sends a text and gets an object back.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn send_text<T: DeserializeOwned>(&self, path: &str, text: Vec<u8>) -> Result<T, Failure> {
        read(path, self.send(Method::POST, path, text.into()).await?).await
    }

    /// Opens a stream of JSON lines.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn lines(&self, path: &str) -> Result<Lines, Failure> {
        Ok(Lines { body: self.send(Method::GET, path, Bytes::new()).await?.into_body(), buffer: Vec::new() })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let answer = tokio::time::timeout(self.patience, self.exchange(method, path, body)).await;
        let response = answer.map_err(|_| Failure::Unreachable("stoker-control does not answer".to_owned()))??;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes =
            Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(Failure::from_error)?.to_bytes();
        Err(Failure::Failed(match serde_json::from_slice::<Problem>(&bytes) {
            Ok(Problem { error, remedy }) if remedy.is_empty() => error,
            Ok(Problem { error, remedy }) => format!("{error}; {remedy}"),
            Err(_) => format!("stoker-control answered {path} with {status}"),
        }))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let unreachable = |e: &dyn std::fmt::Display| {
            let socket = self.state.join("run/control.sock");
            Failure::Unreachable(format!(
                "no stoker-control at {}: {e}; start one with `stoker up`, or name its directory with --state",
                socket.display()
            ))
        };
        let stream = connect(&self.state).await.map_err(|e| unreachable(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "stoker");
        let request = match body.is_empty() {
            true => request.body(Full::new(body)),
            false => request.header("content-type", "application/json").body(Full::new(body)),
        };
        sender.send_request(request.map_err(Failure::from_error)?).await.map_err(|e| unreachable(&e))
    }
}

async fn read<T: DeserializeOwned>(path: &str, answer: Response<Incoming>) -> Result<T, Failure> {
    let body = Limited::new(answer.into_body(), MAX_ANSWER);
    let bytes = body.collect().await.map_err(Failure::from_error)?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|e| {
        Failure::Failed(format!("stoker-control answered {path} with something this `stoker` does not understand: {e}"))
    })
}

/// Through the open folder, since a socket's whole path may not be longer than 108 bytes.
async fn connect(state: &Path) -> std::io::Result<UnixStream> {
    let run = std::fs::File::open(state.join("run"))?;
    UnixStream::connect(format!("/proc/self/fd/{}/control.sock", run.as_raw_fd())).await
}

/// A stream of JSON lines.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line; `None` when control ended the stream.
    ///
    /// # Errors
    /// A broken connection, or a line that is no such object.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(Failure::from_error);
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Failure::Failed("stoker-control sent a line without end".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(e)) => {
                    return Err(Failure::Unreachable(format!("the connection to stoker-control broke: {e}")));
                }
                None => return Ok(None),
            }
        }
    }
}
