//! How a machine's BMC was set up from inside, as its Server's status tells it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A set-up of a machine's BMC by its agent. The password is in a Secret, never here.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BmcSetup {
    /// The order's id, out of the same row as all orders and effects of the machine.
    pub id: u64,
    /// How far it is.
    pub state: BmcSetupState,
    /// RFC 3339: when this step of it began.
    pub since: String,
    /// Where the agent found the BMC.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u16,
    /// How often control has tried to log in.
    #[serde(skip_serializing_if = "is_zero")]
    pub logins: u16,
    /// Words, where it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

fn is_zero(n: &u16) -> bool {
    *n == 0
}

/// How far a set-up is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum BmcSetupState {
    /// The agent is told to do it.
    #[default]
    Ordered,
    /// The agent says that it is done; control tries to log in.
    Verifying,
    /// Control has logged in, and `spec.bmc` says how.
    Done,
    /// Given up; the machine goes on without a BMC.
    Failed,
}
