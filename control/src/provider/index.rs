//! Who stands on what: so that a change of one object wakes the few that it
//! concerns. Pure.

use crate::objects::follow::News;
use crate::plan::provider::owner;
use crate::resource::capi::CLUSTER_NAME;
use crate::resource::{Kind, Object};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// An object by its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Empty for kinds without.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// Of these parts.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn of(object: &Object) -> Self {
        Self::new(object.kind, &object.metadata.namespace, &object.metadata.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&crate::resource::key(self.kind, &self.namespace, &self.name))
    }
}

/// The links of all Metal objects and bindings.
#[derive(Default)]
pub struct Index {
    /// What each object stands on.
    links: BTreeMap<Key, BTreeSet<Key>>,
    /// The same the other way round.
    back: BTreeMap<Key, BTreeSet<Key>>,
}

impl Index {
    /// Takes news in; what is to be looked at because of it.
    pub fn hear(&mut self, news: News) -> BTreeSet<Key> {
        let mut wake = BTreeSet::new();
        match news {
            News::Applied(object) => self.applied(&object, &mut wake),
            News::Deleted(object) => self.gone(&Key::of(&object), &mut wake),
            News::All(kind, objects) => {
                let now: BTreeSet<Key> = objects.iter().map(Key::of).collect();
                let known = self.links.keys().chain(self.back.keys()).filter(|k| k.kind == kind);
                let gone: Vec<Key> = known.filter(|k| !now.contains(k)).cloned().collect();
                for key in gone {
                    self.gone(&key, &mut wake);
                }
                for object in &objects {
                    self.applied(object, &mut wake);
                }
            }
        }
        wake
    }

    /// The Servers whose bindings are in a MetalMachine's name.
    pub fn bindings_of(&self, metal: &Key) -> Vec<String> {
        let back = self.back.get(metal).into_iter().flatten();
        back.filter(|k| k.kind == Kind::ServerBinding).map(|k| k.name.clone()).collect()
    }

    fn applied(&mut self, object: &Object, wake: &mut BTreeSet<Key>) {
        let key = Key::of(object);
        let before = self.link(&key, links(object));
        self.wake(&key, wake);
        // Whom it was taken from wants to know, too.
        wake.extend(before.into_iter().filter(|k| is_ours(k.kind)));
    }

    fn gone(&mut self, key: &Key, wake: &mut BTreeSet<Key>) {
        self.wake(key, wake);
        self.link(key, BTreeSet::new());
    }

    /// The object itself, where it is one that is looked after, and those that stand on it or it stands for.
    fn wake(&self, key: &Key, wake: &mut BTreeSet<Key>) {
        if is_ours(key.kind) {
            wake.insert(key.clone());
        }
        let near = self.back.get(key).into_iter().flatten().chain(self.links.get(key).into_iter().flatten());
        wake.extend(near.filter(|k| is_ours(k.kind)).cloned());
    }

    /// Replaces what an object stands on; returns what it stood on before.
    fn link(&mut self, key: &Key, to: BTreeSet<Key>) -> BTreeSet<Key> {
        let before = if to.is_empty() { self.links.remove(key) } else { self.links.insert(key.clone(), to.clone()) };
        let before = before.unwrap_or_default();
        for old in before.difference(&to) {
            if let Some(set) = self.back.get_mut(old) {
                set.remove(key);
                if set.is_empty() {
                    self.back.remove(old);
                }
            }
        }
        for new in to {
            self.back.entry(new).or_default().insert(key.clone());
        }
        before
    }
}

/// The kinds that are looked after.
const fn is_ours(kind: Kind) -> bool {
    matches!(kind, Kind::MetalCluster | Kind::MetalMachine | Kind::MetalMachineTemplate | Kind::MetalRemediation)
}

/// What an object stands on.
fn links(object: &Object) -> BTreeSet<Key> {
    let meta = &object.metadata;
    let here = |kind: Kind, name: &str| Key::new(kind, &meta.namespace, name);
    let text =
        |pointer: &str| object.spec.pointer(pointer).and_then(serde_json::Value::as_str).filter(|t| !t.is_empty());
    let cluster = || meta.labels.get(CLUSTER_NAME).map(|name| here(Kind::Cluster, name));
    let mut to = BTreeSet::new();
    match object.kind {
        Kind::MetalCluster => to.extend(owner(meta, "Cluster").map(|name| here(Kind::Cluster, name))),
        Kind::MetalMachine => {
            to.extend(cluster());
            to.extend(owner(meta, "Machine").map(|name| here(Kind::Machine, name)));
            to.extend(text("/serverRef/name").map(|name| Key::new(Kind::Server, "", name)));
        }
        Kind::MetalMachineTemplate => {
            to.extend(text("/template/spec/serverClassRef/name").map(|name| Key::new(Kind::ServerClass, "", name)));
        }
        Kind::MetalRemediation => {
            to.extend(cluster());
            to.insert(here(Kind::Machine, &meta.name));
        }
        Kind::ServerBinding => {
            to.insert(Key::new(Kind::Server, "", &meta.name));
            if text("/metalMachineRef/kind") == Some("MetalMachine") {
                let namespace = text("/metalMachineRef/namespace").unwrap_or_default();
                to.extend(text("/metalMachineRef/name").map(|name| Key::new(Kind::MetalMachine, namespace, name)));
            }
        }
        _ => {}
    }
    to
}

#[cfg(test)]
mod unit {
    use super::*;
    use serde_json::{Value, json};

    fn object(kind: Kind, name: &str, spec: Value) -> Object {
        let namespace = if kind.namespaced() { "ns" } else { "" };
        let metadata = json!({"name": name, "namespace": namespace, "labels": {"cluster.x-k8s.io/cluster-name": "c"},
            "ownerReferences": [{"apiVersion": "cluster.x-k8s.io/v1beta1", "kind": "Machine", "name": name, "uid": "u"}]});
        Object {
            api_version: kind.api_version().to_owned(),
            kind,
            metadata: serde_json::from_value(metadata).unwrap(),
            spec,
            status: Value::Null,
            data: Value::Null,
        }
    }

    fn names(wake: BTreeSet<Key>) -> Vec<String> {
        wake.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_change_wakes_those_that_stand_on_it_and_no_others() {
        let mut index = Index::default();
        let metal = |name: &str, server: &str| {
            let spec = if server.is_empty() { json!({}) } else { json!({"serverRef": {"name": server}}) };
            News::Applied(object(Kind::MetalMachine, name, spec))
        };
        assert_eq!(names(index.hear(metal("a", ""))), ["MetalMachine/ns/a"]);
        index.hear(metal("b", "s2"));
        let machine = News::Applied(object(Kind::Machine, "a", json!({})));
        assert_eq!(names(index.hear(machine)), ["MetalMachine/ns/a"]);
        let cluster = News::Applied(object(Kind::Cluster, "c", json!({})));
        assert_eq!(names(index.hear(cluster)), ["MetalMachine/ns/a", "MetalMachine/ns/b"]);
        let server = News::Applied(object(Kind::Server, "s2", json!({})));
        assert_eq!(names(index.hear(server)), ["MetalMachine/ns/b"]);
        assert!(index.hear(News::Applied(object(Kind::Server, "s9", json!({})))).is_empty());

        let of = json!({"metalMachineRef": {"kind": "MetalMachine", "namespace": "ns", "name": "a"}});
        let binding = object(Kind::ServerBinding, "s1", of);
        assert_eq!(names(index.hear(News::Applied(binding.clone()))), ["MetalMachine/ns/a"]);
        let a = Key::new(Kind::MetalMachine, "ns", "a");
        assert_eq!(index.bindings_of(&a), ["s1"]);
        assert_eq!(names(index.hear(News::Deleted(binding.clone()))), ["MetalMachine/ns/a"]);
        assert!(index.bindings_of(&a).is_empty());

        // A gap in the watch: what is not listed any more is gone.
        index.hear(News::Applied(binding));
        assert_eq!(names(index.hear(News::All(Kind::ServerBinding, Vec::new()))), ["MetalMachine/ns/a"]);
        let woken = index.hear(News::All(Kind::Cluster, Vec::new()));
        assert_eq!(names(woken), ["MetalMachine/ns/a", "MetalMachine/ns/b"]);
        index.hear(News::All(Kind::MetalMachine, Vec::new()));
        assert!(index.links.is_empty() && index.back.is_empty(), "nothing is kept of what is gone");
    }
}
