//! A MetalRemediation: power cycles for a machine whose node is ill, as a
//! MachineHealthCheck asks for them.

use super::{condition, kinds, paused, reasons, tell_paused};
use crate::objects::{parse_rfc3339, rfc3339};
use crate::resource::{
    Cluster, MetalMachine, MetalRemediation, MetalRemediationStatus, Phase, RemediationPhase, Server,
};

/// The facts.
#[derive(Clone, Copy)]
pub struct RemediationView<'a> {
    /// It; its name is that of the Machine.
    pub remediation: &'a MetalRemediation,
    /// The machine's Cluster.
    pub cluster: Option<&'a Cluster>,
    /// What the Machine runs on.
    pub metal: Option<&'a MetalMachine>,
    /// The Server of that.
    pub server: Option<&'a Server>,
}

/// What follows.
#[derive(Clone, PartialEq, Debug)]
pub struct RemediationDecision {
    /// To be written, where it differs.
    pub status: MetalRemediationStatus,
    /// To be done once the status is on disk.
    pub act: RemediationAct,
    /// To be looked at again at this time, milliseconds since 1970.
    pub recheck_ms: Option<u64>,
}

/// One thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemediationAct {
    /// Nothing.
    None,
    /// Ask for a power cycle of the Server. The number makes the wish one of its own: asked twice, it is done once.
    Cycle(u32),
}

/// Decides.
pub fn remediation(view: RemediationView<'_>, now_ms: u64) -> RemediationDecision {
    let meta = &view.remediation.metadata;
    let mut done =
        RemediationDecision { status: view.remediation.status.clone(), act: RemediationAct::None, recheck_ms: None };
    let generation = meta.generation;
    // Cluster API deletes it when the node is well; there is nothing to clean up.
    if meta.deletion_timestamp.is_some() {
        return done;
    }
    let s = &mut done.status;
    let rests = paused(meta, view.cluster) || view.metal.is_some_and(|m| paused(&m.metadata, None));
    tell_paused(&mut s.conditions, rests, generation, now_ms);
    // R5: a Cluster that is not there counts as paused.
    if rests || view.cluster.is_none() || s.phase == Some(RemediationPhase::Failed) {
        return done;
    }
    let ready = |s: &mut MetalRemediationStatus, reason: &str, words: &str| {
        condition(&mut s.conditions, (kinds::READY, false), reason, words, generation, now_ms);
    };
    let switchable = view.server.is_some_and(|server| {
        let managed = server.spec.bmc.is_some() || server.spec.management_api.is_some();
        managed && server.status.phase == Some(Phase::Running)
    });
    let waited = parse_rfc3339(&s.last_remediated).map(|t| t + u64::from(view.remediation.spec.timeout_seconds) * 1000);
    if waited.is_some_and(|due| now_ms < due) {
        done.recheck_ms = waited;
        return done;
    }
    if s.retry_count >= view.remediation.spec.retry_limit {
        s.phase = Some(RemediationPhase::Failed);
        let words = format!("its node is not well after {} power cycles; it is to be replaced", s.retry_count);
        ready(s, reasons::REMEDIATION_FAILED, &words);
        return done;
    }
    // A try that cannot be made is counted, too: the owner must not wait for ever.
    s.retry_count += 1;
    s.last_remediated = rfc3339(now_ms);
    s.phase = Some(RemediationPhase::Waiting);
    if switchable {
        let words = format!("power cycle {} of {}", s.retry_count, view.remediation.spec.retry_limit);
        ready(s, reasons::REMEDIATING, &words);
        done.act = RemediationAct::Cycle(s.retry_count);
    } else {
        ready(s, reasons::NOT_SWITCHABLE, "its Server is not running, or has no BMC: it cannot be power-cycled");
    }
    done.recheck_ms = Some(now_ms + u64::from(view.remediation.spec.timeout_seconds) * 1000);
    done
}
