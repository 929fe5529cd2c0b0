//! What [`crate::resource::validate`] checks, said in the schema: bounds, and
//! rules in CEL whose message names the remedy.
//!
//! The API server bounds what a rule may cost, by the longest list and text
//! that it may meet; so whatever a rule reads has a bound.

use crate::limits;
use crate::resource::{Kind, OWN_ENVIRONMENTS, Requirement, bounds};
use serde_json::{Value, json};

/// One rule on a part of an object.
struct Rule {
    /// `spec.configPatches[].op`; empty: the whole object.
    at: String,
    rule: String,
    message: String,
}

fn rule(at: impl Into<String>, rule: impl Into<String>, message: impl Into<String>) -> Rule {
    Rule { at: at.into(), rule: rule.into(), message: message.into() }
}

/// One keyword of a schema: at which part, which, how much.
type Bound = (String, &'static str, Value);

fn bound(at: impl Into<String>, keyword: &'static str, most: usize) -> Bound {
    (at.into(), keyword, json!(most))
}

/// Puts rules and bounds of a kind into its schema.
pub fn add(kind: Kind, schema: &mut Value) {
    let (bounds, rules) = match kind {
        Kind::Server => server(),
        Kind::ServerClass => class(),
        Kind::Environment => environment(),
        Kind::ServerBinding => binding(),
        Kind::MetalCluster => cluster("spec"),
        Kind::MetalClusterTemplate => cluster("spec.template.spec"),
        Kind::MetalMachine => machine(),
        Kind::MetalMachineTemplate => machine_template(),
        Kind::MetalRemediation | Kind::MetalRemediationTemplate | Kind::Cluster | Kind::Machine | Kind::Secret => {
            (Vec::new(), Vec::new())
        }
    };
    for (at, keyword, value) in bounds {
        part(schema, &at)[keyword] = value;
    }
    for Rule { at, rule, message } in rules {
        let list = &mut part(schema, &at)["x-kubernetes-validations"];
        let entry = json!({ "rule": rule, "message": message });
        match list {
            Value::Array(list) => list.push(entry),
            _ => *list = json!([entry]),
        }
    }
    // A rule is not asked about a part that is not there.
    match kind {
        Kind::ServerBinding | Kind::MetalMachine => schema["required"] = json!(["spec"]),
        Kind::MetalMachineTemplate => {
            schema["required"] = json!(["spec"]);
            part(schema, "spec")["required"] = json!(["template"]);
            part(schema, "spec.template")["required"] = json!(["spec"]);
        }
        _ => {}
    }
}

/// The schema of a part. A part that is not there is a mistake in the tables
/// below; `every_rule_finds_its_place` looks for it.
fn part<'a>(schema: &'a mut Value, at: &str) -> &'a mut Value {
    at.split('.').filter(|step| !step.is_empty()).fold(schema, |schema, step| {
        let name = step.trim_end_matches("[]");
        let field = &mut schema["properties"][name];
        if step.ends_with("[]") { &mut field["items"] } else { field }
    })
}

const UUID: &str = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$";

fn server() -> (Vec<Bound>, Vec<Rule>) {
    let (mut bounds, mut rules) = patches();
    bounds.extend([
        bound("spec.bmc.endpoint", "maxLength", bounds::TEXT),
        bound("spec.bmc.interface", "maxLength", bounds::TEXT),
        bound("spec.bmc.user", "maxLength", bounds::TEXT),
        bound("spec.bmc.pass", "maxLength", bounds::TEXT),
        bound("spec.bmc.port", "maximum", usize::from(u16::MAX)),
    ]);
    rules.extend([
        rule(
            "",
            format!("self.metadata.name.matches('{UUID}')"),
            "a Server is named by its SMBIOS UUID in lower case, such as 6f0c4e2a-0b1d-4c5e-8f90-123456789abc",
        ),
        rule(
            "",
            "!(self.metadata.name in ['00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff'])",
            "this UUID is a placeholder that many machines share; give the machine an alias by serial number",
        ),
        rule("spec.bmc", "has(self.endpoint) && self.endpoint != ''", "endpoint is missing: the BMC's address or name"),
        rule(
            "spec.bmc",
            "!has(self.user) || self.user == '' || !has(self.userFrom)",
            "both user and userFrom are given; keep one",
        ),
        rule(
            "spec.bmc",
            "!has(self.pass) || self.pass == '' || !has(self.passFrom)",
            "both pass and passFrom are given; keep one",
        ),
        rule(
            "spec.bmc.interface",
            "self in ['', 'lanplus', 'redfish', 'redfish+http', 'none']",
            "expected lanplus, redfish, redfish+http or none",
        ),
        rule(
            "spec.bmc",
            "!has(self.tls) || has(self.interface) && self.interface == 'redfish'",
            "tls is for interface redfish only",
        ),
    ]);
    (bounds, rules)
}

fn class() -> (Vec<Bound>, Vec<Rule>) {
    let (mut bounds, mut rules) = patches();
    bounds.extend([
        bound("spec.qualifiers.requirements", "maxItems", bounds::REQUIREMENTS),
        bound("spec.qualifiers.requirements[]", "maxLength", bounds::REQUIREMENT),
        bound("spec.selector.matchExpressions", "maxItems", bounds::LIST),
    ]);
    rules.extend([
        rule(
            "spec.qualifiers.requirements[]",
            format!("self.matches(r'{}')", Requirement::pattern()),
            format!(
                "not a requirement; write for example `memory >= 64Gi`, `disk.size >= 1TB` or `product = PowerEdge*`; known are {}",
                Requirement::properties().join(", ")
            ),
        ),
        rule(
            "spec.selector.matchExpressions[]",
            "!(self.operator in ['In', 'NotIn']) || has(self.values) && size(self.values) > 0",
            "In and NotIn need values",
        ),
        rule(
            "spec.selector.matchExpressions[]",
            "self.operator in ['In', 'NotIn'] || !has(self.values) || size(self.values) == 0",
            "Exists and DoesNotExist take no values",
        ),
    ]);
    (bounds, rules)
}

/// Patches of a machine's configuration, which Servers and classes have.
fn patches() -> (Vec<Bound>, Vec<Rule>) {
    let bounds = vec![
        bound("spec.configPatches", "maxItems", bounds::LIST),
        bound("spec.configPatches[].op", "maxLength", bounds::TEXT),
        bound("spec.configPatches[].path", "maxLength", bounds::POINTER),
        bound("spec.configPatches[].from", "maxLength", bounds::POINTER),
    ];
    let pointer = "self == '' || self.startsWith('/')";
    let rules = vec![
        rule(
            "spec.configPatches[]",
            "has(self.op) && self.op in ['add', 'remove', 'replace', 'copy', 'move', 'test']",
            "op: expected one of add, remove, replace, copy, move, test",
        ),
        rule(
            "spec.configPatches[]",
            "!has(self.op) || !(self.op in ['copy', 'move']) || has(self.from) && self.from != ''",
            "copy and move need from",
        ),
        rule("spec.configPatches[].path", pointer, "a JSON pointer starts with '/'"),
        rule("spec.configPatches[].from", pointer, "a JSON pointer starts with '/'"),
    ];
    (bounds, rules)
}

fn environment() -> (Vec<Bound>, Vec<Rule>) {
    let mut bounds = Vec::new();
    let mut rules = vec![rule(
        "",
        format!("!(self.metadata.name in {})", list(&OWN_ENVIRONMENTS)),
        "this name is stoker's own agent's; choose another",
    )];
    for at in ["spec", "spec.x86_64", "spec.arm64"] {
        files(at, &mut bounds, &mut rules);
    }
    (bounds, rules)
}

/// What a machine gets, of any architecture or of one.
fn files(at: &str, bounds: &mut Vec<Bound>, rules: &mut Vec<Rule>) {
    let args = format!("{at}.kernel.args");
    bounds.extend([
        bound(args.as_str(), "maxItems", bounds::LIST),
        bound(format!("{args}[]"), "maxLength", limits::ARGS_BYTES),
        bound(format!("{at}.image.efiLoader"), "maxLength", bounds::POINTER),
    ]);
    rules.extend([
        rule(
            format!("{args}[]"),
            "self.matches('^[ -~]*$')",
            "a control character or one outside ASCII; kernel arguments are plain text",
        ),
        rule(
            format!("{args}[]"),
            r"!self.matches(r'(^| )(#|(\|\||&&|;)( |$))')",
            "an operator or a comment to iPXE (||, &&, ;, #)",
        ),
        rule(
            format!("{at}.image.efiLoader"),
            "self.matches('^[!-~]*$')",
            "a space, a control character or one outside ASCII",
        ),
        rule(
            at,
            "!has(self.image) || (!has(self.kernel) || !has(self.kernel.url) || self.kernel.url == '') \
             && (!has(self.initrd) || !has(self.initrd.url) || self.initrd.url == '')",
            "an image and a kernel are given: keep one of them",
        ),
    ]);
    for file in ["kernel", "initrd", "image"] {
        let (url, sum) = (format!("{at}.{file}.url"), format!("{at}.{file}.sha512"));
        bounds.extend([bound(url.as_str(), "maxLength", limits::URL_BYTES), bound(sum.as_str(), "maxLength", 128)]);
        rules.extend([
            rule(
                url,
                "self == '' || self.matches('^(https?://|file:///)[!-~]*$')",
                "expected http://, https:// or file:///",
            ),
            rule(
                sum,
                "self == '' || self.matches('^[0-9a-fA-F]{128}$')",
                "a SHA-512 is 128 hex digits (sha512sum prints them)",
            ),
        ]);
    }
}

/// A list of texts in CEL.
fn list(texts: &[&str]) -> String {
    format!("['{}']", texts.join("', '"))
}

fn binding() -> (Vec<Bound>, Vec<Rule>) {
    let rules = vec![
        rule(
            "",
            format!("self.metadata.name.matches('{UUID}')"),
            "a ServerBinding is named by its Server's UUID in lower case",
        ),
        rule(
            "spec",
            "has(self.metalMachineRef) && has(self.metalMachineRef.name) && self.metalMachineRef.name != ''",
            "metalMachineRef.name is missing: for whom the machine is",
        ),
    ];
    (vec![bound("spec.metalMachineRef.name", "maxLength", bounds::TEXT)], rules)
}

/// A MetalCluster or its template, whose spec stands at `at`.
fn cluster(at: &str) -> (Vec<Bound>, Vec<Rule>) {
    let (endpoint, domains) = (format!("{at}.controlPlaneEndpoint"), format!("{at}.failureDomains"));
    let domain = format!("{domains}[]");
    let bounds = vec![
        bound(format!("{endpoint}.port"), "maximum", usize::from(u16::MAX)),
        bound(domains.as_str(), "maxItems", bounds::FAILURE_DOMAINS),
        // Names differ; the key of a list that is a map must be there.
        (domains.clone(), "x-kubernetes-list-type", json!("map")),
        (domains, "x-kubernetes-list-map-keys", json!(["name"])),
        (domain.clone(), "required", json!(["name"])),
    ];
    let rules = vec![
        rule(
            endpoint,
            "(has(self.host) && self.host != '') == (has(self.port) && self.port > 0)",
            "needs a host and a port (1 to 65535), or neither",
        ),
        rule(domain, "self.name != ''", "each failure domain needs a name of its own: the zone label of its Servers"),
    ];
    (bounds, rules)
}

fn machine() -> (Vec<Bound>, Vec<Rule>) {
    let rules = vec![
        rule("spec", "has(self.serverRef) || has(self.serverClassRef)", "needs a serverRef or a serverClassRef"),
        rule("spec.providerID", "self == '' || self.startsWith('sidero://')", "begins with sidero://"),
        rule(
            "spec",
            "!has(oldSelf.providerID) || oldSelf.providerID == '' || has(self.providerID) && self.providerID == oldSelf.providerID",
            "providerID cannot be changed once it is set",
        ),
    ];
    (vec![bound("spec.providerID", "maxLength", bounds::PROVIDER_ID)], rules)
}

/// That a template is not changed cannot be said here: Cluster API's topology controller tries
/// changes in a dry run, which a rule of a schema cannot tell from a real one.
fn machine_template() -> (Vec<Bound>, Vec<Rule>) {
    let rules = vec![
        rule(
            "spec.template.spec",
            "!has(self.providerID) || self.providerID == ''",
            "a template has no providerID; each machine gets its own",
        ),
        rule("spec.template.spec", "has(self.serverRef) || has(self.serverClassRef)", "needs a serverClassRef"),
    ];
    (vec![bound("spec.template.spec.providerID", "maxLength", bounds::PROVIDER_ID)], rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_finds_its_place() {
        for definition in super::super::DEFINITIONS {
            let spec = (definition.spec)();
            let whole = json!({ "properties": { "spec": spec.clone(), "status": (definition.status)() } });
            let mut ruled = whole.clone();
            add(definition.kind, &mut ruled);
            // Without what was added the parts are what they were: no rule made a part of its own.
            strip(&mut ruled);
            let mut bare = whole;
            strip(&mut bare);
            assert_eq!(ruled, bare, "{}", definition.kind);
        }
    }

    fn strip(schema: &mut Value) {
        if let Value::Object(map) = schema {
            map.retain(|key, _| {
                !["max", "x-kubernetes-v", "x-kubernetes-l", "required"].iter().any(|word| key.starts_with(word))
            });
            map.values_mut().for_each(strip);
        }
    }
}
