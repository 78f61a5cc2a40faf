//! What holds for every method of the contract.

use prost_reflect::{DescriptorPool, Value};

/// Rights are put on methods by what they touch: none may leave it open.
#[test]
fn every_method_says_what_it_touches() {
    let pool = DescriptorPool::decode(conti_proto::DESCRIPTORS).expect("descriptors");
    let touch = pool.get_extension_by_name("conti.v1.touch").expect("the option");
    let mut methods = 0;
    for service in pool.services().filter(|service| service.package_name() == "conti.v1") {
        for method in service.methods() {
            let options = method.options();
            let value = options.get_extension(&touch).into_owned();
            let Value::EnumNumber(number) = value else { panic!("{value:?} is no enum") };
            assert_ne!(number, 0, "{} does not say what it touches", method.full_name());
            // What only shows something is named so.
            let shows = ["Get", "List", "Watch", "Read", "Measure", "Wait"]
                .iter()
                .any(|verb| method.name().starts_with(verb));
            assert_eq!(number == 1, shows, "{}", method.full_name());
            methods += 1;
        }
    }
    assert!(methods >= 30, "{methods} methods");
}
