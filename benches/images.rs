//! Making an image resident, and framing it for a block size: once for each
//! file and size, off the hot path, but at a machine's first boot.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use edge::catalog::Image;
use edge::catalog::budget::Budget;
use std::hint::black_box;
use stoker_benches::{IMAGE, image_bytes};

fn images(c: &mut Criterion) {
    let bytes = image_bytes();
    let mut group = c.benchmark_group("images/1_MB");
    group.throughput(Throughput::Bytes(IMAGE as u64));
    // Copies into a sealed memfd and takes the digest.
    group.bench_function("seal", |b| b.iter(|| Image::from_bytes(black_box(&bytes)).is_ok()));
    let budget = Budget::new(u64::MAX);
    for blksize in [512, 1468] {
        group.bench_function(format!("frame_{blksize}"), |b| {
            b.iter_batched(
                || Image::from_bytes(&bytes).expect("memory for an image"),
                |image| assert!(image.make_framed(blksize, &budget).is_ok_and(|framed| framed.is_some())),
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(all, images);
criterion_main!(all);
