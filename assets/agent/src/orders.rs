//! What to do about an order. Pure: the one who calls does it.

use protocol::report::{Level, Order, OrderKind};

/// The order that the agent is at, and how far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The order's id; 0 before the first.
    pub order: u64,
    /// How far it is.
    pub level: Level,
    /// Words for the operator.
    pub detail: String,
}

/// Something to do after control has been told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Restart by the firmware.
    Restart,
    /// Switch off.
    PowerOff,
    /// Work that takes long (`crate::work`).
    Work,
}

impl Default for Progress {
    fn default() -> Self {
        Self { order: 0, level: Level::Holding, detail: String::new() }
    }
}

impl Progress {
    /// Takes control's present order. `owns_machine` is whether the agent is
    /// PID 1: run by hand on someone's machine it must never switch that off.
    /// An order that is repeated is not carried out twice.
    pub fn take(&mut self, order: &Order, owns_machine: bool) -> Option<Action> {
        if order.id == self.order {
            return None;
        }
        let (level, detail, action) = match &order.kind {
            // Order 0 is "no order", whatever it calls itself.
            _ if order.id == 0 => (Level::Holding, "", None),
            OrderKind::Hold => (Level::Holding, "", None),
            OrderKind::Reboot
            | OrderKind::PowerOff
            | OrderKind::Wipe(_)
            | OrderKind::WriteImage(_)
            | OrderKind::SetUpBmc(_)
            | OrderKind::Kexec(_)
                if !owns_machine =>
            {
                (Level::Failed, "this agent was started by hand and does not own the machine", None)
            }
            OrderKind::Reboot => (Level::Running, "restarting", Some(Action::Restart)),
            OrderKind::PowerOff => (Level::Running, "switching off", Some(Action::PowerOff)),
            OrderKind::Wipe(_) => (Level::Running, "erasing disks", Some(Action::Work)),
            OrderKind::Kexec(_) => (Level::Running, "starting another kernel", Some(Action::Work)),
            OrderKind::WriteImage(_) => (Level::Running, "writing an image", Some(Action::Work)),
            OrderKind::SetUpBmc(_) => (Level::Running, "setting up the BMC", Some(Action::Work)),
            _ => (Level::Unsupported, "this agent does not know that kind of order", None),
        };
        *self = Self { order: order.id, level, detail: detail.to_string() };
        action
    }

    /// What was to be done could not be done.
    pub fn failed(&mut self, why: &str) {
        self.level = Level::Failed;
        self.detail = why.to_string();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(progress: &mut Progress, id: u64, kind: OrderKind, owns: bool) -> (Option<Action>, Level) {
        let action = progress.take(&Order { id, kind }, owns);
        (action, progress.level)
    }

    #[test]
    fn every_kind_of_order_is_answered() {
        let p = &mut Progress::default();
        assert_eq!(take(p, 1, OrderKind::Hold, true), (None, Level::Holding));
        assert_eq!(take(p, 2, OrderKind::Unknown, true), (None, Level::Unsupported));
        assert_eq!(take(p, 3, OrderKind::Reboot, true), (Some(Action::Restart), Level::Running));
        assert_eq!(take(p, 4, OrderKind::PowerOff, true), (Some(Action::PowerOff), Level::Running));
    }

    #[test]
    fn f27_a_repeated_order_is_not_carried_out_twice() {
        let p = &mut Progress::default();
        assert!(take(p, 7, OrderKind::Reboot, true).0.is_some());
        assert_eq!(take(p, 7, OrderKind::Reboot, true), (None, Level::Running));
        p.failed("no");
        assert_eq!(take(p, 7, OrderKind::Reboot, true), (None, Level::Failed));
    }

    #[test]
    fn order_0_is_always_hold() {
        let p = &mut Progress::default();
        assert_eq!(take(p, 0, OrderKind::PowerOff, true), (None, Level::Holding));
        take(p, 5, OrderKind::Unknown, true);
        assert_eq!(take(p, 0, OrderKind::Reboot, true), (None, Level::Holding));
    }

    #[test]
    fn an_agent_started_by_hand_switches_nothing_off() {
        let p = &mut Progress::default();
        assert_eq!(take(p, 1, OrderKind::PowerOff, false), (None, Level::Failed));
        assert_eq!(take(p, 2, OrderKind::Reboot, false), (None, Level::Failed));
        assert_eq!(take(p, 3, OrderKind::WriteImage(Default::default()), false), (None, Level::Failed));
    }
}
