//! Bytes from the network to values: TFTP requests and ACKs, HTTP heads and
//! whole exchanges, DHCP frames, manifests.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use protocol::dhcp::{Firmware, Options, Request};
use protocol::http::{Connection, Resource, Step, connection, head};
use protocol::manifest::{Entry, Manifest, ObjectId};
use protocol::tftp::options::{Policy, negotiate};
use protocol::tftp::{Mode, Packet};
use protocol::time::{Duration, Instant};
use std::hint::black_box;
use stoker_benches::{DHCP_DISCOVER, HTTP_HEAD, ack, rrq};

/// A wall clock, seconds since 1970 UTC.
const DATE: u64 = 1_795_000_000;

fn tftp(c: &mut Criterion) {
    let mut group = c.benchmark_group("decoders/tftp");
    let request = rrq(16);
    group.bench_function("rrq_and_options", |b| {
        b.iter(|| match Packet::decode(black_box(&request)) {
            Ok(Packet::Request(r)) => negotiate(r.options, Mode::Octet, 1_000_000, &Policy::default()),
            other => panic!("{other:?}"),
        });
    });
    let ack = ack(70_000);
    group.bench_function("ack", |b| b.iter(|| Packet::decode(black_box(&ack))));
}

fn http(c: &mut Criterion) {
    let mut group = c.benchmark_group("decoders/http");
    group.throughput(Throughput::Bytes(HTTP_HEAD.len() as u64));
    group.bench_function("head", |b| b.iter(|| head::parse(black_box(HTTP_HEAD)).is_ok()));
    let patience = connection::Patience { head: Duration::from_secs(10), idle: Duration::from_secs(60) };
    let resource =
        Resource { length: 1 << 20, digest: ObjectId([7; 32]), content_type: "application/octet-stream", modified: 1 };
    let mut connection = Connection::new(patience, Instant::ZERO);
    group.bench_function("exchange", |b| {
        b.iter(|| {
            connection.receive(black_box(HTTP_HEAD), Instant::ZERO);
            let answer = match connection.poll(DATE) {
                Step::Request(request) => request.answer(&resource, DATE),
                other => panic!("{other:?}"),
            };
            connection.begin(&answer);
            connection.sent(Instant::ZERO);
            answer.head.len()
        });
    });
}

fn dhcp(c: &mut Criterion) {
    let mut group = c.benchmark_group("decoders/dhcp");
    group.bench_function("scan_and_classify", |b| {
        b.iter(|| Firmware::classify(&Options::scan(black_box(DHCP_DISCOVER))));
    });
    group.bench_function("request", |b| b.iter(|| Request::read(black_box(DHCP_DISCOVER)).is_ok()));
}

fn manifest(c: &mut Criterion) {
    let entry =
        |i: u8| Entry { object: ObjectId([i; 32]), length: 1, content_type: "application/octet-stream".to_owned() };
    let entries = (0..200).map(|i| (format!("env/{i}/kernel"), entry(i))).collect();
    let file = Manifest::new(9, entries).to_bytes();
    let mut group = c.benchmark_group("decoders/manifest");
    group.throughput(Throughput::Bytes(file.len() as u64));
    group.bench_function("200_entries", |b| b.iter(|| Manifest::parse(black_box(&file)).is_ok()));
}

criterion_group!(all, tftp, http, dhcp, manifest);
criterion_main!(all);
