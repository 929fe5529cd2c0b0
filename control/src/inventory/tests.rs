use super::*;
use crate::objects::embedded::Embedded;
use crate::store::Store;
use protocol::report::{Hello, Interface, System};

const UUID: &str = "6f0c4e2a-0b1d-4c5e-8f90-123456789abc";
const ZERO: &str = "00000000-0000-0000-0000-000000000000";

async fn open() -> (tempfile::TempDir, Embedded, Arc<Machines>, Arc<Inventory<Embedded>>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&folder.path().join("s.redb")).unwrap());
    let objects = Embedded::open(store.clone()).await.unwrap();
    let machines = Arc::new(Machines::open(store).unwrap());
    let inventory = Inventory::open(objects.clone(), machines.clone()).await.unwrap();
    (folder, objects, machines, inventory)
}

fn mac(last: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, last])
}

fn hello(uuid: &str, card: u8, serial: &str) -> Hello {
    let system = System { uuid: uuid.parse().ok(), serial_number: serial.into(), ..System::default() };
    let network = vec![Interface { mac: Some(mac(card)), ..Interface::default() }];
    Hello {
        version: 1,
        agent: "0.1.0".into(),
        boot_id: format!("{card}"),
        attempt: None,
        boot_mac: Some(mac(card)),
        uptime_s: 1.0,
        facts: Facts { system, network, ..Facts::default() },
    }
}

async fn servers(objects: &Embedded) -> Vec<Server> {
    let listed = objects.list(Kind::Server).await.unwrap().objects;
    listed.iter().map(|o| Server::from_object(o).unwrap()).collect()
}

#[tokio::test]
async fn a_report_becomes_a_server_and_its_repetition_writes_nothing() {
    let (_folder, objects, machines, inventory) = open().await;
    let record = machines.hello(hello(UUID, 1, "S1"), None, 1).await.unwrap();
    assert_eq!(inventory.reported(&record).await.unwrap(), Who::Server(UUID.into()));
    let first = servers(&objects).await.pop().unwrap();
    assert!(!first.spec.accepted, "W11: nothing is accepted by itself");
    assert_eq!(first.spec.hardware.as_ref().unwrap().system.as_ref().unwrap().serial_number, "S1");
    inventory.reported(&record).await.unwrap();
    assert_eq!(servers(&objects).await, std::slice::from_ref(&first));
    // What the operator has said stays.
    let mut accepted = first;
    accepted.spec.accepted = true;
    objects.replace(accepted.to_object()).await.unwrap();
    let record = machines.hello(hello(UUID, 1, "S2"), None, 2).await.unwrap();
    inventory.reported(&record).await.unwrap();
    let server = servers(&objects).await.pop().unwrap();
    assert!(server.spec.accepted);
    assert_eq!(server.spec.hardware.unwrap().system.unwrap().serial_number, "S2");
}

#[tokio::test]
async fn f33_a_placeholder_uuid_gets_a_name_of_its_card_that_stays() {
    let (_folder, objects, machines, inventory) = open().await;
    let record = machines.hello(hello(ZERO, 7, ""), None, 1).await.unwrap();
    let Who::Server(name) = inventory.reported(&record).await.unwrap() else { panic!("not named") };
    assert_eq!(inventory.reported(&record).await.unwrap(), Who::Server(name.clone()));
    assert_eq!(servers(&objects).await.len(), 1);
    let zero = ZERO.parse().ok();
    assert_eq!(inventory.who(zero, Some(mac(7)), None), Who::Server(name.clone()));
    assert_eq!(inventory.who(zero, Some(mac(8)), None), Who::Unknown);
    let again = Inventory::open(objects, machines).await.unwrap();
    assert_eq!(again.who(zero, Some(mac(7)), None), Who::Server(name), "after a restart");
}

#[tokio::test]
async fn f33_a_second_machine_with_the_same_uuid_is_not_the_first() {
    let (_folder, objects, machines, inventory) = open().await;
    let first = machines.hello(hello(UUID, 1, ""), None, 1).await.unwrap();
    inventory.reported(&first).await.unwrap();
    let second = machines.hello(hello(UUID, 2, ""), None, 2).await.unwrap();
    assert_eq!(inventory.reported(&second).await.unwrap(), Who::Conflict(UUID.into()));
    assert_eq!(servers(&objects).await.len(), 1);
    let uuid = UUID.parse().ok();
    assert_eq!(inventory.who(uuid, Some(mac(1)), None), Who::Server(UUID.into()));
    assert_eq!(inventory.who(uuid, Some(mac(2)), None), Who::Conflict(UUID.into()));
    // The operator tells them apart.
    let name = "6f0c4e2a-0b1d-4c5e-8f90-000000000002";
    inventory.declared(name, Some(Identity { macs: vec![mac(2).to_string()], ..Identity::default() }));
    assert_eq!(inventory.who(uuid, Some(mac(2)), None), Who::Server(name.into()));
    assert_eq!(inventory.reported(&second).await.unwrap(), Who::Server(name.into()));
}

#[test]
fn an_identity_holds_where_all_that_it_names_is_there() {
    let by = |serial: &str, macs: &[u8]| Identity {
        serial_number: serial.into(),
        macs: macs.iter().map(|m| mac(*m).to_string()).collect(),
    };
    for (identity, card, serial, expected) in [
        (by("", &[]), Some(mac(1)), Some("S"), false),
        (by("S", &[]), None, Some("S"), true),
        (by("S", &[]), None, None, false),
        (by("", &[1, 2]), Some(mac(2)), None, true),
        (by("S", &[1]), Some(mac(1)), Some("T"), false),
        (by("S", &[1]), Some(mac(1)), Some("S"), true),
    ] {
        assert_eq!(is(&identity, card, serial), expected, "{identity:?}");
    }
}
