use super::*;

const UUID: &str = "6f0c4e2a-0b1d-4c5e-8f90-123456789abc";

const CONFIG: &str = "\
version: v1alpha1
machine:
  type: worker
  network:
    hostname: a
    nameservers: [10.0.0.1]
    interfaces:
      - interface: eth0
        dhcp: true
        vlans: [{vlanId: 5, mtu: 1400}]
  kubelet: {}
cluster:
  network: {podSubnets: [10.244.0.0/16]}
";

fn patches<'a>(json: &'a [ConfigPatch], strategic: &'a [String]) -> Patches<'a> {
    Patches { json, strategic }
}

fn json(op: &str, path: &str, value: Value) -> ConfigPatch {
    ConfigPatch { op: op.into(), path: path.into(), from: String::new(), value }
}

fn documents(text: &str) -> Vec<Value> {
    read(text, "the test").unwrap()
}

fn strategic(config: &str, patch: &str) -> Vec<Value> {
    documents(&render(config, UUID, Patches::default(), patches(&[], &[patch.to_owned()])).unwrap())
}

#[test]
fn class_patches_come_before_those_of_the_server_and_json_before_strategic() {
    let class = [json("replace", "/machine/network/hostname", json!("class"))];
    let class_strategic = ["machine: {network: {hostname: class-strategic}}".to_owned()];
    let server = [
        json("test", "/machine/network/hostname", json!("class-strategic")),
        json("replace", "/machine/network/hostname", json!("server")),
    ];
    let out = render(CONFIG, UUID, patches(&class, &class_strategic), patches(&server, &[])).unwrap();
    assert_eq!(documents(&out)[0]["machine"]["network"]["hostname"], "server");
}

#[test]
fn the_node_label_is_added_to_those_that_are_there_and_never_twice() {
    let labelled = CONFIG.replace("kubelet: {}", "kubelet: {extraArgs: {node-labels: \"a=b\"}}");
    let once = render(&labelled, UUID, Patches::default(), Patches::default()).unwrap();
    let twice = render(&once, UUID, Patches::default(), Patches::default()).unwrap();
    for out in [once, twice] {
        let labels = documents(&out)[0]["machine"]["kubelet"]["extraArgs"]["node-labels"].clone();
        assert_eq!(labels, json!(format!("a=b,{UUID_LABEL}={UUID}")));
    }
}

#[test]
fn lists_append_but_subnets_are_replaced_and_interfaces_matched() {
    let out = strategic(
        CONFIG,
        "machine:\n  network:\n    nameservers: [10.0.0.2]\n    interfaces:\n      - {interface: eth0, mtu: 9000, vlans: [{vlanId: 5, mtu: 1300}, {vlanId: 6}]}\n      - {interface: eth1}\ncluster: {network: {podSubnets: [10.1.0.0/16]}}\n",
    );
    let network = &out[0]["machine"]["network"];
    assert_eq!(network["nameservers"], json!(["10.0.0.1", "10.0.0.2"]));
    assert_eq!(
        network["interfaces"][0],
        json!({"interface": "eth0", "dhcp": true, "mtu": 9000, "vlans": [{"vlanId": 5, "mtu": 1300}, {"vlanId": 6}]})
    );
    assert_eq!(network["interfaces"][1], json!({"interface": "eth1"}));
    assert_eq!(out[0]["cluster"]["network"]["podSubnets"], json!(["10.1.0.0/16"]));
}

#[test]
fn empty_values_leave_what_is_there_but_false_counts() {
    let out = strategic(
        CONFIG,
        "machine: {type: \"\", network: {hostname: null, interfaces: [{interface: eth0, dhcp: false}]}}",
    );
    assert_eq!(out[0]["machine"]["type"], "worker");
    assert_eq!(out[0]["machine"]["network"]["hostname"], "a");
    assert_eq!(out[0]["machine"]["network"]["interfaces"][0]["dhcp"], false);
}

#[test]
fn documents_are_matched_by_identity_added_and_deleted() {
    let two = format!("{CONFIG}---\napiVersion: v1alpha1\nkind: HostnameConfig\nname: x\nauto: stable\n");
    let out = strategic(&two, "apiVersion: v1alpha1\nkind: HostnameConfig\nname: x\nhostname: h\n");
    assert_eq!((out.len(), &out[1]["hostname"], &out[1]["auto"]), (2, &json!("h"), &json!("stable")));
    let out = strategic(&two, "apiVersion: v1alpha1\nkind: HostnameConfig\nname: y\nhostname: h\n");
    assert_eq!(out.len(), 3);
    let out = strategic(&two, "apiVersion: v1alpha1\nkind: HostnameConfig\nname: x\n$patch: delete\n");
    assert_eq!(out.len(), 1);
    let out = strategic(
        CONFIG,
        "machine: {network: {interfaces: [{interface: eth0, $patch: delete}], nameservers: {$patch: delete}}}",
    );
    assert_eq!(out[0]["machine"]["network"], json!({"hostname": "a", "interfaces": []}));
}

#[test]
fn what_does_not_apply_names_its_place_and_never_the_secret() {
    let secret = CONFIG.replace("type: worker", "type: worker\n  token: s3cr3t");
    let missing = [json("replace", "/machine/nothing/here", json!("s3cr3t"))];
    let why = render(&secret, UUID, patches(&missing, &[]), Patches::default()).unwrap_err().to_string();
    assert!(
        why.contains("config patch 1 of the class (replace /machine/nothing/here)") && !why.contains("s3cr3t"),
        "{why}"
    );
    for (patch, part) in [
        ("machine: [1]", "/machine has another type"),
        ("machine: {network: {zone: {$patch: delete}}}", "/machine/network/zone is not there to delete"),
        ("[1]", "a patch is a map"),
        ("machine: {token: \"s3cr3t", "strategic patch 1 of the server is not valid YAML"),
    ] {
        let why = render(&secret, UUID, Patches::default(), patches(&[], &[patch.to_owned()])).unwrap_err().to_string();
        assert!(why.contains(part) && !why.contains("s3cr3t"), "{patch}: {why}");
    }
}

#[test]
fn other_formats_pass_unchanged_and_cannot_be_patched() {
    let cloud = "#cloud-config\nusers: [default]\n";
    assert_eq!(render(cloud, UUID, Patches::default(), Patches::default()).unwrap(), cloud);
    let patch = [json("add", "/a", json!(1))];
    assert_eq!(render(cloud, UUID, patches(&patch, &[]), Patches::default()), Err(Error::NotTalos));
    assert_eq!(render("{not: [yaml", UUID, Patches::default(), Patches::default()).unwrap(), "{not: [yaml");
}

#[test]
fn words_that_yaml_mistakes_survive() {
    let tricky = CONFIG.replace("hostname: a", "hostname: \"no\"\n    mode: \"0644\"\n    ratio: \"1e3\"");
    let out = documents(&render(&tricky, UUID, Patches::default(), Patches::default()).unwrap());
    assert_eq!(out[0]["machine"]["network"]["hostname"], json!("no"));
    assert_eq!(out[0]["machine"]["network"]["mode"], json!("0644"));
    assert_eq!(out[0]["machine"]["network"]["ratio"], json!("1e3"));
}

#[test]
fn the_provider_id_is_ours_unless_the_configuration_has_its_own() {
    let args = |config: &str| {
        let text = render(config, UUID, Patches::default(), Patches::default()).unwrap();
        let document: Value = serde_saphyr::from_str(&text).unwrap();
        document["machine"]["kubelet"]["extraArgs"].clone()
    };
    let ours = args(CONFIG);
    assert_eq!(ours["provider-id"], format!("sidero://{UUID}"));
    assert_eq!(ours["node-labels"], format!("metal.sidero.dev/uuid={UUID}"));
    let own = "version: v1alpha1\nmachine:\n  kubelet:\n    extraArgs: {provider-id: 'aws:///x', node-labels: 'a=b'}\n";
    let kept = args(own);
    assert_eq!(kept["provider-id"], "aws:///x");
    assert_eq!(kept["node-labels"], format!("a=b,metal.sidero.dev/uuid={UUID}"));
}
