//! MetalClusters, templates of machines and MetalRemediations: read, decide, write, act.

use super::index::Key;
use super::{Provider, Round};
use crate::objects::{Error, Objects, rfc3339};
use crate::plan::provider::{self, CLUSTER_FINALIZER, ClusterAct, ClusterView, RemediationAct, RemediationView, owner};
use crate::resource::capi::CLUSTER_NAME;
use crate::resource::{
    Cluster, Kind, Machine, MetalCluster, MetalMachine, MetalMachineTemplate, MetalRemediation, RemediationPhase,
    Server, Typed, marks,
};
use serde_json::{Value, json};

impl<O: Objects> Provider<O> {
    pub(super) async fn cluster(&self, key: &Key) -> Result<Round, Error> {
        let Some(mut object) = self.object(key.kind, &key.namespace, &key.name).await? else {
            return Ok(Round::Rest(None));
        };
        if !self.inner.scope.has(&object.metadata) {
            return Ok(Round::Rest(None));
        }
        let metal = MetalCluster::from_object(&object).map_err(|e| Error::Invalid(vec![e]))?;
        let cluster: Option<Cluster> = match owner(&metal.metadata, "Cluster") {
            Some(name) => self.typed(&key.namespace, name).await?,
            None => None,
        };
        let decision = provider::cluster(ClusterView { metal: &metal, cluster: cluster.as_ref() }, self.now());
        if decision.status != metal.status {
            object.status = serde_json::to_value(&decision.status).map_err(|e| Error::Store(e.to_string()))?;
            object = self.inner.objects.replace_status(object).await?;
        }
        let finalizers = &mut object.metadata.finalizers;
        match decision.act {
            ClusterAct::None => return Ok(Round::Rest(None)),
            ClusterAct::AddFinalizer => finalizers.push(CLUSTER_FINALIZER.to_owned()),
            ClusterAct::RemoveFinalizer => finalizers.retain(|f| f != CLUSTER_FINALIZER),
        }
        self.inner.objects.replace(object).await?;
        Ok(Round::Again)
    }

    /// Tells an autoscaler what a machine made from the template would have at least.
    pub(super) async fn template(&self, key: &Key) -> Result<Round, Error> {
        let Some(mut object) = self.object(key.kind, &key.namespace, &key.name).await? else {
            return Ok(Round::Rest(None));
        };
        let meta = &object.metadata;
        if !self.inner.scope.has(meta) || provider::paused(meta, None) || meta.deletion_timestamp.is_some() {
            return Ok(Round::Rest(None));
        }
        let it = MetalMachineTemplate::from_object(&object).map_err(|e| Error::Invalid(vec![e]))?;
        let class = it.spec.template.spec.server_class_ref.as_ref();
        let least = class.and_then(|class| self.inner.allocation.least(&class.name));
        let status = provider::template(least, meta);
        if status != it.status {
            object.status = serde_json::to_value(&status).map_err(|e| Error::Store(e.to_string()))?;
            self.inner.objects.replace_status(object).await?;
        }
        Ok(Round::Rest(None))
    }

    pub(super) async fn remediation(&self, key: &Key) -> Result<Round, Error> {
        let Some(mut object) = self.object(key.kind, &key.namespace, &key.name).await? else {
            return Ok(Round::Rest(None));
        };
        if !self.inner.scope.has(&object.metadata) {
            return Ok(Round::Rest(None));
        }
        let it = MetalRemediation::from_object(&object).map_err(|e| Error::Invalid(vec![e]))?;
        // It bears the name of the Machine that it is for.
        let machine: Option<Machine> = self.typed(&key.namespace, &key.name).await?;
        let named = machine.as_ref().map(|m| m.spec.infrastructure_ref.clone()).filter(|r| r.kind == "MetalMachine");
        let metal: Option<MetalMachine> = match named {
            Some(metal) => self.typed(&key.namespace, &metal.name).await?,
            None => None,
        };
        let label = it.metadata.labels.get(CLUSTER_NAME).cloned();
        let cluster = label.or_else(|| machine.as_ref().map(|m| m.spec.cluster_name.clone()));
        let cluster: Option<Cluster> = match cluster.filter(|c| !c.is_empty()) {
            Some(name) => self.typed(&key.namespace, &name).await?,
            None => None,
        };
        let server: Option<Server> = match metal.as_ref().and_then(|m| m.spec.server_ref.as_ref()) {
            Some(server) => self.typed("", &server.name).await?,
            None => None,
        };
        let view = RemediationView {
            remediation: &it,
            cluster: cluster.as_ref(),
            metal: metal.as_ref(),
            server: server.as_ref(),
        };
        let decision = provider::remediation(view, self.now());
        // The wish is written first: counted without being made, it would be lost in a crash; made twice under the
        // same number, it is one wish.
        if let (RemediationAct::Cycle(n), Some(mut server)) = (&decision.act, server) {
            let wish = format!("{}/{n}", it.metadata.uid);
            server.metadata.annotations.insert(marks::POWER_CYCLE.to_owned(), wish);
            self.inner.objects.replace(server.to_object()).await?;
        }
        if decision.status.phase == Some(RemediationPhase::Failed) {
            self.owner_is_told(&key.namespace, &key.name).await?;
        }
        if decision.status == it.status {
            return Ok(Round::Rest(decision.recheck_ms));
        }
        object.status = serde_json::to_value(&decision.status).map_err(|e| Error::Store(e.to_string()))?;
        self.inner.objects.replace_status(object).await?;
        Ok(Round::Again)
    }

    /// The Machine's owner replaces it when it reads `OwnerRemediated` False: the one thing that is written into
    /// an object of Cluster API, as its contract asks. All else in that status stays as it is.
    async fn owner_is_told(&self, namespace: &str, machine: &str) -> Result<(), Error> {
        const KIND: &str = "OwnerRemediated";
        let Some(mut object) = self.object(Kind::Machine, namespace, machine).await? else { return Ok(()) };
        if !object.status.is_object() {
            object.status = json!({});
        }
        let fresh = json!({
            "type": KIND, "status": "False", "reason": "RemediationFailed",
            "message": "power cycles did not bring its node back", "lastTransitionTime": rfc3339(self.now()),
        });
        let conditions = object.status.as_object_mut().map(|s| s.entry("conditions").or_insert_with(|| json!([])));
        let Some(conditions) = conditions.and_then(Value::as_array_mut) else { return Ok(()) };
        match conditions.iter_mut().find(|c| c["type"] == KIND) {
            Some(there) if there["status"] == "False" => return Ok(()),
            Some(there) => *there = fresh,
            None => conditions.push(fresh),
        }
        self.inner.objects.replace_status(object).await.map(|_| ())
    }
}
