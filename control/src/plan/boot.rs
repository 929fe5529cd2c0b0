//! Where a machine that asks for its script is sent.

use crate::config::{DiskMethod, Goal, MachineRule};
use protocol::id::{Arch, Mac, MachineId};

/// What iPXE said when it asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// SMBIOS UUID.
    pub uuid: Option<MachineId>,
    /// The interface that asks.
    pub mac: Option<Mac>,
    /// `${buildarch}`; an iPXE that does not say is taken for x86_64, as Sidero does.
    pub arch: Option<Arch>,
}

/// Files of an environment that are served now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// Published name of the kernel.
    pub kernel: String,
    /// Published name of the initial ramdisk.
    pub initrd: String,
    /// Its kernel arguments.
    pub args: Vec<String>,
}

/// What is known of an environment's files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// They are served.
    Ready(Files),
    /// Not yet, for this reason.
    NotReady(String),
    /// There is no such environment.
    NoSuch,
    /// It has no files for that architecture; it has these.
    NoArch(Vec<Arch>),
}

/// The facts that a decision rests on.
pub struct View<'a> {
    /// The operator's rule for this machine.
    pub rule: Option<&'a MachineRule>,
    /// What machines get that no rule names.
    pub unknown_machines: Goal,
    /// The environment of those that name none.
    pub default_environment: Option<&'a str>,
    /// How machines are sent to their disks.
    pub disk_method: DiskMethod,
    /// Looks an environment up.
    pub files: &'a dyn Fn(&str, Arch) -> Readiness,
}

/// Where to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BootPlan {
    /// Our agent.
    Agent {
        /// Which environment holds it.
        environment: &'static str,
        /// What it loads.
        files: Files,
    },
    /// An operating system or its installer.
    Environment {
        /// Which.
        environment: String,
        /// What it loads.
        files: Files,
        /// The rule's own kernel arguments.
        args: Vec<String>,
    },
    /// Its disk.
    Disk(DiskMethod),
    /// Nowhere: an HTTP status and the reason.
    Refuse {
        /// What it was to be sent to.
        to: String,
        /// 404 or 412, as Sidero answers.
        status: u16,
        /// One sentence with the remedy.
        why: String,
    },
}

/// The name of the environment that holds the agent.
pub const fn agent_environment(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "agent-amd64",
        Arch::Arm64 => "agent-arm64",
    }
}

/// Where a machine goes whose life says so.
pub fn goal(view: &View<'_>, request: Request, goal: &Sent) -> BootPlan {
    let arch = request.arch.unwrap_or(Arch::X86_64);
    match goal {
        Sent::Agent => agent(view, arch),
        Sent::Disk(method) => BootPlan::Disk(method.unwrap_or(view.disk_method)),
        Sent::Installer(name) => named(view, name, arch),
    }
}

/// Where a machine goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Our agent.
    Agent,
    /// Its disk, by this method where one is named.
    Disk(Option<DiskMethod>),
    /// The installer of this environment.
    Installer(String),
}

/// Decides.
pub fn boot(view: &View<'_>, request: Request) -> BootPlan {
    let arch = request.arch.unwrap_or(Arch::X86_64);
    match view.rule.map_or(view.unknown_machines, |rule| rule.goal) {
        Goal::Agent => agent(view, arch),
        Goal::Disk => BootPlan::Disk(view.rule.and_then(|r| r.boot_from_disk_method).unwrap_or(view.disk_method)),
        Goal::Environment => environment(view, arch),
    }
}

fn agent(view: &View<'_>, arch: Arch) -> BootPlan {
    let environment = agent_environment(arch);
    match (view.files)(environment, arch) {
        Readiness::Ready(files) => BootPlan::Agent { environment, files },
        Readiness::NotReady(why) => refuse("agent", 412, why),
        Readiness::NoSuch | Readiness::NoArch(_) => refuse(
            "agent",
            404,
            format!("the bundle has no agent for {arch}; build one with stoker-bundle and set `bundle`"),
        ),
    }
}

fn environment(view: &View<'_>, arch: Arch) -> BootPlan {
    let Some(name) = view.rule.and_then(|r| r.environment.as_deref()).or(view.default_environment) else {
        return refuse(
            "environment",
            404,
            "no environment is named for this machine; set `default_environment`".into(),
        );
    };
    named(view, name, arch)
}

fn named(view: &View<'_>, name: &str, arch: Arch) -> BootPlan {
    let to = format!("environment {name}");
    match (view.files)(name, arch) {
        Readiness::Ready(files) => BootPlan::Environment {
            environment: name.to_owned(),
            files,
            args: view.rule.map(|r| r.args.clone()).unwrap_or_default(),
        },
        Readiness::NotReady(why) => refuse(&to, 412, why),
        Readiness::NoSuch => refuse(&to, 404, format!("there is no environment {name}; define it in stoker.yaml")),
        Readiness::NoArch(has) => {
            let has = has.iter().map(|a| a.name()).collect::<Vec<_>>().join(", ");
            refuse(
                &to,
                404,
                format!("environment {name} has no files for {arch}, only for {has}; add them in stoker.yaml"),
            )
        }
    }
}

fn refuse(to: &str, status: u16, why: String) -> BootPlan {
    BootPlan::Refuse { to: to.to_owned(), status, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(name: &str) -> Files {
        Files { kernel: format!("env/{name}/vmlinuz"), initrd: format!("env/{name}/initramfs.xz"), args: vec![] }
    }

    fn lookup(name: &str, arch: Arch) -> Readiness {
        match (name, arch) {
            ("agent-amd64" | "agent-arm64" | "talos", _) => Readiness::Ready(files(name)),
            ("slow", _) => Readiness::NotReady("vmlinuz is being fetched, 40 %".into()),
            ("x86only", Arch::X86_64) => Readiness::Ready(files(name)),
            ("x86only", Arch::Arm64) => Readiness::NoArch(vec![Arch::X86_64]),
            _ => Readiness::NoSuch,
        }
    }

    fn rule(goal: Goal, environment: Option<&str>) -> MachineRule {
        MachineRule {
            goal,
            environment: environment.map(Into::into),
            args: vec!["a=b".into()],
            ..MachineRule::default()
        }
    }

    fn plan(rule: Option<MachineRule>, unknown: Goal, default: Option<&str>, arch: Option<Arch>) -> BootPlan {
        let view = View {
            rule: rule.as_ref(),
            unknown_machines: unknown,
            default_environment: default,
            disk_method: DiskMethod::IpxeSanboot,
            files: &lookup,
        };
        boot(&view, Request { arch, ..Request::default() })
    }

    #[test]
    fn the_table_of_decisions() {
        use Goal::{Agent, Disk, Environment};
        let say = |p: BootPlan| match p {
            BootPlan::Agent { environment, .. } => environment.to_string(),
            BootPlan::Environment { environment, args, .. } => format!("{environment} {args:?}"),
            BootPlan::Disk(method) => format!("{method:?}"),
            BootPlan::Refuse { to, status, .. } => format!("{status} {to}"),
        };
        type Row = (Option<MachineRule>, Goal, Option<&'static str>, Option<Arch>, &'static str);
        let table: &[Row] = &[
            (None, Agent, None, None, "agent-amd64"),
            (None, Agent, Some("talos"), Some(Arch::X86_64), "agent-amd64"),
            (None, Agent, None, Some(Arch::Arm64), "agent-arm64"),
            (None, Environment, Some("talos"), None, "talos []"),
            (None, Environment, None, None, "404 environment"),
            (None, Disk, None, None, "IpxeSanboot"),
            (Some(rule(Agent, None)), Disk, Some("talos"), None, "agent-amd64"),
            (Some(rule(Environment, Some("talos"))), Agent, None, None, r#"talos ["a=b"]"#),
            (Some(rule(Environment, None)), Agent, Some("talos"), None, r#"talos ["a=b"]"#),
            (Some(rule(Environment, Some("slow"))), Agent, Some("talos"), None, "412 environment slow"),
            (Some(rule(Environment, Some("none"))), Agent, Some("talos"), None, "404 environment none"),
            (Some(rule(Environment, Some("x86only"))), Agent, None, Some(Arch::Arm64), "404 environment x86only"),
            (Some(rule(Disk, None)), Agent, Some("talos"), None, "IpxeSanboot"),
            (
                Some(MachineRule { boot_from_disk_method: Some(DiskMethod::Http404), ..rule(Disk, None) }),
                Agent,
                None,
                None,
                "Http404",
            ),
        ];
        for (i, (rule, unknown, default, arch, expected)) in table.iter().enumerate() {
            assert_eq!(say(plan(rule.clone(), *unknown, *default, *arch)), *expected, "row {i}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let BootPlan::Refuse { why, .. } =
            plan(Some(rule(Goal::Environment, Some("x86only"))), Goal::Agent, None, Some(Arch::Arm64))
        else {
            panic!("not refused")
        };
        assert!(why.contains("only for x86_64") && why.contains("stoker.yaml"), "{why}");
    }
}
