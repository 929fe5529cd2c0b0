//! What stands on a Server for whoever looks at it: conditions that are no
//! phase of their own.

use super::Step;
use crate::objects::rfc3339;
use crate::resource::{Condition, marks};

impl Step<'_> {
    /// Sets those that follow from what is seen now.
    pub(super) fn conditions(&mut self) {
        let conflict = self.view.conflict;
        let reason = if conflict.is_some() { "SameUUID" } else { "OneMachine" };
        self.report(marks::IDENTITY_CONFLICT, conflict.is_some(), reason, conflict.unwrap_or_default());

        if self.view.binding.is_none() {
            // It was one of an allocation.
            self.done.status.conditions.retain(|c| c.r#type != marks::CONFIG_REFUSED);
            return;
        }
        if let Some((at, why)) = &self.seen.refused {
            let message = format!("{}: {why}", rfc3339(*at));
            self.report(marks::CONFIG_REFUSED, true, "MayNotHaveIt", &message);
        }
    }

    /// A condition that is worth a word only once it has held.
    fn report(&mut self, kind: &str, holds: bool, reason: &str, message: &str) {
        if holds || self.done.status.conditions.iter().any(|c| c.r#type == kind) {
            self.tell(kind, if holds { "True" } else { "False" }, reason, message);
        }
    }

    /// Sets a condition; its time changes only with its status.
    fn tell(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let conditions = &mut self.done.status.conditions;
        let found = conditions.iter_mut().find(|c| c.r#type == kind);
        let since = found.as_ref().filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
        let fresh = Condition {
            r#type: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: since.unwrap_or_else(|| rfc3339(self.now)),
            ..Condition::default()
        };
        match found {
            Some(condition) => *condition = fresh,
            None => conditions.push(fresh),
        }
    }
}
