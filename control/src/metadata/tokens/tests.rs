use super::*;

const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

fn mac(last: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, last])
}

fn ip(last: u8) -> Option<IpAddr> {
    Some(IpAddr::from([10, 77, 0, last]))
}

fn mint(purpose: Purpose) -> Mint {
    Mint {
        purpose,
        uuid: UUID.parse().ok(),
        mac: Some(mac(1)),
        ip: ip(9),
        neighbour: Some(mac(1)),
        binding: if purpose == Purpose::Install { "b1".into() } else { String::new() },
    }
}

fn ask(purpose: Purpose) -> Ask<'static> {
    Ask {
        purpose,
        uuid: UUID.parse().ok(),
        ip: ip(9),
        neighbour: None,
        binding: if purpose == Purpose::Install { "b1" } else { "" },
    }
}

fn open(dir: &tempfile::TempDir) -> Tokens {
    Tokens::open(Arc::new(Store::open(&dir.path().join("s.redb")).unwrap())).unwrap()
}

#[tokio::test]
async fn a_token_opens_only_what_it_is_for() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = open(&dir);
    let (token, id) = tokens.mint(mint(Purpose::Install), 1000).await.unwrap();
    assert_eq!((token.len(), id.len()), (64, 8));
    let good = ask(Purpose::Install);
    let at = 1000 + limits::TOKEN_INSTALL_MS;
    let grant = tokens.check(&token, good, at).unwrap();
    assert_eq!((grant.again, grant.id, grant.mac), (false, id, Some(mac(1))));
    let other = "99112233-4455-6677-8899-aabbccddeeff".parse().ok();
    for (what, ask, now, why) in [
        ("expired", good, at + 1, Denied::Expired),
        ("another purpose", ask(Purpose::Agent), at, Denied::Purpose),
        ("another machine", Ask { uuid: other, ..good }, at, Denied::Machine(UUID.parse().unwrap())),
        ("another allocation", Ask { binding: "b2", ..good }, at, Denied::Binding),
        ("no allocation", Ask { binding: "", ..good }, at, Denied::Binding),
        (
            "another address",
            Ask { ip: ip(10), ..good },
            at,
            Denied::Source { given: ip(9).unwrap(), asks: ip(10).unwrap() },
        ),
        (
            "its address on another card",
            Ask { neighbour: Some(mac(2)), ..good },
            at,
            Denied::Source { given: ip(9).unwrap(), asks: ip(9).unwrap() },
        ),
    ] {
        assert_eq!(tokens.check(&token, ask, now), Err(why), "{what}");
    }
    let moved = Ask { ip: ip(11), neighbour: Some(mac(1)), ..good };
    assert!(tokens.check(&token, moved, at).is_ok(), "the same card with a new lease");
    assert_eq!(tokens.check(&token.replace(&token[..1], "z"), good, at), Err(Denied::Unknown));
    assert_eq!(tokens.check("", good, at), Err(Denied::Unknown));
}

#[tokio::test]
async fn a_script_asked_for_in_anothers_name_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = open(&dir);
    let (token, _) = tokens.mint(Mint { neighbour: Some(mac(66)), ..mint(Purpose::Agent) }, 1).await.unwrap();
    assert_eq!(tokens.check(&token, ask(Purpose::Agent), 2), Err(Denied::Unproven(mac(66))));
}

#[tokio::test]
async fn f19_an_agents_token_does_not_age_and_a_clock_that_jumps_back_opens_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = open(&dir);
    let (agent, _) = tokens.mint(mint(Purpose::Agent), 1_000_000).await.unwrap();
    let (install, _) = tokens.mint(mint(Purpose::Install), 1_000_000).await.unwrap();
    assert!(tokens.check(&agent, ask(Purpose::Agent), u64::MAX).is_ok(), "an agent may hold for months");
    assert!(tokens.check(&install, ask(Purpose::Install), 0).is_ok());
    tokens.close("b1").await.unwrap();
    assert_eq!(tokens.check(&install, ask(Purpose::Install), 0), Err(Denied::Closed));
}

#[tokio::test]
async fn tokens_are_there_after_a_restart_and_their_text_is_not_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let token = {
        let tokens = open(&dir);
        let (token, _) = tokens.mint(mint(Purpose::Install), 5).await.unwrap();
        tokens.used(&token).await.unwrap();
        token
    };
    let file = std::fs::read(dir.path().join("s.redb")).unwrap();
    assert!(!file.windows(64).any(|w| w == token.as_bytes()));
    let tokens = open(&dir);
    assert!(tokens.check(&token, ask(Purpose::Install), 6).unwrap().again);
    tokens.close("b1").await.unwrap();
    drop(tokens);
    assert_eq!(open(&dir).check(&token, ask(Purpose::Install), 7), Err(Denied::Closed));
}

#[tokio::test]
async fn newer_boots_replace_older_tokens_of_the_same_machine_only() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = open(&dir);
    let mut all = Vec::new();
    for i in 0..=limits::TOKENS_PER_MACHINE as u64 {
        all.push(tokens.mint(mint(Purpose::Agent), i).await.unwrap().0);
    }
    let other = Mint { uuid: None, mac: Some(mac(7)), neighbour: None, ..mint(Purpose::Agent) };
    let (other, _) = tokens.mint(other, 99).await.unwrap();
    assert_eq!(tokens.check(&all[0], ask(Purpose::Agent), 100), Err(Denied::Unknown));
    for token in all.iter().skip(1).chain([&other]) {
        assert!(tokens.check(token, ask(Purpose::Agent), 100).is_ok());
    }
}

#[test]
fn the_oldest_end_when_there_are_too_many() {
    let mut known = Known::default();
    let kept = |n: u32| Kept {
        purpose: Purpose::Agent,
        uuid: None,
        mac: Some(Mac([2, 0, n.to_be_bytes()[0], n.to_be_bytes()[1], n.to_be_bytes()[2], n.to_be_bytes()[3]])),
        ip: None,
        stranger: None,
        binding: String::new(),
        minted_ms: n.into(),
        used: false,
        closed: false,
    };
    let hash = |n: u32| -> Hash { Sha256::digest(n.to_be_bytes()).into() };
    let all = u32::try_from(limits::TOKENS).unwrap() + 1000;
    let mut gone = 0;
    for n in 0..all {
        gone += known.insert(hash(n), kept(n)).len();
    }
    assert_eq!((known.by_hash.len(), gone), (limits::TOKENS, 1000));
    assert_eq!(known.by_owner.len(), limits::TOKENS);
    assert!(!known.by_hash.contains_key(&hash(999)) && known.by_hash.contains_key(&hash(1000)));
}
