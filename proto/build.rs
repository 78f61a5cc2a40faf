//! Compiles `conti/v1/*.proto` with protox, so that no protoc has to be installed, and writes the table
//! of methods and the least role that each of them needs.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, Value};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=conti");
    let mut files: Vec<PathBuf> =
        fs::read_dir("conti/v1")?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Encoded by the compiler itself, which keeps our own options of methods.
    let encoded = compiler.encode_file_descriptor_set();
    fs::write(out.join("methods.rs"), methods(&DescriptorPool::decode(&*encoded)?)?)?;
    fs::write(out.join("descriptors.bin"), encoded)?;
    let descriptors = compiler.file_descriptor_set();

    tonic_prost_build::configure()
        // Stream payloads are cut out of the receive buffer instead of being copied.
        .bytes(".")
        // A map that is iterated is written into records and tables: keep one order.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}

/// The table of methods. One that does not say who may call it fails the build.
fn methods(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let least_role = pool
        .get_extension_by_name("conti.v1.least_role")
        .ok_or("options.proto does not define least_role")?;
    let mut table = String::from("&[\n");
    for service in pool.services().filter(|service| service.package_name() == "conti.v1") {
        for method in service.methods() {
            let (service, method, options) = (service.full_name(), method.name(), method.options());
            let role = match options.get_extension(&least_role).as_ref() {
                Value::EnumNumber(2) => "Viewer",
                Value::EnumNumber(3) => "Operator",
                Value::EnumNumber(4) => "Admin",
                Value::EnumNumber(1) => "Guest",
                _ => return Err(format!("{service}.{method} has no option least_role").into()),
            };
            writeln!(table, "    (\"/{service}/{method}\", v1::Role::{role}),")?;
        }
    }
    table.push(']');
    Ok(table)
}
