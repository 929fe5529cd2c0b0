//! The page: OpenMetrics text over a tiny HTTP server on a thread of its own.

use super::{Metrics, OUTCOMES, ProtoMetrics, Refusal, WorkerMetrics};
use crate::limits;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Answers scrapes on `listener` for as long as the process lives.
///
/// One scraper at a time; whoever does not send and read within
/// [`limits::SCRAPE_MS`] is cut off.
///
/// # Errors
/// Where the thread cannot be started.
pub fn serve(listener: TcpListener, metrics: Arc<Metrics>) -> io::Result<JoinHandle<()>> {
    listener.set_nonblocking(false)?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(metrics));
    thread::Builder::new().name("metrics".into()).spawn(move || {
        loop {
            match listener.accept() {
                // What a scraper does wrong is its own affair.
                Ok((stream, _)) => drop(answer(stream, &registry)),
                // Out of descriptors: give the others time to return some.
                Err(_) => thread::sleep(Duration::from_millis(limits::ACCEPT_PAUSE_MS)),
            }
        }
    })
}

fn answer(mut stream: TcpStream, registry: &Registry) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_millis(limits::SCRAPE_MS);
    stream.set_write_timeout(Some(Duration::from_millis(limits::SCRAPE_MS)))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() >= limits::SCRAPE_HEAD {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            n => head.extend_from_slice(&chunk[..n]),
        }
    }
    let (status, body) = if head.starts_with(b"GET /metrics ") || head.starts_with(b"GET /metrics?") {
        let mut page = String::new();
        text::encode(&mut page, registry).map_err(io::Error::other)?;
        ("200 OK", page)
    } else {
        ("404 Not Found", "only GET /metrics is served here\n".to_owned())
    };
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let len = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {TYPE}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
    )?;
    stream.shutdown(std::net::Shutdown::Write)
}

type Labels = [(&'static str, &'static str)];

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        type Field = fn(&ProtoMetrics) -> u64;
        type Of = fn(&WorkerMetrics) -> &ProtoMetrics;
        let protos: [(&'static str, Of); 2] = [("tftp", |w| &w.tftp), ("http", |w| &w.http)];
        let per_proto = |field: Field| protos.map(|(name, of)| (vec![("proto", name)], self.sum(|w| field(of(w)))));

        page.counters("transfers_started", "Transfers begun", None, per_proto(|p| p.started.get()))?;
        page.gauges("transfers_active", "Transfers running", None, per_proto(|p| p.active.get()))?;
        page.counters("sent", "Payload sent to nodes", Some(Unit::Bytes), per_proto(|p| p.bytes.get()))?;
        let ended = protos.iter().flat_map(|&(name, of)| {
            OUTCOMES.map(|(o, label)| (vec![("proto", name), ("outcome", label)], self.sum(|w| of(w).outcome(o).get())))
        });
        page.counters("transfers_ended", "Transfers ended, by outcome", None, ended)?;
        let refused = protos.iter().flat_map(|&(name, of)| {
            Refusal::ALL.iter().map(move |&why| {
                (vec![("proto", name), ("reason", why.label())], self.sum(|w| of(w).refused(why).get()))
            })
        });
        page.counters("requests_refused", "Requests that were not served, by reason", None, refused)?;

        let one = |field: fn(&WorkerMetrics) -> u64| [(vec![], self.sum(field))];
        page.counters("tftp_retransmissions", "TFTP DATA packets sent again", None, one(|w| w.retransmissions.get()))?;
        page.gauges("http_connections", "HTTP connections open", None, one(|w| w.connections.get()))?;
        page.counters("http_accepted", "HTTP connections accepted", None, one(|w| w.accepted.get()))?;
        page.counters("http_evicted", "Idle HTTP connections closed to make room", None, one(|w| w.evicted.get()))?;
        page.counters("events_sent", "Transfer events handed to control", None, one(|w| w.events_sent.get()))?;
        page.counters(
            "events_lost",
            "Transfer events dropped because nobody read them",
            None,
            one(|w| w.events_lost.get()),
        )?;
        let exhausted = one(|w| w.buffers_exhausted.get());
        page.counters("receive_buffers_exhausted", "Times a ring ran out of receive buffers", None, exhausted)?;
        let zero_copy = [
            (vec![("copied", "no")], self.sum(|w| w.zc_uncopied.get())),
            (vec![("copied", "yes")], self.sum(|w| w.zc_copied.get())),
        ];
        page.counters("zero_copy_sends", "Zero-copy sends, and whether the kernel copied after all", None, zero_copy)?;

        let value = |n: u64| [(vec![], n)];
        page.gauges(
            "generation",
            "Generation of the manifest being served, 0 before the first",
            None,
            value(self.generation.get()),
        )?;
        page.gauges("names", "Names being served", None, value(self.names.get()))?;
        let refused = value(self.refused_names.get());
        page.gauges("names_refused", "Names of the manifest that could not be loaded", None, refused)?;
        page.gauges("image_memory", "Memory that images take", Some(Unit::Bytes), value(self.image_bytes()))?;
        page.gauges("image_budget", "Memory that images may take", Some(Unit::Bytes), value(self.image_budget()))?;
        let framed = value(self.framed_bytes());
        page.gauges("framed_memory", "Memory of images with TFTP headers in them", Some(Unit::Bytes), framed)?;
        page.counters("manifest_loads", "Manifests loaded", None, value(self.loads.get()))?;
        page.counters("manifests_refused", "Manifests refused whole", None, value(self.bad_manifests.get()))?;
        page.gauges("workers", "Worker threads", None, value(self.workers.len() as u64))?;

        let (name, reason) = self.driver.lock().map(|d| d.clone()).unwrap_or_default();
        let info = Info::new([("name", name), ("reason", reason)]);
        info.encode(page.0.encode_descriptor(
            "stoker_edge_driver",
            "The driver that moves packets, and why this one",
            None,
            info.metric_type(),
        )?)
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (Vec<(&'static str, &'static str)>, u64)>,
    ) -> fmt::Result {
        self.family(name, help, unit, values.into_iter().map(|(labels, n)| (labels, ConstCounter::new(n))))
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (Vec<(&'static str, &'static str)>, u64)>,
    ) -> fmt::Result {
        let signed = |n| i64::try_from(n).unwrap_or(i64::MAX);
        self.family(name, help, unit, values.into_iter().map(|(labels, n)| (labels, ConstGauge::new(signed(n)))))
    }

    fn family<M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl Iterator<Item = (Vec<(&'static str, &'static str)>, M)>,
    ) -> fmt::Result {
        let mut values = values.peekable();
        let Some(first) = values.peek() else { return Ok(()) };
        let name = format!("stoker_edge_{name}");
        if first.0.is_empty() {
            // A single value: no braces.
            return values.try_for_each(|(_, value)| {
                value.encode(self.0.encode_descriptor(&name, help, unit.as_ref(), value.metric_type())?)
            });
        }
        let mut family = self.0.encode_descriptor(&name, help, unit.as_ref(), first.1.metric_type())?;
        values.try_for_each(|(labels, value)| value.encode(family.encode_family(&Set(&labels))?))
    }
}

#[derive(Debug)]
struct Set<'a>(&'a Labels);

impl EncodeLabelSet for Set<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::event::Outcome;

    fn scrape(request: &str, metrics: Arc<Metrics>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        serve(listener, metrics).unwrap();
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_scrape_sums_the_workers() {
        let metrics = Metrics::new(2);
        metrics.set_driver("epoll", "io_uring refused: \"EPERM\"\n");
        metrics.generation.set(7);
        for (i, n) in [(0, 5), (1, 37)] {
            let worker = metrics.worker(i);
            worker.http.bytes.add(n);
            worker.tftp.outcome(Outcome::Unknown).inc();
            worker.http.refused(Refusal::BadPath).add(n);
        }
        let page = scrape("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", metrics);
        for line in [
            "# TYPE stoker_edge_sent_bytes counter",
            "# UNIT stoker_edge_sent_bytes bytes",
            "stoker_edge_sent_bytes_total{proto=\"http\"} 42",
            "stoker_edge_transfers_ended_total{proto=\"tftp\",outcome=\"unknown\"} 2",
            "stoker_edge_requests_refused_total{proto=\"http\",reason=\"bad_path\"} 42",
            "stoker_edge_generation 7",
            "stoker_edge_workers 2",
            "stoker_edge_driver_info{name=\"epoll\",reason=\"io_uring refused: \\\"EPERM\\\"\\n\"} 1",
            "# EOF",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is missing in\n{page}");
        }
    }

    #[test]
    fn only_the_metrics_path_is_served() {
        assert!(scrape("GET / HTTP/1.1\r\n\r\n", Metrics::new(1)).starts_with("HTTP/1.1 404 "));
    }
}
