use super::super::packet::Packet;
use super::*;
use std::string::String;
use std::vec::Vec;

const WIDE: Policy = Policy { max_blksize: 65464, max_windowsize: 64, max_window_bytes: u32::MAX };

/// Settles options given as `name value name value`, for a file of 1,020,416 bytes.
fn settle_under(policy: &Policy, mode: Mode, words: &str) -> Agreed {
    let mut bytes = b"\0\x01f\0octet\0".to_vec();
    for word in words.split(' ').filter(|_| !words.is_empty()) {
        bytes.extend_from_slice(word.as_bytes());
        bytes.push(0);
    }
    match Packet::decode(&bytes).unwrap() {
        Packet::Request(request) => negotiate(request.options, mode, 1_020_416, policy),
        other => panic!("{other:?}"),
    }
}

fn settle(words: &str) -> Agreed {
    settle_under(&WIDE, Mode::Octet, words)
}

/// An OACK as `name value name value`.
fn words(agreed: &Agreed) -> String {
    let oack = agreed.oack();
    let texts: Vec<_> =
        oack.as_bytes()[2..].split(|&c| c == 0).map(|t| String::from_utf8_lossy(t).into_owned()).collect();
    assert_eq!(texts.last().map(String::as_str), Some(""), "an OACK ends in NUL");
    texts[..texts.len() - 1].join(" ")
}

#[test]
fn t35_unknown_options_are_left_out_and_alone_make_no_oack() {
    assert!(settle("").is_plain());
    assert!(settle("speed warp multicast x").is_plain());
    assert_eq!(words(&settle("speed warp blksize 1024")), "blksize 1024");
}

#[test]
fn t36_the_oack_holds_what_was_asked_and_nothing_else() {
    assert_eq!(words(&settle("tsize 0 blksize 1468 windowsize 4")), "tsize 1020416 blksize 1468 windowsize 4");
    assert_eq!(words(&settle("blksize 1432 tsize 0")), "tsize 1020416 blksize 1432");
    assert_eq!(words(&settle("windowsize 8")), "windowsize 8");
    assert_eq!(words(&settle("timeout 3")), "timeout 3");
}

#[test]
fn t37_names_are_read_in_any_case_and_order() {
    let one = settle("BLKSIZE 1024 Tsize 0 windowSize 8 TimeOut 2");
    assert_eq!(one, settle("timeout 2 windowsize 8 tsize 0 blksize 1024"));
    assert_eq!(words(&one), "tsize 1020416 blksize 1024 timeout 2 windowsize 8");
}

#[test]
fn t38_of_an_option_given_twice_the_first_counts() {
    assert_eq!(words(&settle("blksize 1024 blksize 512")), "blksize 1024");
    assert!(settle("blksize junk blksize 512").is_plain(), "even where the first is junk");
}

#[test]
fn t42_block_sizes_are_honoured_or_lowered_never_raised() {
    for asked in [8_u16, 9, 512, 1428, 1468, 8192, 65464] {
        let text = std::format!("blksize {asked}");
        assert_eq!(settle(&text).blksize(), asked);
        let lowered = settle_under(&Policy { max_blksize: 1468, ..WIDE }, Mode::Octet, &text).blksize();
        assert_eq!(lowered, asked.min(1468));
    }
}

#[test]
fn t43_impossible_block_sizes_are_left_out() {
    for junk in [
        "7",
        "0",
        "-1",
        "65465",
        "abc",
        "1e3",
        "",
        "99999999999999999999",
        "18446744073709551616",
        "0x200",
        "+512",
        "512x",
    ] {
        let mut bytes = b"\0\x01f\0octet\0blksize\0".to_vec();
        bytes.extend_from_slice(junk.as_bytes());
        bytes.push(0);
        let Packet::Request(request) = Packet::decode(&bytes).unwrap() else { panic!() };
        assert!(negotiate(request.options, Mode::Octet, 1, &WIDE).is_plain(), "{junk:?}");
    }
    assert_eq!(settle("blksize 00512").blksize(), 512);
}

#[test]
fn t44_the_mtu_caps_the_block_size_unless_the_policy_says_otherwise() {
    for (mtu, v4, v6) in
        [(1500, 1468, 1448), (1400, 1368, 1348), (9000, 8968, 8948), (68, 36, 16), (0, 8, 8), (65535, 65464, 65464)]
    {
        assert_eq!((Policy::blksize_for_mtu(mtu, false), Policy::blksize_for_mtu(mtu, true)), (v4, v6), "MTU {mtu}");
    }
    let capped = Policy { max_blksize: Policy::blksize_for_mtu(1500, false), ..WIDE };
    assert_eq!(settle_under(&capped, Mode::Octet, "blksize 8192").blksize(), 1468);
    assert_eq!(settle("blksize 8192").blksize(), 8192);
}

#[test]
fn t45_tsize_is_exact_beyond_4_gib() {
    let Packet::Request(request) = Packet::decode(b"\0\x01f\0octet\0tsize\x000\0").unwrap() else { panic!() };
    for size in [0, 1, (1 << 32) + 1, u64::MAX] {
        let agreed = negotiate(request.options, Mode::Octet, size, &WIDE);
        assert_eq!(agreed.tsize(), Some(size));
        assert_eq!(words(&agreed), std::format!("tsize {size}"));
    }
}

#[test]
fn t46_tsize_is_left_out_for_netascii() {
    assert!(settle_under(&WIDE, Mode::Netascii, "tsize 0").is_plain());
    assert_eq!(words(&settle_under(&WIDE, Mode::Netascii, "tsize 0 blksize 1024")), "blksize 1024");
}

#[test]
fn t48_timeout_is_echoed_exactly_or_left_out() {
    for (asked, agreed) in
        [("1", Some(1)), ("3", Some(3)), ("255", Some(255)), ("0", None), ("256", None), ("-3", None), ("1.5", None)]
    {
        assert_eq!(settle(&std::format!("timeout {asked}")).timeout(), agreed, "{asked}");
    }
}

#[test]
fn t49_extensions_of_others_are_ignored() {
    for words in ["utimeout 100000", "multicast x", "rollover 0", "msftwindow 31416", "blksize2 1024"] {
        assert!(settle(words).is_plain(), "{words}");
    }
}

#[test]
fn t52_windowsize_is_lowered_to_the_cap_and_junk_left_out() {
    for (asked, agreed) in
        [("1", "windowsize 1"), ("4", "windowsize 4"), ("64", "windowsize 64"), ("65535", "windowsize 64")]
    {
        assert_eq!(words(&settle(&std::format!("windowsize {asked}"))), agreed);
    }
    for junk in ["0", "65536", "x", "-1", "4.0"] {
        assert!(settle(&std::format!("windowsize {junk}")).is_plain(), "{junk}");
    }
    let bounded = Policy { max_window_bytes: 64 * 1024, ..WIDE };
    assert_eq!(settle_under(&bounded, Mode::Octet, "blksize 8192 windowsize 64").windowsize(), 8);
    assert_eq!(settle_under(&bounded, Mode::Octet, "blksize 65464 windowsize 64").windowsize(), 1);
    assert_eq!(settle_under(&bounded, Mode::Octet, "windowsize 64").windowsize(), 64);
}

#[test]
fn a_client_takes_no_more_from_an_oack_than_it_asked_for() {
    let asked = Agreed::asked(Some(1468), Some(16), Some(3), true);
    let read = |bytes: &'static [u8]| match Packet::decode(bytes).unwrap() {
        Packet::Oack(options) => Agreed::from_oack(options, &asked),
        other => panic!("{other:?}"),
    };
    let all = read(b"\0\x06tsize\x0077\0blksize\x001024\0timeout\x003\0windowsize\x008\0").unwrap();
    assert_eq!((all.tsize(), all.blksize(), all.timeout(), all.windowsize()), (Some(77), 1024, Some(3), 8));
    assert_eq!(read(b"\0\x06"), Ok(Agreed::default()));
    for (bytes, option) in [
        (&b"\0\x06blksize\x001469\0"[..], "blksize"),
        (b"\0\x06blksize\x007\0", "blksize"),
        (b"\0\x06windowsize\x0017\0", "windowsize"),
        (b"\0\x06timeout\x004\0", "timeout"),
        (b"\0\x06tsize\0x\0", "tsize"),
        (b"\0\x06speed\x001\0", "an option that was not asked for"),
    ] {
        assert_eq!(read(bytes), Err(option));
    }
}
