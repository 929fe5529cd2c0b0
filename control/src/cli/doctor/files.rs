//! Whether machines can really load what is published: fetched by TFTP and HTTP
//! from the address that machines are told, and compared with the manifest.

use super::Finding;
use crate::tftp::{self, Wish};
use control::api::types::Status;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use protocol::manifest::{Entry, Manifest, ObjectId};
use protocol::tftp::fetch::End;
use sha2::{Digest as _, Sha256};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Boot loaders that are tried, at most.
const MAX_FILES: usize = 8;
/// A boot loader must come whole within this time.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn examine(status: &Status) -> Vec<Finding> {
    let path = Path::new(&status.state_dir).join("publish/manifest.json");
    let manifest = match std::fs::read(&path)
        .map_err(|e| e.to_string())
        .and_then(|b| Manifest::parse(&b).map_err(|e| e.to_string()))
    {
        Ok(manifest) => manifest,
        Err(why) => {
            return vec![Finding::bad(
                "boot files",
                format!("{}: {why}", path.display()),
                "look at the log of stoker-control",
            )];
        }
    };
    let loaders: Vec<_> = manifest.entries.iter().filter(|(name, _)| is_loader(name)).take(MAX_FILES).collect();
    if loaders.is_empty() {
        return vec![Finding::bad(
            "boot files",
            "none is published",
            "build a bundle with `stoker-bundle build` and name it with --bundle",
        )];
    }
    if super::ports::other_network(status).is_some() {
        return vec![Finding::good(
            "boot files",
            format!("{} are published for a namespace of its own, which cannot be reached from here", loaders.len()),
        )];
    }
    let mut findings = Vec::new();
    for (name, entry) in loaders {
        findings.push(by_tftp(status, name, entry));
        findings.push(by_http(status, name, entry).await);
    }
    findings
}

/// What firmware loads by itself: programs at the top of the name space.
fn is_loader(name: &str) -> bool {
    !name.contains('/') && [".efi", ".kpxe", ".pxe", ".0"].iter().any(|end| name.ends_with(end))
}

fn by_tftp(status: &Status, name: &str, entry: &Entry) -> Finding {
    let what = format!("TFTP {name}");
    let server = SocketAddr::new(status.address, protocol::tftp::PORT);
    let wish = Wish { blksize: Some(1468), windowsize: Some(4), give_up: Duration::from_secs(5) };
    let mut hash = Sha256::new();
    let got = tftp::fetch(server, name, &wish, &mut |bytes| {
        hash.update(bytes);
        Ok(())
    });
    match got {
        Err(e) => Finding::bad(&what, format!("{e:?}"), ""),
        Ok(got) if got.report.end == Some(End::Complete) => {
            let verdict = tftp::verdict(&got.report, &wish, false);
            match (ObjectId(hash.finalize().into()) == entry.object, verdict.word) {
                (false, _) => damaged(&what),
                (true, "good") => Finding::good(&what, verdict.text),
                (true, _) => Finding::look(&what, format!("slow: {}", verdict.text), ""),
            }
        }
        Ok(got) => Finding::bad(&what, tftp::verdict(&got.report, &wish, got.port_closed).text, ""),
    }
}

async fn by_http(status: &Status, name: &str, entry: &Entry) -> Finding {
    let what = format!("HTTP {name}");
    let url = format!("{}/{name}", status.edge_url);
    match tokio::time::timeout(PATIENCE, get(&status.edge_url, name)).await {
        Err(_) => Finding::bad(
            &what,
            format!("{url} did not come within {} s", PATIENCE.as_secs()),
            "look at the edge's log and at the firewall",
        ),
        Ok(Err(why)) => Finding::bad(&what, format!("{url}: {why}"), "look at the edge's log and at the firewall"),
        Ok(Ok((length, digest))) if length == entry.length && digest == entry.object => {
            Finding::good(&what, format!("{} bytes, as published", length))
        }
        Ok(Ok(_)) => damaged(&what),
    }
}

async fn get(base: &str, name: &str) -> Result<(u64, ObjectId), String> {
    let host = base.strip_prefix("http://").ok_or("this is no http:// address")?;
    let stream = tokio::net::TcpStream::connect(host).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let request = Request::get(format!("/{name}")).header("host", host).body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()));
    }
    let (mut hash, mut length, mut body) = (Sha256::new(), 0, response.into_body());
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(|e| e.to_string())?.data_ref() {
            hash.update(data);
            length += data.len() as u64;
        }
    }
    Ok((length, ObjectId(hash.finalize().into())))
}

fn damaged(what: &str) -> Finding {
    Finding::bad(
        what,
        "came whole, but is not what was published",
        "another server answers on our address, or something on the way changes files",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_are_what_firmware_asks_for() {
        assert!(["snponly.efi", "undionly.kpxe"].into_iter().all(is_loader));
        assert!(!["env/agent/vmlinuz", "tftp/x.efi", "initramfs.xz"].into_iter().any(is_loader));
    }
}
