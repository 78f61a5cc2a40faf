//! What the host of the tests may not show: Debian's Linux 6.1, cgroup version 2 alone, an initramfs for the root.

use std::{path::Path, process::Command};

use conti_tests::agent::binary;

mod needs_virtual_machine {
    use super::*;

    #[test]
    fn heavy_every_claim_holds_on_an_old_kernel_with_cgroup_version_2_alone() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let binaries = binary("contid").parent().expect("a directory").canonicalize().expect("it");
        let run = Command::new(root.join("scripts/vm/run.sh"))
            .env("CONTI_BIN_DIR", binaries)
            .output()
            .expect("the script runs");
        let told = String::from_utf8_lossy(&run.stdout);
        let warned = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{told}\n{warned}");
        let held = told.lines().filter(|line| line.starts_with("  ok: ")).count();
        assert!(held >= 25, "{held} claims\n{told}");
        // These two are what this kernel is for.
        assert!(told.contains("== Linux 6.") && told.contains("user_namespaces     yes"), "{told}");
    }
}
