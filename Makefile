# make demo    build, start a private agent, do the main job for real, leave nothing behind
# make demo-remote  the same from another machine: two hosts from network namespaces, invite, join, run
# make shell   build, start a private agent, leave you in a shell in a fresh container
# make test    install what the tests need, then run every check and every test
# make test-vm what needs an old kernel, cgroup version 2 alone or vsock, in an emulated machine
# make fuzz    fuzz with libFuzzer: TARGET=mountinfo for one alone, SECONDS=3600 for how long each (600)
# make bench   time Conti against its peers and write docs/benchmarks.md
# make build   only the release binaries, in target/bin
# make fmt     format the sources; make lint, the checks that need no root; make clean
#
# All but build, fmt, fuzz, lint and clean need root.

.PHONY: demo demo-remote shell test test-vm fuzz bench build fmt lint clean

demo: build
	@scripts/demo.sh

demo-remote: build
	@scripts/demo-remote.sh

shell: build
	@scripts/shell.sh

test:
	@scripts/test.sh

test-vm:
	@scripts/vm/run.sh

fuzz:
	@scripts/fuzz.sh "$(TARGET)" $(SECONDS)

bench: build
	@scripts/bench/run.sh

build:
	@scripts/build.sh

fmt:
	cargo fmt --all

lint:
	@scripts/setup-test.sh
	@scripts/lint.sh

clean:
	cargo clean
	rm -rf .tools node_modules
