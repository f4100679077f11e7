# vonic. `make test` is the whole test suite; it sets up its test bed itself (Debian, root or sudo). Rust is assumed to be there.

TARGET := $(or $(CARGO_TARGET_DIR),target)
# A clean checkout that is built once has no use for what makes the next build short.
ifdef CI
export CARGO_INCREMENTAL := 0
endif
# What runs in guests, the agent and the tests' own traffic tool, is linked statically so that it runs in any; its own folder, since it
# has its own flags.
GUEST_TARGET := --target x86_64-unknown-linux-gnu --target-dir $(TARGET)/guest
GUEST_FLAGS := RUSTFLAGS="-C target-feature=+crt-static"
PEER_BUILD := $(GUEST_FLAGS) CARGO_PROFILE_RELEASE_LTO=off cargo build --quiet --release -p vonic-peer $(GUEST_TARGET)
AGENT_BUILD := $(GUEST_FLAGS) cargo build --quiet --profile guest -p vonic-agent $(GUEST_TARGET)

# Variants of vonicd for tests alone, built of the same parts as the tests and put where nobody takes them for the other: $(call variant,NAME,FEATURE).
variant = cargo build --quiet -p vonic-daemon --features $(2) && mkdir -p $(TARGET)/$(1)/debug && rm -f $(TARGET)/$(1)/debug/vonicd && mv $(TARGET)/debug/vonicd $(TARGET)/$(1)/debug/

.PHONY: build lab-build man deb agent-deb install uninstall docs-reference manual next-build crash-build testbed fmt lint deny reproducible test long-test crash-test soak fuzz asan demo bench bench-takeover bench-connections bench-micro

build:
	cargo build --release -p vonic-daemon
	$(PEER_BUILD)
	$(AGENT_BUILD)

# What `make test` runs: as released, but not optimized across crates, which takes minutes.
lab-build:
	cargo build --quiet --profile lab -p vonic-daemon
	$(PEER_BUILD)
	$(AGENT_BUILD)

# Man pages and completions, of the programs' own definitions: $(TARGET)/man and $(TARGET)/completions; and what they are made of,
# $(TARGET)/vonic.cdx.json.
man:
	rm -rf $(TARGET)/man $(TARGET)/completions
	cargo run --quiet -p vonic-packaging -- man $(TARGET)/man
	cargo run --quiet -p vonic-packaging -- completions $(TARGET)/completions
	cargo run --quiet -p vonic-packaging -- bill $(TARGET)/vonic.cdx.json

# The host's Debian package: $(TARGET)/deb/vonic_VERSION_amd64.deb. Needs dpkg-deb, and binutils.
deb: man
	cargo build --release -p vonic-daemon
	sh packaging/package.sh host $(TARGET)/release $(TARGET) $(TARGET)/deb

# Behind `make build man`, which need no root. PREFIX (/usr/local) and DESTDIR say where to; uninstall leaves /etc/vonic.
install:
	@test -x $(TARGET)/release/vonicd -a -d $(TARGET)/man || { echo "nothing to install yet: make build man"; exit 1; }
	sh packaging/install.sh install $(TARGET)/release $(TARGET)

uninstall:
	sh packaging/install.sh uninstall

# The pages of the manual that are made: commands, metrics, the table of drop reasons, the list of decisions.
docs-reference:
	cargo run --quiet -p vonic-packaging -- manual

# The manual as a book: $(TARGET)/manual/backend/docs/index.html. What it leads to beside its pages lies around it.
manual:
	@command -v mdbook >/dev/null || { echo "mdbook is missing: cargo install mdbook --locked"; exit 1; }
	mdbook build backend/docs --dest-dir $(abspath $(TARGET))/manual/backend/docs
	cargo run --quiet -p vonic-packaging -- outside $(TARGET)/manual

# The agent's Debian package: $(TARGET)/guest/vonic-agent_VERSION_amd64.deb. Needs dpkg-deb.
agent-deb:
	$(AGENT_BUILD)
	sh packaging/package.sh agent $(TARGET)/guest/x86_64-unknown-linux-gnu/guest/vonic-agent $(TARGET)/guest

# It writes the formats after this one's, and tests upgrade to it.
next-build:
	$(call variant,next,next-format)

# Its engine dies on demand.
crash-build:
	$(call variant,crash,crash-points)

# Host packages, lab root, kernel and initramfs: once per machine, in /var/cache/vonic-testbed or $$VONIC_TESTBED.
testbed:
	sh tests/support/setup.sh

fmt:
	cargo fmt --all

lint:
	cargo fmt --all -- --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	cargo clippy --quiet -p vonic-daemon --features crash-points -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps

# What the programs are built of (backend/docs/supply-chain.md). `make test` holds it against the same lists without cargo-deny.
deny:
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: cargo install cargo-deny --locked"; exit 1; }
	cargo deny --workspace --locked check licenses bans sources

# Are vonicd and vonic the same bytes wherever they are built? Two release builds.
reproducible:
	sh packaging/reproducible.sh $(TARGET)/reproducible

# Its last line is "N passed, N failed, N skipped".
test: testbed lint lab-build next-build crash-build
	VONIC_BIN_DIR=$(abspath $(TARGET))/lab sh tests/support/run.sh

# What takes minutes instead of seconds: the seeded simulation of a TCP leg and its property test; scale, loss and names at length; real
# applications everywhere.
long-test: testbed build
	VONIC_SIMULATION_SEEDS=$(or $(SEEDS),10000) cargo test -p vonic-tcp --test simulation
	PROPTEST_CASES=20000 cargo test -p vonic-tcp --test mechanisms random
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sh $(CURDIR)/tests/support/root.sh" VONIC_LONG=1 \
		cargo test -p vonic-tests --test e2e_tcp --test e2e_scale --test e2e_loss --test e2e_names --test e2e_fragments --test e2e_apps --test e2e_repair --test e2e_migrate --test e2e_launch --test e2e_package --test e2e_agent_package --test e2e_reload_traffic -- --test-threads=1 --nocapture --include-ignored
	# Those that hold vonic to figures are themselves as fast as they can be.
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sh $(CURDIR)/tests/support/root.sh" VONIC_LONG=1 \
		cargo test --profile lab -p vonic-tests --test e2e_notify --test e2e_isolation --test e2e_network_side -- --test-threads=1 --nocapture

# Engines die at random times (KILLS, 2000 in all) and at each labelled point (ENDS, 200), under every number of connections, with loss and
# without. What is done is noted in $(TARGET)/crash/debug/progress; another run goes on from there. FOR=420 ends it after so many seconds.
crash-test: testbed build crash-build
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sh $(CURDIR)/tests/support/root.sh" RUST_BACKTRACE=0 \
		VONIC_KILLS=$(or $(KILLS),2000) VONIC_ENDS=$(or $(ENDS),200) VONIC_FOR=$(or $(FOR),86400) \
		cargo test -p vonic-tests --test e2e_crash_long -- --test-threads=2 --nocapture --ignored

# Guests that start, stop and move, engines that are killed, restarted and upgraded, reloads, floods, hostile VMMs, all at once for FOR seconds
# (four hours), with every byte checked and ceilings for what vonic holds. FOR=600 is the form whose result is in backend/docs/soak.md.
soak: testbed build
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sh $(CURDIR)/tests/support/root.sh" VONIC_SOAK=$(or $(FOR),14400) \
		cargo test -p vonic-tests --test e2e_soak -- --nocapture

# Every fuzz target (TARGETS="ring worker": these alone) for SECONDS (600) each, by libFuzzer with the address sanitizer. Needs cargo-fuzz
# (`cargo install cargo-fuzz --locked`) and a C++ compiler; the compiler may be the stable one. MERGE=1 then renews the corpora in git.
fuzz:
	TARGETS="$(TARGETS)" SECONDS=$(or $(SECONDS),600) MERGE=$(MERGE) sh tests/fuzz/run.sh $(abspath $(TARGET))/fuzz

# What has unsafe code or reads what guests write, its unit tests under the address sanitizer.
asan:
	sh tests/support/asan.sh $(abspath $(TARGET))/asan

# Two guests on one vonicd (DEMO_VMM=qemu for QEMU instead of user-mode Linux).
demo: testbed build
	cargo build --quiet --release -p vonic-tests --bin vonic-demo
	sh tests/support/root.sh $(TARGET)/release/vonic-demo

# vonic beside its peers: RESULTS.md, and figures and plots in bench/results. QUICK=1: a look at every row in five minutes, written to
# $(TARGET)/bench. ROW="tcp-rr;flood": these rows alone, beside what was measured before.
bench: testbed build
	cargo build --quiet --release -p vonic-bench
	VONIC_BENCH_QUICK=$(QUICK) VONIC_BENCH_ROW="$(or $(ROW),$(VONIC_BENCH_ROW))" VONIC_BENCH_OUT=$(if $(QUICK),$(abspath $(TARGET))/bench) \
		sh tests/support/root.sh $(TARGET)/release/vonic-bench

# How long connections wait when their engine dies.
bench-takeover: build
	cargo build --quiet --release -p vonic-bench
	VONIC_BENCH_ROW="$(or $(ROW),$(VONIC_BENCH_ROW))" sh tests/support/root.sh $(TARGET)/release/vonic-bench takeover

# A hundred thousand connections in a guest of user-mode Linux, where the limit of open files cannot be raised: bench/results/connections.md.
bench-connections: testbed build
	cargo build --quiet --release -p vonic-bench
	sh tests/support/root.sh sh bench/scale/connections.sh $(TARGET)/release

# Instructions per frame and per segment, by callgrind; fails if one is more than 10 % above bench/results/micro.md, RECORD=1 writes them there.
bench-micro:
	sh bench/micro/setup.sh
	cargo build --quiet --profile micro -p vonic-bench-micro
	RECORD=$(RECORD) $(TARGET)/micro/vonic-bench-micro
