//! TFTP on real sockets, on both drivers: what only a kernel can show, and
//! whether real clients get real files. The rest of the T list is proven
//! without a kernel beside the code; `docs/conformance/tftp.md` says where.

#[path = "tftp_client.rs"]
mod client;
#[path = "tftp_server.rs"]
mod server;

use client::{Client, Wire, fetch, request};
use edge::catalog::Budget;
use edge::feed::{Loader, Outcome as Loaded};
use edge::metrics::Refusal;
use edge::tftp::Config;
use protocol::event::Outcome;
use protocol::manifest::{Entry, Manifest, ObjectId};
use protocol::tftp::fetch::{Ask, End, Patience};
use protocol::tftp::{Mode, Rollover};
use server::{Namespace, Server, Setup, drivers};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// As long as an iPXE binary, with every byte value, and no multiple of any block size.
fn nbp() -> Vec<u8> {
    (0..285_121_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn t01_t02_t03_t04_files_of_every_edge_arrive_whole() {
    for driver in drivers() {
        for single_port in [false, true] {
            let setup = Setup { single_port, ..Setup::new(driver) };
            let whole = nbp();
            let sizes = [0, 1, 511, 512, 513, 1024, 1467, 1468, 1469, 2936, 1468 * 16, 1468 * 16 + 1, 285_121];
            let names: Vec<String> = sizes.iter().map(|size| format!("tftp/{size}")).collect();
            let files: Vec<(&str, &[u8])> =
                names.iter().zip(sizes).map(|(name, size)| (&**name, &whole[..size])).collect();
            let server = Server::start(&setup, &files);
            for (name, size) in names.iter().zip(sizes) {
                for (blksize, windowsize) in
                    [(None, None), (Some(1468), None), (Some(1468), Some(4)), (Some(512), Some(16))]
                {
                    let ask = Ask { name: name.as_bytes(), blksize, windowsize, ..Ask::default() };
                    let (report, file) = fetch(server.addr, &ask);
                    assert_eq!(
                        report.end,
                        Some(End::Complete),
                        "{driver:?} {size} {blksize:?} {windowsize:?} {report:?}"
                    );
                    assert!(file == whole[..size], "{driver:?} {size} {blksize:?} {windowsize:?}: other bytes");
                    assert_eq!(report.duplicates, 0);
                }
            }
            server.wait_for("all complete", |m| {
                m.tftp.outcome(Outcome::Complete).get() == 13 * 4 && m.tftp.active.get() == 0
            });
        }
    }
}

#[test]
fn t07_netascii_arrives_translated() {
    for driver in drivers() {
        let server = Server::start(&Setup::new(driver), &[("tftp/text", &b"line\n".repeat(1000))]);
        let (report, file) =
            fetch(server.addr, &Ask { name: b"text", mode: Mode::Netascii, blksize: None, ..Ask::default() });
        assert_eq!(report.end, Some(End::Complete));
        assert_eq!(file, b"line\r\n".repeat(1000));
    }
}

#[test]
fn t10_t12_t17_what_is_not_served_is_refused() {
    for driver in drivers() {
        let server = Server::start(&Setup::new(driver), &[("tftp/file", b"x")]);
        let wire = Wire::at("127.0.0.1");
        for (packet, code) in [
            (request(1, "missing", "octet", ""), 1),
            (request(2, "file", "octet", ""), 2),
            (request(1, "../../etc/passwd", "octet", ""), 2),
            (request(1, "file", "mail", ""), 4),
            (b"\0\x01file\0octet\0blksize\0".to_vec(), 8),
        ] {
            wire.send(server.addr, &packet);
            assert_eq!(wire.error(code), server.addr, "{}", packet.escape_ascii());
        }
        wire.send(server.addr, b"\0\x09nonsense");
        wire.send(server.addr, b"\0\x05\0\0an error\0");
        wire.silence();
    }
}

#[test]
fn t18_the_answer_comes_from_the_address_that_was_asked() {
    for driver in drivers() {
        for single_port in [false, true] {
            let setup = Setup { listen: "0.0.0.0:0", single_port, ..Setup::new(driver) };
            let server = Server::start(&setup, &[("tftp/file", &[1; 2000])]);
            for ip in ["127.0.0.1", "127.0.0.2", "127.99.0.7"] {
                let wire = Wire::at("127.0.0.1");
                wire.rrq(SocketAddr::new(ip.parse().unwrap(), server.addr.port()), "file", "");
                let (_, from) = wire.block(1);
                assert_eq!(from.ip().to_string(), ip, "{driver:?}");
                wire.ack(from, 1);
                assert_eq!(wire.block(2).1, from);
            }
        }
    }
}

#[test]
fn t19_the_servers_tid_is_a_port_of_its_own_and_not_a_constant() {
    for driver in drivers() {
        let server = Server::start(&Setup::new(driver), &[("tftp/file", &[1; 2000])]);
        let mut ports = std::collections::BTreeSet::new();
        for _ in 0..8 {
            let wire = Wire::at("127.0.0.1");
            wire.rrq(server.addr, "file", "");
            let (_, from) = wire.block(1);
            assert_ne!(from.port(), server.addr.port());
            ports.insert(from.port());
        }
        assert!(ports.len() > 1, "{ports:?}");
        let single = Server::start(&Setup { single_port: true, ..Setup::new(driver) }, &[("tftp/file", b"x")]);
        let wire = Wire::at("127.0.0.1");
        wire.rrq(single.addr, "file", "");
        assert_eq!(wire.block(1).1, single.addr, "but in single-port mode it is the request port");
    }
}

#[test]
fn t20_t21_strangers_get_error_5_and_harm_nothing() {
    for driver in drivers() {
        let server = Server::start(&Setup::new(driver), &[("tftp/file", &[1; 2000])]);
        let wire = Wire::at("127.0.0.1");
        wire.rrq(server.addr, "file", "");
        let (_, tid) = wire.block(1);
        for ip in ["127.0.0.1", "127.0.0.9"] {
            let stranger = Wire::at(ip);
            stranger.ack(tid, 1);
            assert_eq!(stranger.error(5), tid);
            stranger.send(tid, b"\0\x05\0\0stop it\0");
            stranger.silence();
        }
        wire.ack(tid, 1);
        wire.block(2);
    }
}

#[test]
fn t22_a_repeated_request_is_one_transfer() {
    for driver in drivers() {
        for single_port in [false, true] {
            let server = Server::start(&Setup { single_port, ..Setup::new(driver) }, &[("tftp/file", &[1; 2000])]);
            let wire = Wire::at("127.0.0.1");
            wire.rrq(server.addr, "file", "tsize 0");
            let first = wire.next();
            wire.rrq(server.addr, "file", "tsize 0");
            assert_eq!(wire.next(), first);
            server.wait_for("one transfer", |m| m.tftp.started.get() == 1 && m.tftp.active.get() == 1);
        }
    }
}

#[test]
fn t23_another_request_from_the_same_port_takes_the_place_of_the_first() {
    for driver in drivers() {
        let files: [(&str, &[u8]); 2] = [("tftp/one", &[1; 2000]), ("tftp/two", &[2; 600])];
        let server = Server::start(&Setup { single_port: true, ..Setup::new(driver) }, &files);
        let wire = Wire::at("127.0.0.1");
        wire.rrq(server.addr, "one", "");
        wire.block(1);
        wire.ack(server.addr, 1);
        wire.block(2);
        wire.rrq(server.addr, "two", "");
        assert_eq!(wire.block(1).0, [2; 512]);
        wire.ack(server.addr, 1);
        assert_eq!(wire.block(2).0, [2; 88]);
        wire.ack(server.addr, 2);
        server.wait_for("both over", |m| {
            m.tftp.outcome(Outcome::Aborted).get() == 1 && m.tftp.outcome(Outcome::Complete).get() == 1
        });
    }
}

#[test]
fn t26_t33_lost_data_comes_again_within_250_ms_and_silence_ends_it() {
    for driver in drivers() {
        let server = Server::start(&Setup::new(driver), &[("tftp/file", &[1; 5000])]);
        let wire = Wire::at("127.0.0.1");
        wire.rrq(server.addr, "file", "");
        let (_, tid) = wire.block(1);
        for block in 1..=5 {
            wire.ack(tid, block);
            wire.block(block + 1);
        }
        let lost = std::time::Instant::now();
        wire.block(6);
        let waited = lost.elapsed();
        assert!(waited > Duration::from_millis(30) && waited < Duration::from_millis(250), "{driver:?}: {waited:?}");
        wire.send(tid, b"\0\x05\0\0enough\0");
        server.wait_for("ended", |m| m.tftp.outcome(Outcome::Aborted).get() == 1 && m.tftp.active.get() == 0);
        wire.silence();
    }
}

#[test]
fn t44_the_block_size_fits_the_path() {
    for driver in drivers() {
        let namespace = Namespace::new();
        namespace.exec("ip", &["link", "set", "lo", "mtu", "1500"]);
        let setup = Setup { namespace: Some(namespace.0.clone()), listen: "127.0.0.1:69", ..Setup::new(driver) };
        let whole = nbp();
        let server = Server::start(&setup, &[("tftp/file", &whole)]);
        let agreed = |asked: u16| {
            let (name, addr) = (namespace.0.clone(), server.addr);
            let run = move || {
                server::enter(Some(&name));
                fetch(addr, &Ask { name: b"file", blksize: Some(asked), windowsize: Some(8), ..Ask::default() })
            };
            let (report, file) = std::thread::spawn(run).join().unwrap();
            assert!(file == nbp(), "{driver:?}: {report:?}");
            report.agreed.unwrap().blksize()
        };
        assert_eq!((agreed(8192), agreed(1468), agreed(1400), agreed(512)), (1468, 1468, 1400, 512), "{driver:?}");
    }
}

#[test]
fn t42_every_block_size_is_served_as_agreed() {
    let whole = nbp();
    for driver in drivers() {
        let server = Server::start(&Setup::new(driver), &[("tftp/file", &whole)]);
        for blksize in [8, 511, 1024, 1428, 4096, 8192, 16_384, 32_768, 65_464] {
            for windowsize in [None, Some(2), Some(64)] {
                let ask = Ask { name: b"file", blksize: Some(blksize), windowsize, ..Ask::default() };
                let (report, file) = fetch(server.addr, &ask);
                assert!(
                    report.end == Some(End::Complete) && file == whole,
                    "{driver:?} {blksize} {windowsize:?}: {report:?}"
                );
                assert_eq!(report.agreed.unwrap().blksize(), blksize, "{driver:?}: loopback takes them all");
            }
        }
    }
}

#[test]
fn t60_block_numbers_wrap_either_way() {
    for driver in drivers() {
        for rollover in [Rollover::Zero, Rollover::One] {
            let setup = Setup { config: Config { rollover, ..Config::default() }, ..Setup::new(driver) };
            let whole: Vec<u8> = nbp().into_iter().cycle().take(600_000).collect();
            let server = Server::start(&setup, &[("tftp/file", &whole)]);
            let ask = Ask { name: b"file", blksize: Some(8), windowsize: Some(32), rollover, ..Ask::default() };
            let (report, file) = fetch(server.addr, &ask);
            assert_eq!(report.end, Some(End::Complete), "{driver:?} {rollover:?} {report:?}");
            assert!(file == whole && report.blocks == 75_001, "{driver:?} {rollover:?}");
        }
    }
}

#[test]
fn t63_a_full_table_drops_the_oldest_unproven_and_never_a_proven_transfer() {
    for driver in drivers() {
        let config = Config { transfers: 4, ..Config::default() };
        let server = Server::start(&Setup { config, ..Setup::new(driver) }, &[("tftp/file", &[1; 5000])]);
        let proven = Wire::at("127.0.0.1");
        proven.rrq(server.addr, "file", "");
        let (_, tid) = proven.block(1);
        proven.ack(tid, 1);
        proven.block(2);
        let others: Vec<Wire> = (0..8).map(|_| Wire::at("127.0.0.1")).collect();
        for wire in &others {
            wire.rrq(server.addr, "file", "");
            wire.block(1);
        }
        assert_eq!((server.metrics.tftp.active.get(), server.metrics.tftp.outcome(Outcome::TimedOut).get()), (4, 5));
        proven.ack(tid, 2);
        // It may have been sent again meanwhile.
        let third = (0..10).map(|_| proven.next().0).find(|bytes| bytes.starts_with(b"\0\x03\0\x03"));
        assert!(third.is_some(), "{driver:?}: the proven transfer goes on");
    }
}

#[test]
fn t64_a_request_to_a_broadcast_address_is_met_with_silence() {
    for driver in drivers() {
        let setup = Setup { listen: "0.0.0.0:0", ..Setup::new(driver) };
        let server = Server::start(&setup, &[("tftp/file", b"x")]);
        let wire = Wire::at("127.0.0.1");
        wire.0.set_broadcast(true).unwrap();
        wire.rrq(SocketAddr::new("127.255.255.255".parse().unwrap(), server.addr.port()), "file", "");
        wire.silence();
        server.wait_for("it came", |m| m.tftp.refused(Refusal::BadSource).get() == 1);
        wire.rrq(SocketAddr::new("127.0.0.1".parse().unwrap(), server.addr.port()), "file", "");
        wire.block(1);
    }
}

#[test]
fn t66_a_file_replaced_in_the_middle_of_a_transfer_is_sent_as_it_was() {
    for driver in drivers() {
        let mut server = Server::start(&Setup::new(driver), &[("tftp/file", &[1; 1000])]);
        let wire = Wire::at("127.0.0.1");
        wire.rrq(server.addr, "file", "");
        let (first, tid) = wire.block(1);
        server.publish(&[("tftp/file", &[2; 1000])]);
        // Once the new catalog is served ...
        let seen = (0..1000).any(|_| fetch(server.addr, &Ask { name: b"file", ..Ask::default() }).1 == [2; 1000]);
        assert!(seen, "{driver:?}: the new file is served");
        // ... the old transfer still gets the old bytes.
        wire.ack(tid, 1);
        let second = (0..10).map(|_| wire.next().0).find(|bytes| bytes.starts_with(b"\0\x03\0\x02")).unwrap();
        assert_eq!((first, &second[4..]), (vec![1; 512], &[1; 488][..]));
    }
}

#[test]
fn t11_t67_an_object_truncated_on_disk_harms_no_running_transfer() {
    let (_keep, publish) = server::folder();
    std::fs::create_dir_all(publish.join("objects/sha256")).unwrap();
    let object = |bytes: &[u8]| publish.join(format!("objects/sha256/{}", ObjectId::of(bytes)));
    let put = |generation: u64, name: &str, bytes: &[u8]| {
        std::fs::write(object(bytes), bytes).unwrap();
        let content_type = "application/octet-stream".to_owned();
        let entry = Entry { object: ObjectId::of(bytes), length: bytes.len() as u64, content_type };
        let manifest = Manifest::new(generation, [(name.to_owned(), entry)].into());
        std::fs::write(publish.join("manifest.json"), manifest.to_bytes()).unwrap();
    };
    let cut = |bytes: &[u8]| std::fs::OpenOptions::new().write(true).open(object(bytes)).unwrap().set_len(10).unwrap();
    let whole = nbp();
    for driver in drivers() {
        let mut loader = Loader::new(publish.clone(), Budget::new(u64::MAX), None);
        put(1, "tftp/file", &whole);
        assert!(matches!(loader.load(1), Loaded::Loaded(_)));
        let server = Server::start(&Setup::new(driver), &[]);
        server.publish_catalog(Arc::clone(loader.catalog()));
        server.until_answered("file", b"\0\x06");
        let wire = Wire::at("127.0.0.1");
        wire.rrq(server.addr, "file", "blksize 1468 windowsize 4");
        let tid = wire.next().1;
        // The disk loses the object while the transfer runs, and the next generation cannot be read.
        cut(&whole);
        put(2, "tftp/other", &whole[..1000]);
        cut(&whole[..1000]);
        assert!(matches!(loader.load(2), Loaded::Loaded(_)));
        server.publish_catalog(Arc::clone(loader.catalog()));
        server.until_answered("other", b"\0\x05\0\x02");
        let mut file = Vec::new();
        wire.ack(tid, 0);
        while file.len() < whole.len() {
            let (bytes, _) = wire.next();
            assert_ne!(bytes[1], 5, "{driver:?}: {}", bytes.escape_ascii());
            // What comes again while this test is slow is not counted twice.
            let number = u16::from_be_bytes([bytes[2], bytes[3]]);
            if bytes[1] == 3 && usize::from(number) == file.len() / 1468 + 1 {
                file.extend_from_slice(&bytes[4..]);
                if number % 4 == 0 || bytes.len() < 1472 {
                    wire.ack(tid, number);
                }
            }
        }
        assert!(file == whole, "{driver:?}: the whole file as it was");
    }
}

#[test]
fn t68_ipv6() {
    for driver in drivers() {
        for single_port in [false, true] {
            let setup = Setup { listen: "[::1]:0", single_port, ..Setup::new(driver) };
            let whole = nbp();
            let server = Server::start(&setup, &[("tftp/file", &whole)]);
            let (report, file) = fetch(server.addr, &Ask { name: b"file", windowsize: Some(16), ..Ask::default() });
            assert!(report.end == Some(End::Complete) && file == whole, "{driver:?}: {report:?}");
            assert!(report.agreed.unwrap().blksize() >= 1448);
        }
    }
}

#[test]
fn t69_f37_malformed_packets_over_the_wire_do_not_stop_the_service() {
    for driver in drivers() {
        let server = Server::start(&Setup::new(driver), &[("tftp/file", &[1; 2000])]);
        let wire = Wire::at("127.0.0.1");
        let good = request(1, "file", "octet", "blksize 1468 tsize 0 windowsize 4");
        let mut seed = 0x7f4a_7c15_u64;
        for round in 0..20_000_usize {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let mut packet = good.clone();
            packet[seed as usize % good.len()] = (seed >> 8) as u8;
            packet[(seed >> 16) as usize % good.len()] ^= 1 << (seed >> 24 & 7);
            packet.truncate(good.len() - round % good.len());
            // To the request port, and where nobody waits for it.
            wire.send(server.addr, &packet);
        }
        let (report, file) = fetch(server.addr, &Ask { name: b"file", ..Ask::default() });
        assert!(report.end == Some(End::Complete) && file == [1; 2000], "{driver:?}: {report:?}");
    }
}

#[test]
fn t01_every_client_of_the_distribution_gets_its_file() {
    let (_keep, folder) = server::folder();
    let whole = nbp();
    let text = b"#!ipxe\necho hello\n".repeat(100);
    for driver in drivers() {
        for single_port in [false, true] {
            let setup = Setup { single_port, ..Setup::new(driver) };
            let server = Server::start(&setup, &[("tftp/nbp", &whole), ("tftp/text", &text)]);
            for client in Client::ALL {
                let netascii = client == Client::TftpHpaNetascii;
                let (name, expected) = if netascii { ("text", &text) } else { ("nbp", &whole) };
                let to = folder.join(format!("{client:?}-{driver:?}-{single_port}"));
                let done = client.get(server.addr, name, &to, None);
                let file = std::fs::read(&to).unwrap_or_default();
                assert!(
                    done.status.success(),
                    "{client:?} {driver:?} {single_port}: {}",
                    String::from_utf8_lossy(&done.stderr)
                );
                assert!(
                    file == *expected,
                    "{client:?} {driver:?} {single_port}: {} bytes of {}",
                    file.len(),
                    expected.len()
                );
            }
            let missing = Client::Curl.get(server.addr, "missing", &folder.join("missing"), None);
            assert_eq!(missing.status.code(), Some(68), "TFTP: file not found; {missing:?}");
        }
    }
}

#[test]
fn f01_f02_every_client_gets_its_file_through_loss() {
    let (_keep, folder) = server::folder();
    let whole = nbp()[..60_000].to_vec();
    for (driver, percent) in drivers().into_iter().flat_map(|driver| [(driver, 1), (driver, 5)]) {
        let namespace = Namespace::new();
        let setup = Setup { namespace: Some(namespace.0.clone()), listen: "127.0.0.1:69", ..Setup::new(driver) };
        let server = Server::start(&setup, &[("tftp/nbp", &whole)]);
        namespace.lose(percent);
        for client in [Client::Curl, Client::AtftpWindow, Client::TftpHpa, Client::Busybox] {
            let to = folder.join(format!("{client:?}-{driver:?}-{percent}"));
            let done = client.get(server.addr, "nbp", &to, Some(&namespace.0));
            let file = std::fs::read(&to).unwrap_or_default();
            assert!(file == whole, "{client:?} {driver:?} {percent} %: {} bytes; {done:?}", file.len());
        }
    }
}

#[test]
fn f02_our_client_gets_a_megabyte_through_ten_percent_of_loss() {
    for driver in drivers() {
        let namespace = Namespace::new();
        let setup = Setup { namespace: Some(namespace.0.clone()), listen: "127.0.0.1:69", ..Setup::new(driver) };
        let whole: Vec<u8> = nbp().into_iter().cycle().take(1_000_000).collect();
        let server = Server::start(&setup, &[("tftp/nbp", &whole)]);
        namespace.lose(10);
        let (name, addr) = (namespace.0.clone(), server.addr);
        let run = move || {
            server::enter(Some(&name));
            let patience = Patience { first: Duration::from_millis(500), ..Patience::default() };
            fetch(addr, &Ask { name: b"nbp", windowsize: Some(16), patience, ..Ask::default() })
        };
        let (report, file) = std::thread::spawn(run).join().unwrap();
        assert!(report.end == Some(End::Complete) && file == whole, "{driver:?}: {report:?}");
        // A lost train shows as nothing but time (the server sends it again), a part of one as a gap,
        // and a lost ACK as a window that comes twice; of some 120 ACKs a tenth is lost.
        let marks = u64::from(report.gaps) + u64::from(report.duplicates) + u64::from(report.retransmissions);
        assert!(marks > 0, "there was loss: {report:?}");
    }
}
