//! Annotations, labels, finalizers and names that stoker writes on objects or heeds.

/// Finalizer of a ServerBinding: its machine has to be wiped before the claim ends. Only the
/// reconciler takes it off.
pub const RELEASE_FINALIZER: &str = "stoker.dev/release";
/// Annotation of a Server while a claim on it is being written: `NAME/RANDOM`. No wipe is
/// confirmed for a machine that has it (rule W5). Ended by the claim's ServerBinding, or after
/// [`crate::limits::CLAIM_AGE`].
pub const CLAIMED_BY: &str = "stoker.dev/claimed-by";
/// Annotation of a Server: when it was first accepted, RFC 3339. Kept apart from the status, which
/// does not survive a move between clusters.
pub const ACCEPTED_AT: &str = "stoker.dev/accepted-at";
/// Annotation of a Server: the operator asks for another try of a step that was given up. Taken off
/// when it is heeded.
pub const RETRY: &str = "stoker.dev/retry";
/// Annotation of a quarantined Server: how the operator explains it. `running`: it belongs to its
/// binding and is left as it is; `wipe`: it is erased. Taken off when it is heeded.
pub const LIFT: &str = "stoker.dev/lift-quarantine";
/// Annotation on a Server or ServerBinding: touch nothing (Cluster API's word).
pub const PAUSED: &str = "cluster.x-k8s.io/paused";
/// Annotation of a MetalMachine: the Server that is being claimed for it. Written over the version that was read,
/// so that two who claim for it agree on one.
pub const CLAIMING: &str = "stoker.dev/claiming";
/// Annotation of a running Server: somebody asks for one power cycle. Its value tells one wish from another; the
/// one that was heeded last is in the Server's status.
pub const POWER_CYCLE: &str = "stoker.dev/power-cycle";
/// Label of a Server: its failure domain (Kubernetes' own word for it).
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Label of a Secret: which allocation it is the configuration of. It goes with that allocation.
pub const ALLOCATION: &str = "stoker.dev/allocation";
/// Annotation of a Server: the fingerprint (`sha256:...`) of its BMC's certificate, noted when it was first
/// seen, and believed alone from then on. Take it off, and the next certificate is noted.
pub const BMC_CERTIFICATE: &str = "stoker.dev/bmc-certificate";
/// Condition of a Server: whether its BMC answers.
pub const BMC_REACHABLE: &str = "BMCReachable";
/// Condition of a Server: its BMC refuses the user name or the password.
pub const BMC_AUTH_FAILED: &str = "BMCAuthFailed";
/// Condition of a Server: another machine claims to be the same one.
pub const IDENTITY_CONFLICT: &str = "IdentityConflict";
/// Condition of a Server: whether its machine configuration can be handed out.
pub const CONFIG_READY: &str = "ConfigReady";
/// Condition of a Server: whether its BMC was given a user of ours, and why not.
pub const BMC_SET_UP: &str = "BmcSetUp";
/// The user that stoker makes in BMCs.
pub const BMC_USER: &str = "stoker";
/// Keys of a BMC's credentials in their Secret.
pub const BMC_USER_KEY: &str = "user";
/// See [`BMC_USER_KEY`].
pub const BMC_PASS_KEY: &str = "pass";
/// Condition of a Server: somebody has asked for its machine configuration who may not have it.
pub const CONFIG_REFUSED: &str = "ConfigRefused";
/// Namespace of the Secrets that stoker makes.
pub const NAMESPACE: &str = "stoker";
/// Key of a machine's configuration in its Secret, as Cluster API's bootstrap data have it.
pub const CONFIG_KEY: &str = "value";
