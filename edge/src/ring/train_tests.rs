use super::*;

const ROUTE: Route = Route { mtu: 1500, copies: true, source: None, gso: true };

fn send(image: &Arc<Image>, blksize: u16, first: u64, count: u16) -> UdpSend {
    let payload = UdpPayload::Blocks { image: Arc::clone(image), blksize, first, count, rollover: 0 };
    UdpSend { socket: UdpId(0), to: ([10, 0, 0, 1], 2070).into(), from: None, payload }
}

/// Segments of the messages that wait, in order.
fn waiting(trains: &mut Trains) -> Vec<u16> {
    let slots: Vec<u32> = trains.waiting.drain(..).collect();
    slots
        .iter()
        .map(|&slot| {
            let segments = trains.get(slot).unwrap().segments();
            trains.release(slot);
            segments
        })
        .collect()
}

#[test]
fn windows_are_cut_at_the_limits_of_gso() {
    let image = Image::from_bytes(&vec![1; 1 << 20]).unwrap();
    for (blksize, count, mtu, gso, expected) in [
        (1468, 16, 1500, true, vec![16]),
        (1468, 64, 1500, true, vec![44, 20]), // 65507 / 1472 = 44
        (512, 200, 1500, true, vec![64, 64, 64, 8]),
        (1469, 3, 1500, true, vec![1, 1, 1]), // one byte over the MTU
        (8192, 2, 1500, true, vec![1, 1]),
        (8192, 20, 9000, true, vec![7, 7, 6]),
        (1468, 3, 1500, false, vec![1, 1, 1]),
    ] {
        let mut trains = Trains::new();
        assert!(trains.take(send(&image, blksize, 1, count), Route { mtu, gso, ..ROUTE }).is_ok());
        assert_eq!(waiting(&mut trains), expected, "blksize {blksize} x {count}");
    }
}

#[test]
fn a_refused_train_goes_block_by_block() {
    let image = Image::from_bytes(&vec![1; 1 << 20]).unwrap();
    let mut trains = Trains::new();
    assert!(trains.take(send(&image, 512, 5, 8), ROUTE).is_ok());
    let slot = trains.waiting.pop_front().unwrap();
    let train = trains.release(slot).unwrap();
    assert!(trains.singles(&train));
    assert_eq!(waiting(&mut trains), [1; 8]);
}

#[test]
fn full_takes_nothing_of_a_window() {
    let image = Image::from_bytes(&vec![1; 1 << 20]).unwrap();
    let mut trains = Trains::new();
    let single = Route { gso: false, ..ROUTE };
    for _ in 0..UDP_SENDS - 3 {
        assert!(trains.take(send(&image, 512, 1, 1), single).is_ok());
    }
    let (Full, back) = trains.take(send(&image, 512, 1, 4), single).unwrap_err();
    assert_eq!(trains.waiting.len(), UDP_SENDS - 3);
    assert!(trains.take(back, ROUTE).is_ok(), "one message has room");
}

#[test]
fn a_released_slot_lets_its_image_go() {
    let image = Image::from_bytes(&[1; 5000]).unwrap();
    let mut trains = Trains::new();
    assert!(trains.take(send(&image, 512, 1, 4), ROUTE).is_ok());
    assert_eq!(Arc::strong_count(&image), 2);
    waiting(&mut trains);
    assert_eq!(Arc::strong_count(&image), 1);
}

#[test]
fn headers_and_slices_follow_each_other() {
    let image = Image::from_bytes(&[7; 1000]).unwrap();
    let mut trains = Trains::new();
    assert!(trains.take(send(&image, 512, 1, 2), ROUTE).is_ok());
    let slot = trains.waiting[0];
    let lengths: Vec<usize> = trains.get(slot).unwrap().parts.iter().map(|p| p.iov_len).collect();
    assert_eq!(lengths, [4, 512, 4, 488]);
}

#[test]
fn one_piece_from_the_routes_own_address_goes_without_a_header() {
    let image = Image::from_bytes(&vec![1; 5000]).unwrap();
    let budget = crate::catalog::budget::Budget::new(u64::MAX);
    image.make_framed(512, &budget).unwrap().unwrap();
    let ours = Some(IpAddr::from([10, 0, 0, 9]));
    let route = Route { source: ours, ..ROUTE };
    let plain = |first, count, blksize, from| {
        let mut trains = Trains::new();
        assert!(trains.take(UdpSend { from, ..send(&image, blksize, first, count) }, route).is_ok());
        let slot = trains.waiting[0];
        trains.get(slot).unwrap().plain().map(|plain| plain.length)
    };
    assert_eq!(plain(1, 1, 512, ours), Some(516));
    assert_eq!(plain(10, 1, 512, None), Some(4 + 5000 - 9 * 512));
    assert_eq!(plain(1, 1, 512, Some([10, 0, 0, 8].into())), None, "the node asked another address (T18)");
    assert_eq!(plain(1, 2, 512, ours), None, "the kernel must be told where to cut");
    assert_eq!(plain(1, 1, 600, ours), None, "header and slice are two pieces");
}
