//! The least that a machine of a class has, kept up to date change by change.

use crate::resource::{Server, bytes_of};
use std::collections::BTreeMap;

/// What a machine offers to those who schedule by size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Size {
    /// Hardware threads: what Kubernetes calls CPUs.
    pub threads: u32,
    /// Memory, bytes.
    pub memory: u64,
}

impl Size {
    /// As the agent reported it; nothing where it is not known.
    pub fn of(server: &Server) -> Option<Self> {
        let hardware = server.spec.hardware.as_ref()?;
        let compute = hardware.compute.as_ref()?;
        let threads = compute.total_thread_count.max(compute.total_core_count);
        let memory = bytes_of(&hardware.memory.as_ref()?.total_size, false)?;
        (threads > 0 && memory > 0).then_some(Self { threads, memory })
    }
}

/// The sizes of many machines.
#[derive(Default)]
pub struct Least {
    of: BTreeMap<String, Size>,
    threads: BTreeMap<u32, usize>,
    memory: BTreeMap<u64, usize>,
}

impl Least {
    /// A machine as it is now; nothing where it does not belong, or its size is not known.
    pub fn put(&mut self, name: &str, size: Option<Size>) {
        let before = match size {
            Some(size) => self.of.insert(name.to_owned(), size),
            None => self.of.remove(name),
        };
        if let Some(old) = before {
            less(&mut self.threads, old.threads);
            less(&mut self.memory, old.memory);
        }
        if let Some(new) = size {
            *self.threads.entry(new.threads).or_default() += 1;
            *self.memory.entry(new.memory).or_default() += 1;
        }
    }

    /// The least of each, which need not be one machine's; nothing where no size is known.
    pub fn size(&self) -> Option<Size> {
        let (threads, memory) = (*self.threads.first_key_value()?.0, *self.memory.first_key_value()?.0);
        Some(Size { threads, memory })
    }
}

fn less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_least_equals_a_full_look(steps in prop::collection::vec((0_u8..5, prop::option::of((1_u32..4, 1_u64..4))), 0..40)) {
            let mut least = Least::default();
            let mut all: BTreeMap<String, Size> = BTreeMap::new();
            for (n, size) in steps {
                let (name, size) = (n.to_string(), size.map(|(threads, memory)| Size { threads, memory }));
                least.put(&name, size);
                match size {
                    Some(size) => _ = all.insert(name, size),
                    None => _ = all.remove(&name),
                }
                let threads = all.values().map(|s| s.threads).min();
                let memory = all.values().map(|s| s.memory).min();
                prop_assert_eq!(least.size(), threads.zip(memory).map(|(threads, memory)| Size { threads, memory }));
            }
        }
    }
}
