use super::*;
use std::path::PathBuf;

const WRITE: &str = "cargo run -p stoker-control --bin stoker -- crds --out assets/deploy/crds";

#[test]
fn what_is_committed_is_what_the_types_give() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../assets/deploy/crds");
    let mut wanted = Vec::new();
    for definition in all() {
        let name = file_name(&definition);
        let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(committed == yaml(&definition).unwrap(), "{name} is not what the types give; write it by: {WRITE}");
        wanted.push(name);
    }
    let (name, text) = kustomization();
    assert!(std::fs::read_to_string(folder.join(name)).unwrap_or_default() == text, "{name}; write it by: {WRITE}");
    wanted.push(name.to_owned());
    let mut there: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    wanted.sort();
    assert_eq!(there, wanted, "a definition without a type; write them by: {WRITE}");
}

/// The rules of structural schemas (apiextensions.k8s.io/v1) that can be broken by a generator.
#[test]
fn schemas_are_structural() {
    fn check(schema: &Value, path: &str) {
        let map = schema.as_object().unwrap_or_else(|| panic!("{path} is not an object: {schema}"));
        for word in map.keys() {
            let known = [
                "type",
                "description",
                "properties",
                "required",
                "items",
                "additionalProperties",
                "enum",
                "format",
                "minimum",
                "maximum",
                "maxItems",
                "maxLength",
                "x-kubernetes-validations",
                "x-kubernetes-list-type",
                "x-kubernetes-list-map-keys",
                "x-kubernetes-preserve-unknown-fields",
            ];
            assert!(
                known.contains(&word.as_str()),
                "{path}: {word} is no word of a structural schema that is used here"
            );
        }
        let anything = map.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
        assert!(anything || map.get("type").is_some_and(Value::is_string), "{path} has no type: {schema}");
        for (name, inner) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            check(inner, &format!("{path}.{name}"));
        }
        for word in ["items", "additionalProperties"] {
            if let Some(inner) = map.get(word) {
                check(inner, &format!("{path}[]"));
            }
        }
    }
    for definition in all() {
        check(
            &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
            definition["metadata"]["name"].as_str().unwrap(),
        );
    }
}

#[test]
fn every_kind_of_ours_is_defined_once() {
    for kind in Kind::ALL {
        let ours = !matches!(kind, Kind::Secret | Kind::Cluster | Kind::Machine);
        assert_eq!(DEFINITIONS.iter().filter(|d| d.kind == kind).count(), usize::from(ours), "{kind}");
        assert!(!plural(kind).is_empty(), "{kind}");
    }
}

/// What Cluster API's contract wants of a provider's kinds.
#[test]
fn c1_c2_c3_the_kinds_of_cluster_api_have_its_names_labels_and_scope() {
    for definition in all().iter().filter(|d| d["spec"]["names"]["kind"].as_str().unwrap().starts_with("Metal")) {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap().to_lowercase();
        assert_eq!(definition["metadata"]["name"], format!("{kind}s.infrastructure.cluster.x-k8s.io"));
        assert_eq!(definition["spec"]["scope"], "Namespaced");
        let version = &definition["spec"]["versions"][0];
        for contract in ["v1beta1", "v1beta2"] {
            assert_eq!(definition["metadata"]["labels"][format!("cluster.x-k8s.io/{contract}")], version["name"]);
        }
        assert_eq!(version["subresources"], json!({"status": {}}));
    }
}

#[test]
fn words_of_the_code_do_not_reach_the_user() {
    for definition in all() {
        let text = definition.to_string();
        for word in ["[`", "`]", "Ours: "] {
            assert!(!text.contains(word), "{word} in {}", definition["metadata"]["name"]);
        }
    }
}
