//! Setting up BMCs by agents, acted out: the password, the order, the login, `spec.bmc`.
//!
//! The password is in its Secret before the agent hears of it, and stays there:
//! whatever dies in between, who set the BMC up can log in.

use super::Lifecycle;
use super::reconcile::Whole;
use crate::objects::{Error, Objects};
use crate::plan::order::HOLD;
use crate::plan::server::{bmc, target};
use crate::resource::{
    Bmc, BmcSetup, BmcSetupState, Kind, Meta, Object, SecretKeyRef, Server, Typed as _, ValueFrom, marks,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::report::{BmcOrder, Hidden, Order, OrderKind};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};
use std::sync::Arc;

/// Length of the passwords that are made, bytes. IPMI 2.0 takes 20 (22.30), but not every BMC that
/// takes them uses all of them afterwards (OpenIPMI's simulator is one): 16 work everywhere.
const PASSWORD: usize = 16;
/// Characters that no console or shell changes, and that are not taken for one another.
const LETTERS: [&[u8]; 4] = [b"ABCDEFGHJKLMNPQRSTUVWXYZ", b"abcdefghijkmnpqrstuvwxyz", b"23456789", b"-_.+"];

impl<O: Objects> Lifecycle<O> {
    /// The same with or without setting BMCs up. Before it is shared.
    pub fn with_bmc_setup(mut self, on: bool) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_up_bmcs = on;
        }
        self
    }

    /// The order to set the BMC up, where that comes first; hold where it cannot be given just now.
    pub(super) async fn bmc_order(&self, server: &Server, verified: bool, paused: bool) -> Option<Order> {
        let name = &server.metadata.name;
        let facts = self.board().facts(name).cloned()?;
        if !self.inner.set_up_bmcs || !verified || paused || !bmc::is_due(server, &facts) {
            return None;
        }
        let ordered = |s: &&BmcSetup| s.state == BmcSetupState::Ordered;
        let Some(setup) = server.status.bmc_setup.as_ref().filter(ordered) else {
            // It will be on record in a moment.
            self.wake(name);
            return Some(HOLD);
        };
        match self.credentials(server).await {
            Ok((user, password)) => {
                let order = BmcOrder { target: target(&facts), user, password: Hidden(password) };
                Some(Order { id: setup.id, kind: OrderKind::SetUpBmc(order) })
            }
            Err(e) => {
                tracing::warn!(server = name, error = %e, "the Secret for its BMC cannot be kept: not set up yet");
                Some(HOLD)
            }
        }
    }

    /// User and password of a machine's BMC, out of their Secret, which is made where there is none.
    async fn credentials(&self, server: &Server) -> Result<(String, String), Error> {
        let name = secret_name(&server.metadata.name);
        for _ in 0..2 {
            match self.inner.objects.get(Kind::Secret, marks::NAMESPACE, &name).await {
                Ok(secret) => {
                    let value = |key| {
                        let bytes = secret.data.get(key).and_then(Value::as_str).map(|v| STANDARD.decode(v.trim()));
                        bytes.and_then(Result::ok).and_then(|b| String::from_utf8(b).ok()).filter(|v| !v.is_empty())
                    };
                    let both = value(marks::BMC_USER_KEY).zip(value(marks::BMC_PASS_KEY));
                    return both.ok_or_else(|| {
                        Error::Store(format!(
                            "Secret {}/{name} has no base64 texts under user and pass: correct or delete it",
                            marks::NAMESPACE
                        ))
                    });
                }
                Err(Error::NotFound(_)) => {}
                Err(e) => return Err(e),
            }
            let fresh = password().map_err(|_| Error::Store("no random numbers".into()))?;
            match self.inner.objects.create(secret(&name, marks::BMC_USER, &fresh)).await {
                // Read it again: two processes may have made one.
                Ok(_) | Err(Error::Exists(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::Store(format!("Secret {}/{name} does not stay", marks::NAMESPACE)))
    }

    /// Logs in with what the agent has set up. Its end wakes the machine.
    pub(super) fn try_bmc(&self, whole: &Whole, setup: &BmcSetup) {
        let name = whole.server.metadata.name.clone();
        if !self.board().trying(&name, setup.id, setup.logins) {
            return;
        }
        let (this, setup, mut server) = (self.clone(), setup.clone(), whole.server.clone());
        tokio::spawn(async move {
            server.spec.bmc = Some(spec(&name, &setup));
            let result = this.inner.hands.is_on(&server).await.map(|_| ());
            match &result {
                Ok(()) => tracing::info!(server = name, bmc = setup.endpoint, "its BMC has a user of ours"),
                Err(why) => tracing::warn!(server = name, bmc = setup.endpoint, why, "its BMC cannot be used"),
            }
            let result = result.map_err(|e| crate::metadata::words::clean(&e));
            this.board().tried(&name, setup.id, setup.logins, result);
            this.wake(&name);
        });
    }

    /// Writes into `spec.bmc` how the BMC is reached.
    pub(super) async fn adopt_bmc(&self, object: Object, setup: &BmcSetup) -> Result<Object, Error> {
        let mut server = Server::from_object(&object).map_err(|e| Error::Invalid(vec![e]))?;
        server.spec.bmc = Some(spec(&server.metadata.name, setup));
        let spec = server.to_object().spec;
        self.inner.objects.replace(Object { spec, ..object }).await
    }
}

fn secret_name(server: &str) -> String {
    format!("{server}-bmc")
}

fn secret(name: &str, user: &str, password: &str) -> Object {
    Object {
        api_version: Kind::Secret.api_version().to_owned(),
        kind: Kind::Secret,
        metadata: Meta { name: name.to_owned(), namespace: marks::NAMESPACE.to_owned(), ..Meta::default() },
        spec: Value::Null,
        status: Value::Null,
        data: json!({
            marks::BMC_USER_KEY: STANDARD.encode(user),
            marks::BMC_PASS_KEY: STANDARD.encode(password),
        }),
    }
}

fn spec(server: &str, setup: &BmcSetup) -> Bmc {
    let from = |key: &str| {
        let key =
            SecretKeyRef { namespace: marks::NAMESPACE.to_owned(), name: secret_name(server), key: key.to_owned() };
        Some(ValueFrom { secret_key_ref: Some(key) })
    };
    Bmc {
        endpoint: setup.endpoint.clone(),
        port: if setup.port == crate::power::IPMI_PORT { 0 } else { setup.port.into() },
        user_from: from(marks::BMC_USER_KEY),
        pass_from: from(marks::BMC_PASS_KEY),
        ..Bmc::default()
    }
}

/// A random password with every kind of character in it.
fn password() -> Result<String, ring::error::Unspecified> {
    let random = SystemRandom::new();
    let all = LETTERS.concat();
    loop {
        let mut bytes = [0_u8; 4 * PASSWORD];
        random.fill(&mut bytes)?;
        // What does not fit evenly is left out, so that every character is as likely.
        let even = 256 / all.len() * all.len();
        let usable = bytes.iter().filter(|b| usize::from(**b) < even);
        let text: Vec<u8> =
            usable.filter_map(|b| all.get(usize::from(*b) % all.len())).copied().take(PASSWORD).collect();
        let strong = LETTERS.iter().all(|kind| text.iter().any(|c| kind.contains(c)));
        // A leading dash would be an option to many tools.
        if text.len() == PASSWORD && strong && text.first() != Some(&b'-') {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_strong_and_differ() {
        let some: Vec<String> = (0..200).map(|_| password().unwrap()).collect();
        for text in &some {
            assert_eq!(text.len(), PASSWORD);
            assert!(LETTERS.iter().all(|kind| text.bytes().any(|c| kind.contains(&c))), "{text}");
        }
        let distinct: std::collections::BTreeSet<_> = some.iter().collect();
        assert_eq!(distinct.len(), some.len());
    }
}
