//! A Server's BMC by hand: through control, so that its queue and the limits of its logins hold.

use super::objects::refused;
use super::{Answer, Operator, no};
use crate::lifecycle::efi;
use crate::metadata::words::clean;
use crate::objects::{Error, Objects as _};
use crate::power::ask::{Ask, Told};
use crate::resource::{Kind, Phase, Server, Typed as _};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What is asked of a Server's BMC by hand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ByHand {
    /// What.
    #[serde(flatten)]
    pub ask: Ask,
    /// Even where the machine is somebody's, or stoker is at work on it.
    #[serde(default)]
    pub force: bool,
}

pub(super) async fn by_hand(
    State(op): State<Arc<Operator>>,
    Path(name): Path<String>,
    Json(ByHand { ask, force }): Json<ByHand>,
) -> Answer<Told> {
    let object = op.objects.get(Kind::Server, "", &name).await.map_err(|e| refused(&e))?;
    let server = Server::from_object(&object).map_err(|e| refused(&Error::Invalid(vec![e])))?;
    if ask.acts() {
        if let Err(why) = may_act(&server)
            && !force
        {
            return Err(no(StatusCode::CONFLICT, why, "with --force it is done all the same"));
        }
        tracing::info!(server = name, ?ask, force, "by hand");
    }
    let facts = op.machines.of_server(&server).map(|r| r.hello.facts);
    let (hands, efi) = (op.hands.clone(), efi(&server, facts.as_ref()));
    // On a task of its own: an operator who goes away does not leave a machine half switched.
    let done = tokio::spawn(async move { hands.with(&server, async move |turn| ask.of(turn, efi).await).await }).await;
    op.lifecycle.wake(&name);
    match done {
        Ok(Ok(told)) => Ok(Json(told)),
        Ok(Err(why)) => Err(no(StatusCode::BAD_GATEWAY, clean(&why), "")),
        Err(_) => Err(no(StatusCode::INTERNAL_SERVER_ERROR, "the conversation with the BMC broke off", "see the log")),
    }
}

/// Whether a machine may be switched by hand without a second thought.
///
/// # Errors
/// A sentence that says what would be disturbed.
fn may_act(server: &Server) -> Result<(), String> {
    let name = &server.metadata.name;
    let (phase, reason) = (server.status.phase, &server.status.reason);
    match phase {
        Some(Phase::Available) => Ok(()),
        None | Some(Phase::Discovered) => {
            Err(format!("Server {name} is not accepted: whatever runs on it is not ours, and it is left as it is"))
        }
        Some(phase @ (Phase::Allocated | Phase::Installing | Phase::Running)) => {
            Err(format!("Server {name} is {phase}: it belongs to a ServerBinding, and somebody's work runs on it"))
        }
        Some(phase @ (Phase::Wiping | Phase::Releasing)) => {
            Err(format!("Server {name} is {phase} ({reason}): stoker switches it itself, and disks may be half erased"))
        }
        Some(Phase::Quarantined) => {
            Err(format!("Server {name} is Quarantined ({reason}): nothing is done to it before that is explained"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Meta, ServerSpec, ServerStatus};

    #[test]
    fn only_a_free_machine_is_switched_without_force() {
        for phase in std::iter::once(None).chain(Phase::ALL.map(Some)) {
            let server = Server {
                metadata: Meta { name: "6f0c4e2a-0b1d-4c5e-8f90-123456789abc".into(), ..Meta::default() },
                spec: ServerSpec::default(),
                status: ServerStatus { phase, reason: "Why".into(), ..ServerStatus::default() },
            };
            match may_act(&server) {
                Ok(()) => assert_eq!(phase, Some(Phase::Available)),
                Err(why) => assert!(why.contains(&server.metadata.name), "{why}"),
            }
        }
    }

    #[test]
    fn requests_read_as_they_are_written_down_here() {
        let read = |text: &str| serde_json::from_str::<ByHand>(text).unwrap();
        let by_hand = read(r#"{"ask":"power","action":"cycle","force":true}"#);
        assert_eq!((by_hand.ask, by_hand.force), (Ask::Power { action: crate::power::Power::Cycle }, true));
        assert_eq!(read(r#"{"ask":"status"}"#).ask, Ask::Status);
        let pxe = Ask::Boot { device: crate::power::BootDevice::Pxe, efi: None, persistent: false, cycle: false };
        assert_eq!(read(r#"{"ask":"boot","device":"pxe"}"#).ask, pxe);
    }
}
