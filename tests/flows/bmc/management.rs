//! The HTTP API by which Sidero's virtual machines are switched, against a server of a few lines.

use control::power::ask::{Ask, Told};
use control::power::pool::Pool;
use control::power::target::Way;
use control::power::{BootDevice, Power};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// Answers one request for each connection, and notes what was posted. Ends with the test's process.
fn server() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let posted = Arc::new(Mutex::new(Vec::new()));
    let noted = posted.clone();
    std::thread::spawn(move || {
        let mut on = false;
        for mut stream in listener.incoming().flatten() {
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).unwrap_or(0);
            let head = String::from_utf8_lossy(&buffer[..n]).into_owned();
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
            if method == "POST" {
                on = if path == "/poweron" { true } else { on && path != "/poweroff" };
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(path);
            }
            let body = format!("{{\"PoweredOn\": {on}}}");
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    (address, posted)
}

#[tokio::test]
async fn a_virtual_machine_is_switched_and_booted_from_the_network() {
    let (address, posted) = server();
    let (pool, target) = (Pool::default(), super::target(Way::Management, address));
    let ask = async |ask: Ask| pool.with(&target, async |turn| ask.of(turn, true).await).await.unwrap();
    let boot = Ask::Boot { device: BootDevice::Pxe, efi: None, persistent: false, cycle: true };
    assert!(matches!(ask(boot).await, Told::Boot { kept } if kept.device == Some(BootDevice::Pxe)));
    ask(Ask::Power { action: Power::On }).await;
    ask(Ask::Power { action: Power::Cycle }).await;
    assert!(matches!(ask(Ask::Status).await, Told::Status { chassis, .. } if chassis.on));
    ask(Ask::Power { action: Power::Off }).await;
    let posted = posted.lock().unwrap().clone();
    assert_eq!(posted, ["/pxeboot", "/poweron", "/reboot", "/poweroff"]);
    let refused = pool.with(&target, async |turn| turn.session().sensors().await).await.unwrap_err().to_string();
    assert!(refused.contains("a managementApi has no sensors"), "{refused}");
}
