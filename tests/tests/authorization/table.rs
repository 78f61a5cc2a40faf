//! The table of docs/authorization.md.

use std::{collections::BTreeMap, fs, path::Path};

use conti_proto::{METHODS, v1::Role};

/// A method in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub service: String,
    pub role: String,
}

/// The methods in the table, by name.
pub fn rows() -> BTreeMap<String, Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/authorization.md");
    let text = fs::read_to_string(path).expect("the document");
    let (_, methods) = text.split_once("\n## The methods\n").expect("a section of methods");
    let lines = methods.lines().filter(|line| line.contains("Service."));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, method, role, rule, _] = cells[..] else { panic!("{line}") };
            assert!(!rule.is_empty(), "{line}");
            let (service, name) = method.split_once('.').expect("a service and a method");
            (name.to_owned(), Row { service: service.to_owned(), role: role.to_owned() })
        })
        .collect()
}

#[test]
fn each_method_of_the_contract_is_in_the_table_with_its_role_and_no_other() {
    let contract: BTreeMap<String, Row> = METHODS
        .iter()
        .map(|(path, role)| {
            let (service, name) =
                path.trim_start_matches("/conti.v1.").split_once('/').expect("a path");
            let role = match role {
                Role::Guest => "guest",
                Role::Viewer => "viewer",
                Role::Operator => "operator",
                Role::Admin => "admin",
                Role::Unspecified => panic!("{path} has no role"),
            };
            (name.to_owned(), Row { service: service.to_owned(), role: role.to_owned() })
        })
        .collect();
    assert_eq!(contract.len(), METHODS.len(), "two methods have one name");
    assert_eq!(rows(), contract);
}
