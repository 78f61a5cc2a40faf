//! Compiles `conti/v1/*.proto` with protox, so that no protoc has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=conti");
    let mut files: Vec<PathBuf> =
        fs::read_dir("conti/v1")?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Encoded by the compiler itself, which keeps our own options of methods.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    let descriptors = compiler.file_descriptor_set();

    tonic_prost_build::configure()
        // Stream payloads are cut out of the receive buffer instead of being copied.
        .bytes(".")
        // A map that is iterated is written into records and tables: keep one order.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
