//! A MetalCluster: passes the endpoint on, and says that the infrastructure is there.

use super::{CLUSTER_FINALIZER, condition, kinds, owner, paused, reasons, tell_paused};
use crate::resource::capi::MANAGED_BY;
use crate::resource::{Cluster, Endpoint, MetalCluster, MetalClusterStatus};

/// The facts.
#[derive(Clone, Copy)]
pub struct ClusterView<'a> {
    /// It.
    pub metal: &'a MetalCluster,
    /// Its Cluster, where it is owned by one that exists.
    pub cluster: Option<&'a Cluster>,
}

/// What follows.
#[derive(Clone, PartialEq, Debug)]
pub struct ClusterDecision {
    /// To be written, where it differs.
    pub status: MetalClusterStatus,
    /// To be done first; then it is decided again.
    pub act: ClusterAct,
}

/// One thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterAct {
    /// Nothing.
    None,
    /// Put [`CLUSTER_FINALIZER`] on.
    AddFinalizer,
    /// Take it off.
    RemoveFinalizer,
}

/// Decides.
pub fn cluster(view: ClusterView<'_>, now_ms: u64) -> ClusterDecision {
    let meta = &view.metal.metadata;
    let mut done = ClusterDecision { status: view.metal.status.clone(), act: ClusterAct::None };
    if meta.annotations.contains_key(MANAGED_BY) {
        return done;
    }
    let generation = meta.generation;
    let is_paused = paused(meta, view.cluster);
    if is_paused {
        tell_paused(&mut done.status.conditions, true, generation, now_ms);
        return done;
    }
    if meta.deletion_timestamp.is_some() {
        // Its machines are gone by then: Cluster API sees to that, and their own finalizers do.
        if meta.finalizers.iter().any(|f| f == CLUSTER_FINALIZER) {
            done.act = ClusterAct::RemoveFinalizer;
        }
        return done;
    }
    let Some(cluster) = view.cluster.filter(|_| owner(meta, "Cluster").is_some()) else { return done };
    if !meta.finalizers.iter().any(|f| f == CLUSTER_FINALIZER) {
        done.act = ClusterAct::AddFinalizer;
        return done;
    }
    let s = &mut done.status;
    tell_paused(&mut s.conditions, false, generation, now_ms);
    let own = view.metal.spec.control_plane_endpoint.as_ref().is_some_and(Endpoint::is_whole);
    if !own && !cluster.spec.control_plane_endpoint.is_whole() {
        let words = "give spec.controlPlaneEndpoint here or in the Cluster: stoker makes no load balancer";
        condition(&mut s.conditions, (kinds::READY, false), reasons::WAITING_FOR_ENDPOINT, words, generation, now_ms);
        return done;
    }
    s.ready = true;
    s.initialization.provisioned = Some(true);
    s.failure_domains.clone_from(&view.metal.spec.failure_domains);
    condition(&mut s.conditions, (kinds::READY, true), reasons::PROVISIONED, "", generation, now_ms);
    done
}
