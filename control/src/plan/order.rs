//! What an agent is told: the order that stands for its machine, or to hold.

use super::server::target;
use crate::resource::{OrderState, Phase, Server};
use protocol::report::{Facts, Order, OrderKind, Target};

/// Nothing to do.
pub const HOLD: Order = Order { id: 0, kind: OrderKind::Hold };

/// The present order of a machine.
///
/// `facts` are those of the very boot that asks: an order for another machine, or for this one with
/// another board in it, is not handed out (W3; the agent compares once more). `verified` says that
/// control has sent the machine into this boot (W4). What is secret in an order is not in it.
pub fn order(server: &Server, facts: Option<&Facts>, verified: bool, paused: bool) -> Order {
    let Some(record) = &server.status.order else { return HOLD };
    let open = matches!(record.state, OrderState::Pending | OrderState::Running | OrderState::Erasing);
    let facts = facts.filter(|_| verified && open && !paused && server.spec.accepted);
    let Some(facts) = facts.filter(|_| fits(server.status.phase, &record.order)) else { return HOLD };
    match target_of(&record.order) {
        Some(target) if !is(target, facts) => HOLD,
        _ => Order { id: record.id, kind: record.order.clone() },
    }
}

/// In which phases an order of this kind is given. A wipe only to a machine that nobody has.
fn fits(phase: Option<Phase>, kind: &OrderKind) -> bool {
    use Phase::{Allocated, Available, Discovered, Installing, Wiping};
    match kind {
        OrderKind::Wipe(_) => phase == Some(Wiping),
        OrderKind::WriteImage(_) => phase == Some(Installing),
        OrderKind::PowerOff => phase == Some(Available),
        OrderKind::Reboot | OrderKind::Kexec(_) => matches!(phase, Some(Allocated | Installing)),
        OrderKind::SetUpBmc(_) => matches!(phase, Some(Discovered | Wiping)),
        OrderKind::Hold | OrderKind::Unknown => false,
    }
}

/// The machine that an order names.
pub const fn target_of(kind: &OrderKind) -> Option<&Target> {
    match kind {
        OrderKind::Wipe(o) => Some(&o.target),
        OrderKind::WriteImage(o) => Some(&o.target),
        OrderKind::Kexec(o) => Some(&o.target),
        OrderKind::SetUpBmc(o) => Some(&o.target),
        _ => None,
    }
}

/// Whether a machine is the one that is meant: every part that is set must be its own.
pub fn is(meant: &Target, facts: &Facts) -> bool {
    let own = target(facts);
    let uuid = meant.uuid.is_none() || meant.uuid == own.uuid;
    let serial = meant.serial_number.is_empty() || meant.serial_number == own.serial_number;
    let macs = meant.macs.is_empty() || meant.macs.iter().any(|m| own.macs.contains(m));
    uuid && serial && macs
}
