//! A whole file through the server's TFTP machine, without IO: what a step of
//! it costs is the time divided by the ACKs that stand as elements.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use protocol::tftp::options::{Policy, negotiate};
use protocol::tftp::transfer::{Input, Output, Settings};
use protocol::tftp::{Mode, Packet, Transfer};
use protocol::time::{Duration, Instant};
use std::hint::black_box;
use stoker_benches::{IMAGE, ack, rrq};

/// The whole file; returns how many ACKs it took.
fn serve(request: &[u8], size: u64) -> u64 {
    let Ok(Packet::Request(request)) = Packet::decode(request) else { panic!("a request") };
    let agreed = negotiate(request.options, Mode::Octet, size, &Policy::default());
    let mut now = Instant::ZERO;
    let mut transfer = Transfer::start(agreed, size, Settings::default(), now);
    let mut acks = 0;
    loop {
        let mut last = 0;
        while let Some(output) = transfer.poll_output() {
            match output {
                Output::Blocks { first, count } => last = black_box(first) + u64::from(count) - 1,
                Output::Ended(_) => return acks,
                Output::Oack(_) => last = 0,
                Output::Error { text, .. } => panic!("{text}"),
            }
        }
        now = now + Duration::from_micros(100);
        let ack = ack(last);
        let Ok(packet) = Packet::decode(black_box(&ack)) else { panic!("an ACK") };
        transfer.handle(Input::Packet(packet), now);
        acks += 1;
    }
}

fn transfer(c: &mut Criterion) {
    let mut group = c.benchmark_group("transfer/1_MB");
    for windowsize in [1, 16] {
        let request = rrq(windowsize);
        group.throughput(Throughput::Elements(serve(&request, IMAGE as u64)));
        group.bench_function(format!("windowsize_{windowsize}"), |b| b.iter(|| serve(&request, IMAGE as u64)));
    }
}

criterion_group!(all, transfer);
criterion_main!(all);
