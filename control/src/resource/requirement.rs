//! Conditions on hardware in words: `memory >= 64Gi`, `disk.size >= 1Ti`,
//! `manufacturer = "Dell*"`. Ours; Sidero's qualifiers know only equality.

use super::bounds::REQUIREMENT as MAX_TEXT;
use super::quantity::bytes_of;
use super::server::{Hardware, System};
use std::fmt;
use std::str::FromStr;

/// One condition; a machine that does not tell the property does not satisfy it.
#[derive(Clone, PartialEq, Debug)]
pub struct Requirement {
    property: Property,
    comparison: Comparison,
    operand: Operand,
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Property {
    Memory,
    Cores,
    Threads,
    Processors,
    CpuSpeed,
    CpuModel,
    Disks,
    DiskSize,
    DiskType,
    DiskModel,
    Storage,
    Interfaces,
    Manufacturer,
    Product,
    Serial,
    Sku,
    Family,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    Less,
    AtMost,
    Equal,
    Not,
    AtLeast,
    More,
}

#[derive(Clone, PartialEq, Debug)]
enum Operand {
    Number(u64),
    /// Lower case; `*` stands for any text.
    Text(String),
}

/// How a property is written and measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Count,
    /// Bytes; `GB` is 2^30 (memory) or 10^9 (`decimal`, disks).
    Bytes {
        decimal: bool,
    },
    Text,
}

impl Property {
    const ALL: [(Self, &'static str, Unit); 17] = [
        (Self::Memory, "memory", Unit::Bytes { decimal: false }),
        (Self::Cores, "cores", Unit::Count),
        (Self::Threads, "threads", Unit::Count),
        (Self::Processors, "processors", Unit::Count),
        (Self::CpuSpeed, "cpu.mhz", Unit::Count),
        (Self::CpuModel, "cpu.model", Unit::Text),
        (Self::Disks, "disks", Unit::Count),
        (Self::DiskSize, "disk.size", Unit::Bytes { decimal: true }),
        (Self::DiskType, "disk.type", Unit::Text),
        (Self::DiskModel, "disk.model", Unit::Text),
        (Self::Storage, "storage", Unit::Bytes { decimal: true }),
        (Self::Interfaces, "interfaces", Unit::Count),
        (Self::Manufacturer, "manufacturer", Unit::Text),
        (Self::Product, "product", Unit::Text),
        (Self::Serial, "serial", Unit::Text),
        (Self::Sku, "sku", Unit::Text),
        (Self::Family, "family", Unit::Text),
    ];
}

/// Why a text is not a requirement; says what would be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadRequirement(String);

impl FromStr for Requirement {
    type Err = BadRequirement;

    fn from_str(text: &str) -> Result<Self, BadRequirement> {
        let bad = |what: String| Err(BadRequirement(what));
        if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
            return bad(format!("longer than {MAX_TEXT} bytes, or not plain text"));
        }
        let Some(at) = text.find(['<', '>', '=', '!']) else {
            return bad("no comparison; write for example `memory >= 64Gi` or `product = PowerEdge*`".into());
        };
        let (name, rest) = text.split_at(at);
        let operators = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("!=", Comparison::Not),
            ("==", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::More),
            ("=", Comparison::Equal),
        ];
        let Some((comparison, value)) = operators.iter().find_map(|(sign, c)| Some((*c, rest.strip_prefix(sign)?)))
        else {
            return bad("the comparison is none of <, <=, =, !=, >=, >".into());
        };
        let name = name.trim();
        let Some(&(property, _, unit)) = Property::ALL.iter().find(|(_, word, _)| word.eq_ignore_ascii_case(name))
        else {
            let known: Vec<&str> = Property::ALL.iter().map(|(_, word, _)| *word).collect();
            return bad(format!("{name:?} is no property of a machine; known are {}", known.join(", ")));
        };
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        let operand = match unit {
            Unit::Text if !matches!(comparison, Comparison::Equal | Comparison::Not) => {
                return bad(format!("{name} is a text: only = and != compare it"));
            }
            Unit::Text if value.is_empty() => return bad(format!("{name} is compared with nothing")),
            Unit::Text => Operand::Text(value.to_ascii_lowercase()),
            Unit::Count => match value.parse() {
                Ok(n) => Operand::Number(n),
                Err(_) => return bad(format!("{name} is compared with a whole number, not {value:?}")),
            },
            Unit::Bytes { decimal } => match bytes_of(value, decimal) {
                Some(n) => Operand::Number(n),
                None => return bad(format!("{name} is compared with a size such as 64Gi or 2TB, not {value:?}")),
            },
        };
        Ok(Self { property, comparison, operand })
    }
}

impl Requirement {
    /// The properties that can be asked for.
    pub fn properties() -> Vec<&'static str> {
        Property::ALL.iter().map(|(_, name, _)| *name).collect()
    }

    /// A regular expression (RE2) for what [`Requirement::from_str`] takes, for the schema of a
    /// cluster. It takes everything that is taken here, and little else.
    pub fn pattern() -> String {
        let of = |wanted: fn(Unit) -> bool| {
            let names = Property::ALL.iter().filter(|(_, _, unit)| wanted(*unit)).map(|(_, name, _)| *name);
            names.collect::<Vec<_>>().join("|").replace('.', r"\.")
        };
        let any = "(<=|>=|!=|==|<|>|=)";
        let count = format!(r#"({})\s*{any}\s*"?\+?[0-9]+"?"#, of(|u| u == Unit::Count));
        let bytes =
            format!(r#"({})\s*{any}\s*"?\s*[0-9.]+\s*([kmgtp]i?)?b*\s*"?"#, of(|u| matches!(u, Unit::Bytes { .. })));
        let text = format!(r#"({})\s*(!=|==|=)\s*[^\s"=].*|({0})\s*(!=|==|=)\s*"[^"].*"#, of(|u| u == Unit::Text));
        format!(r"^(?i)\s*({count}|{bytes}|{text})\s*$")
    }

    /// Whether a machine satisfies it; of `disk.*` and `cpu.*` one disk or processor that does is enough.
    pub fn holds(&self, hardware: &Hardware) -> bool {
        match &self.operand {
            Operand::Number(want) => {
                numbers(self.property, hardware).into_iter().any(|have| self.comparison.of(have.cmp(want)))
            }
            Operand::Text(want) => texts(self.property, hardware).into_iter().filter(|t| !t.is_empty()).any(|have| {
                let same = glob(want, &have.to_ascii_lowercase());
                same == (self.comparison == Comparison::Equal)
            }),
        }
    }
}

impl Comparison {
    fn of(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::Not => order.is_ne(),
            Self::AtLeast => order.is_ge(),
            Self::More => order.is_gt(),
        }
    }

    const fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Equal => "=",
            Self::Not => "!=",
            Self::AtLeast => ">=",
            Self::More => ">",
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Property::ALL.iter().find(|(p, ..)| *p == self.property).map_or("", |(_, name, _)| *name);
        write!(out, "{name} {} ", self.comparison.sign())?;
        match &self.operand {
            Operand::Number(n) => write!(out, "{n}"),
            Operand::Text(t) => write!(out, "{t:?}"),
        }
    }
}

/// The numbers that a machine tells of a property; zero is what firmware writes where it does not know.
fn numbers(property: Property, hardware: &Hardware) -> Vec<u64> {
    let compute = hardware.compute.as_ref();
    let memory = hardware.memory.as_ref();
    let storage = hardware.storage.as_ref();
    let count = |n: Option<u32>| n.filter(|n| *n > 0).map(u64::from).into_iter().collect();
    match property {
        Property::Cores => count(compute.map(|c| c.total_core_count)),
        Property::Threads => count(compute.map(|c| c.total_thread_count)),
        Property::Processors => count(compute.map(|c| c.processor_count)),
        Property::CpuSpeed => {
            let speeds = compute.into_iter().flat_map(|c| &c.processors).map(|p| u64::from(p.speed));
            speeds.filter(|mhz| *mhz > 0).collect()
        }
        Property::Memory => {
            // The modules are exact; the text is rounded down to its unit.
            let sizes = memory.into_iter().flat_map(|m| &m.modules).map(|m| u64::from(m.size) << 20);
            let modules = sizes.fold(0, u64::saturating_add);
            let text = memory.and_then(|m| bytes_of(&m.total_size, false));
            Some(modules).filter(|b| *b > 0).or(text).into_iter().collect()
        }
        // No disk at all is a fact, once an inventory is there.
        Property::Disks => storage.map(|s| s.devices.len() as u64).into_iter().collect(),
        Property::DiskSize => storage.into_iter().flat_map(|s| &s.devices).map(|d| d.size).collect(),
        Property::Storage => {
            storage.map(|s| s.devices.iter().map(|d| d.size).fold(0, u64::saturating_add)).into_iter().collect()
        }
        Property::Interfaces => count(hardware.network.as_ref().map(|n| {
            let cards = n.interfaces.iter().filter(|i| !i.mac.is_empty()).count();
            u32::try_from(cards).unwrap_or(u32::MAX)
        })),
        _ => Vec::new(),
    }
}

fn texts(property: Property, hardware: &Hardware) -> Vec<&str> {
    let disks = || hardware.storage.iter().flat_map(|s| &s.devices);
    let system = hardware.system.as_ref();
    let one = |field: fn(&System) -> &String| system.map(|s| vec![field(s).trim()]).unwrap_or_default();
    match property {
        Property::CpuModel => {
            hardware.compute.iter().flat_map(|c| &c.processors).map(|p| p.product_name.as_str().trim()).collect()
        }
        Property::DiskType => disks().map(|d| d.r#type.as_str()).collect(),
        Property::DiskModel => disks().map(|d| d.product_name.as_str().trim()).collect(),
        Property::Manufacturer => one(|s| &s.manufacturer),
        Property::Product => one(|s| &s.product_name),
        Property::Serial => one(|s| &s.serial_number),
        Property::Sku => one(|s| &s.sku_number),
        Property::Family => one(|s| &s.family),
        _ => Vec::new(),
    }
}

/// Whether a text fits a pattern in which `*` stands for any text. Linear in
/// the text for each star.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return text.is_empty() };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(middle) = last.replace(part) {
            let Some((_, after)) = rest.split_once(middle) else { return false };
            rest = after;
        }
    }
    last.map_or(rest.is_empty(), |end| rest.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::super::server::{Compute, Memory, Processor, Storage, StorageDevice};
    use super::*;
    use proptest::prelude::*;

    fn machine() -> Hardware {
        let disk = |size, kind: &str| StorageDevice { size, r#type: kind.into(), ..StorageDevice::default() };
        Hardware {
            system: Some(System {
                manufacturer: "Dell Inc.".into(),
                product_name: "PowerEdge R650".into(),
                ..System::default()
            }),
            compute: Some(Compute {
                total_core_count: 32,
                processors: vec![Processor { speed: 2900, ..Processor::default() }],
                ..Compute::default()
            }),
            memory: Some(Memory { total_size: "64 GB".into(), ..Memory::default() }),
            storage: Some(Storage {
                devices: vec![disk(480_000_000_000, "SSD"), disk(4_000_000_000_000, "NVMe")],
                ..Storage::default()
            }),
            network: None,
        }
    }

    #[test]
    fn the_table_of_requirements() {
        for (text, expected) in [
            ("memory >= 64Gi", true),
            ("memory >= 64GB", true),
            ("memory > 64Gi", false),
            ("memory < 128 GiB", true),
            ("cores>=16", true),
            ("cores = 32", true),
            ("Cores != 32", false),
            ("threads >= 1", false),
            ("cpu.mhz >= 2500", true),
            ("disks = 2", true),
            ("disk.size >= 4TB", true),
            ("disk.size > 4Ti", false),
            ("storage >= 4.4TB", true),
            ("disk.type = nvme", true),
            ("disk.type = hdd", false),
            ("manufacturer = \"dell inc.\"", true),
            ("manufacturer != Dell*", false),
            ("product = PowerEdge*", true),
            ("product = *R6*0", true),
            ("product = *R7*", false),
            ("interfaces >= 1", false),
        ] {
            let requirement: Requirement = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(requirement.holds(&machine()), expected, "{text}");
            assert!(!requirement.holds(&Hardware::default()), "{text}: a machine that tells nothing satisfies nothing");
        }
    }

    #[test]
    fn what_is_no_requirement_says_what_would_be() {
        for (text, word) in [
            ("", "no comparison"),
            ("memory", "no comparison"),
            ("memory ! 3", "none of"),
            ("ram >= 3", "known are memory"),
            ("memory >= much", "64Gi"),
            ("cores >= 3.5", "whole number"),
            ("product > A", "only = and !="),
            ("product = ", "with nothing"),
            ("memory >= 1\n", "plain text"),
        ] {
            let why = text.parse::<Requirement>().unwrap_err().to_string();
            assert!(why.contains(word), "{text:?}: {why}");
        }
    }

    proptest! {
        #[test]
        fn a_requirement_that_is_written_reads_back_the_same(n in 0_u64..1 << 40, at in 0_usize..6) {
            let sign = ["<", "<=", "=", "!=", ">=", ">"][at];
            let first: Requirement = format!("memory {sign} {n}").parse().unwrap();
            prop_assert_eq!(first.to_string().parse::<Requirement>().unwrap(), first);
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,64}", pattern in "[a*]{0,8}", have in "[ab]{0,8}") {
            let _ = text.parse::<Requirement>();
            let slow = regex_like(pattern.as_bytes(), have.as_bytes());
            prop_assert_eq!(glob(&pattern, &have), slow, "{} on {}", pattern, have);
        }
    }

    /// The plain definition of `*`.
    fn regex_like(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], text) => (0..=text.len()).any(|i| regex_like(rest, &text[i..])),
            ([p, rest @ ..], [t, more @ ..]) => p == t && regex_like(rest, more),
            _ => false,
        }
    }
}
