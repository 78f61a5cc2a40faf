//! The API is not Rust's alone: a client generated from the proto files in Python.

/// grpcio-tools in a virtual environment, made by scripts/setup-test.sh.
mod needs_python_client {
    use std::{path::Path, process::Command};

    use conti_tests::Agent;

    #[test]
    fn a_python_client_creates_executes_and_resumes() {
        let agent = Agent::start();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let python = repository.join(".tools/venv/bin/python");
        assert!(python.is_file(), "scripts/setup-test.sh makes {}", python.display());

        let generated = agent.scratch("generated");
        std::fs::create_dir(&generated).expect("a directory");
        let mut files: Vec<_> = std::fs::read_dir(repository.join("proto/conti/v1"))
            .expect("the proto files")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        let generate = Command::new(&python)
            .args(["-m", "grpc_tools.protoc"])
            .arg("-I")
            .arg(repository.join("proto"))
            .arg(format!("--python_out={}", generated.display()))
            .arg(format!("--grpc_python_out={}", generated.display()))
            .args(&files)
            .output()
            .expect("python can be started");
        assert!(generate.status.success(), "{}", String::from_utf8_lossy(&generate.stderr));

        let client = Command::new(&python)
            .arg(repository.join("tests/python/client.py"))
            .arg(agent.url())
            .env("PYTHONPATH", &generated)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .expect("python can be started");
        assert!(
            client.status.success(),
            "{}{}",
            String::from_utf8_lossy(&client.stdout),
            String::from_utf8_lossy(&client.stderr)
        );
        agent.finish();
    }

    #[test]
    fn generic_tools_find_health_and_reflection() {
        let agent = Agent::start();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let output = Command::new(repository.join(".tools/venv/bin/python"))
            .arg(repository.join("tests/python/discovery.py"))
            .arg(agent.url())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .expect("python can be started");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        for service in ["AgentService", "ContainerService", "SessionService"] {
            assert!(said.contains(&format!("conti.v1.{service}")), "{said}");
        }
        assert!(said.contains("SERVING"), "{said}");
        agent.finish();
    }
}
