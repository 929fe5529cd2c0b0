//! An agent's facts as a Server's `spec.hardware`, in Sidero's words.

use crate::resource::hardware::{
    Compute, Memory, MemoryModule, Network, NetworkInterface, Processor, Storage, StorageDevice, System,
};
use crate::resource::{Hardware, size_text};
use protocol::report::Facts;

/// What of a report is the machine's own. Addresses and links come and go and are left out, so that
/// a boot does not change the spec.
pub fn hardware(facts: &Facts) -> Hardware {
    let s = &facts.system;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Hardware {
        system: Some(System {
            uuid: s.uuid.map(|u| u.to_string()).unwrap_or_default(),
            manufacturer: s.manufacturer.clone(),
            product_name: s.product_name.clone(),
            version: s.version.clone(),
            serial_number: s.serial_number.clone(),
            sku_number: s.sku_number.clone(),
            family: s.family.clone(),
        }),
        compute: Some(Compute {
            total_core_count: facts.compute.total_core_count,
            total_thread_count: facts.compute.total_thread_count,
            processor_count: count(facts.compute.processors.len()),
            processors: facts.compute.processors.iter().map(processor).collect(),
        }),
        memory: Some(Memory {
            total_size: size_text(facts.memory.total_bytes, false),
            module_count: count(facts.memory.modules.len()),
            modules: facts.memory.modules.iter().map(module).collect(),
        }),
        storage: Some(Storage {
            total_size: size_text(facts.storage.iter().fold(0, |sum, d| sum.saturating_add(d.size)), true),
            device_count: count(facts.storage.len()),
            devices: facts.storage.iter().map(disk).collect(),
        }),
        network: Some(Network {
            interface_count: count(facts.network.len()),
            interfaces: facts.network.iter().map(interface).collect(),
        }),
    }
}

fn processor(p: &protocol::report::Processor) -> Processor {
    Processor {
        manufacturer: p.manufacturer.clone(),
        product_name: p.product_name.clone(),
        serial_number: p.serial_number.clone(),
        speed: p.speed,
        core_count: p.core_count,
        thread_count: p.thread_count,
    }
}

fn module(m: &protocol::report::MemoryModule) -> MemoryModule {
    MemoryModule {
        manufacturer: m.manufacturer.clone(),
        product_name: m.product_name.clone(),
        serial_number: m.serial_number.clone(),
        r#type: m.r#type.clone(),
        size: m.size,
        speed: m.speed,
    }
}

fn disk(d: &protocol::report::Disk) -> StorageDevice {
    StorageDevice {
        r#type: d.r#type.clone(),
        size: d.size,
        product_name: d.model.clone(),
        serial_number: d.serial_number.clone(),
        name: d.name.clone(),
        device_name: d.device_name.clone(),
        uuid: d.uuid.clone(),
        wwid: d.wwid.clone(),
    }
}

fn interface(i: &protocol::report::Interface) -> NetworkInterface {
    NetworkInterface {
        index: i.index,
        name: i.name.clone(),
        flags: String::new(),
        mtu: i.mtu,
        mac: i.mac.map(|m| m.to_string()).unwrap_or_default(),
        addresses: Vec::new(),
    }
}
