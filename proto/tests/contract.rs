//! What holds for every method of the contract.

use conti_proto::v1::Role;
use prost_reflect::DescriptorPool;

/// That no method leaves its least role open is seen to by build.rs.
#[test]
fn what_only_shows_something_is_for_viewers_unless_it_shows_files_input_or_who_may_connect() {
    assert!(conti_proto::METHODS.len() >= 30);
    for (path, role) in conti_proto::METHODS {
        let (service, method) = path[1..].split_once('/').expect("a service and a method");
        let shows = ["Get", "List", "Watch", "Read", "Measure", "Wait"]
            .iter()
            .any(|verb| method.starts_with(verb));
        let guarded = ["conti.v1.FileService", "conti.v1.PkiService"].contains(&service)
            || method.contains("Recording");
        match role {
            Role::Viewer if method == "Stream" || method == "RenewCertificate" => {}
            Role::Viewer => assert!(shows, "{path} changes something"),
            Role::Guest => assert_eq!(*path, "/conti.v1.JoinService/Join"),
            _ => assert!(!shows || guarded, "{path} only shows something"),
        }
    }
}

#[test]
fn the_table_names_every_method_of_every_service() {
    let pool = DescriptorPool::decode(conti_proto::DESCRIPTORS).expect("descriptors");
    let services = pool.services().filter(|service| service.package_name() == "conti.v1");
    let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut paths: Vec<String> = methods
        .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()))
        .collect();
    let mut table: Vec<String> = conti_proto::METHODS.iter().map(|(p, _)| (*p).into()).collect();
    paths.sort();
    table.sort();
    assert_eq!(table, paths);
}
