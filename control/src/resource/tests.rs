//! Sidero's own examples must apply as they are; what cannot be meant is refused.

use super::*;

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("the test's YAML is right")
}

const SERVER: &str = r#"
apiVersion: metal.sidero.dev/v1alpha2
kind: Server
metadata:
  name: 00000000-0000-0000-0000-d05099d33360
  labels: {my-label: "true"}
spec:
  accepted: true
  hostname: rack-1
  bmc:
    endpoint: 10.0.0.25
    userFrom: {secretKeyRef: {namespace: sidero-system, name: bmc, key: user}}
    passFrom: {secretKeyRef: {namespace: sidero-system, name: bmc, key: pass}}
  configPatches:
    - op: replace
      path: /machine/install
      value: {disk: /dev/sda}
  hardware:
    system: {manufacturer: Supermicro, productName: X11}
    compute: {totalCoreCount: 8, processors: [{manufacturer: Intel, coreCount: 8}]}
    memory: {totalSize: 64 GB}
"#;

const CLASS: &str = r#"
apiVersion: metal.sidero.dev/v1alpha2
kind: ServerClass
metadata: {name: any-intel}
spec:
  qualifiers:
    hardware:
      - system: {manufacturer: Supermicro}
        compute: {processors: [{manufacturer: Intel}]}
      - memory: {totalSize: 1 GB}
    labelSelectors:
      - my-label: "true"
  selector:
    matchExpressions:
      - {key: my-label, operator: In, values: ["true", "yes"]}
"#;

#[test]
fn a_server_of_sideros_documentation_is_read_and_written_back_unchanged() {
    let object = Object::read(yaml(SERVER)).unwrap();
    let server = Server::from_object(&object).unwrap();
    assert!(server.spec.accepted && server.spec.config_patches[0].value["disk"] == "/dev/sda");
    let again = server.to_object();
    assert_eq!(again.spec, object.spec, "no field is lost, none is invented");
}

#[test]
fn a_class_matches_by_hardware_labels_and_selector() {
    let server = Server::from_object(&Object::read(yaml(SERVER)).unwrap()).unwrap();
    let class = |text: &str| ServerClass::from_object(&Object::read(yaml(text)).unwrap()).unwrap().spec;
    assert!(class(CLASS).matches(&server));
    assert!(!class(&CLASS.replace("manufacturer: Intel", "manufacturer: AMD")).matches(&server));
    assert!(!class(&CLASS.replace("- my-label: \"true\"", "- my-label: \"no\"")).matches(&server));
    assert!(!class(&CLASS.replace("operator: In", "operator: NotIn")).matches(&server));
    assert!(
        class(&CLASS.replace("1 GB", "64 GB").replace("Supermicro", "Dell")).matches(&server),
        "hardware entries are alternatives"
    );
    let nothing = "apiVersion: metal.sidero.dev/v1alpha2\nkind: ServerClass\nmetadata: {name: any}\nspec: {}\n";
    assert!(class(nothing).matches(&server), "no qualifier holds for every machine");
}

#[test]
fn all_complaints_come_at_once_and_name_the_field() {
    let text = SERVER
        .replace("00000000-0000-0000-0000-d05099d33360", "Rack_1")
        .replace("op: replace", "op: change")
        .replace("path: /machine", "path: machine")
        .replace("endpoint: 10.0.0.25", "endpoint: 10.0.0.25\n    user: root");
    let said: Vec<String> = Object::read(yaml(&text)).unwrap_err().iter().map(ToString::to_string).collect();
    for part in ["metadata.name", "configPatches[0].op", "starts with '/'", "both user and userFrom", "SMBIOS UUID"] {
        assert!(said.iter().any(|s| s.contains(part)), "{part} in {said:#?}");
    }
}

#[test]
fn what_is_not_ours_is_refused_with_what_would_be() {
    let wrong = SERVER.replace("v1alpha2", "v1alpha1");
    assert!(Object::read(yaml(&wrong)).unwrap_err()[0].to_string().contains("v1alpha2"));
    assert!(Object::read(yaml("{kind: Pod, apiVersion: v1}")).unwrap_err()[0].to_string().contains("expected one of"));
    let unset = SERVER.replace("00000000-0000-0000-0000-d05099d33360", "ffffffff-ffff-ffff-ffff-ffffffffffff");
    assert!(Object::read(yaml(&unset)).unwrap_err()[0].to_string().contains("placeholder"));
    let method = SERVER.replace("accepted: true", "accepted: true\n  bootFromDiskMethod: grub");
    assert!(Object::read(yaml(&method)).unwrap_err()[0].to_string().contains("ipxe-exit"));
}

#[test]
fn kinds_are_found_by_what_people_type() {
    for (word, kind) in [
        ("server", Kind::Server),
        ("servers", Kind::Server),
        ("Server", Kind::Server),
        ("serverclasses", Kind::ServerClass),
        ("class", Kind::ServerClass),
        ("environments", Kind::Environment),
        ("env", Kind::Environment),
        ("bindings", Kind::ServerBinding),
        ("secrets", Kind::Secret),
        ("metalmachines", Kind::MetalMachine),
        ("metalclusters", Kind::MetalCluster),
        ("machines", Kind::Machine),
    ] {
        assert_eq!(Kind::from_word(word), Some(kind), "{word}");
    }
    assert_eq!(Kind::from_word("pods"), None);
}

#[test]
fn sizes_are_read_as_people_write_them() {
    assert_eq!(bytes_of("64 GB", false), Some(64 << 30));
    assert_eq!(bytes_of("64Gi", true), Some(64 << 30));
    assert_eq!(bytes_of("2TB", true), Some(2_000_000_000_000));
    assert_eq!(bytes_of("1.5 MiB", false), Some(3 << 19));
    assert_eq!(bytes_of("12", false), Some(12));
    for bad in ["", "GB", "1 XB", "-1", "1e400"] {
        assert_eq!(bytes_of(bad, false), None, "{bad}");
    }
    assert_eq!((size_text(64 << 30, false), size_text(2_000_000_000_000, true)), ("64 GB".into(), "2 TB".into()));
}
