# Two commands for a newcomer: `make demo` and `make test`. Both set up what they need first; a
# second run downloads nothing.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export RECSAE_CACHE ?= $(HOME)/.cache/recsae-monitor
export RECSAE_PYTHON ?= $(RECSAE_CACHE)/python/bin/python
onnxruntime_version := $(shell sed -n 's/^onnxruntime==//p' deploy/setup/requirements.txt)
export ORT_DYLIB_PATH ?= $(RECSAE_CACHE)/onnxruntime-$(onnxruntime_version)/libonnxruntime.so.$(onnxruntime_version)

.PHONY: help fixtures demo test chaos chaos-long check fmt build bench bench-kept bench-scale bench-topk bench-encode bench-judge bench-cluster bench-drift bench-offline bench-train train-quality label-worlds setup setup-demo

help: ## What can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

demo: setup-demo ## The whole chain on this machine: world, broker, monitor, page, a named alert
	cargo run --quiet --release --locked -- demo $(ARGS)

test: setup ## Everything that must hold; ends with the counts
	tests/run.sh

chaos: setup ## Injure the program on a real broker, compare with an oracle: SEED=7 FAULTS=name,name (FAULTS=list shows them)
	cargo test --quiet --locked --test chaos

chaos-long: setup ## 200 kills over 300,000 records on the optimised program, half of them at named points: SEED=7 SUMMARY=FILE
	cargo build --quiet --release --locked --features failpoints
	cp target/release/recsae target/release/recsae-failpoints
	cargo build --quiet --release --locked
	CHAOS_RECSAE=target/release/recsae-failpoints CHAOS_PLAIN_RECSAE=target/release/recsae FAULTS=long cargo test --quiet --locked --test chaos

check: ## The fast loop: format, lints, and the tests that need only the repo and ONNX Runtime
	cargo fmt --check
	cargo clippy --quiet --all-targets --locked -- -D warnings
	cargo test --quiet --locked

fmt: ## Format
	cargo fmt

.PHONY: json-mutations sanitize fuzz
json-mutations: ## The quick JSON reader beside the strict one on 10^8 damaged records: MUTATIONS=N SEED=7
	RECSAE_JSON_MUTATIONS="$(or $(MUTATIONS),100000000)" RECSAE_JSON_SEED="$(SEED)" nice cargo test --quiet --release --locked --lib decode::mutations -- --nocapture

sanitize: ## AddressSanitizer over the tests of every file with unsafe code in encode, sae and decode
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=target-asan nice \
		cargo test --quiet --locked --target x86_64-unknown-linux-gnu --lib -- encode::native encode::checked sae:: decode::digits decode::quick decode::fraction decode::mutations

fuzz: ## libFuzzer over the readers of records, graphs and manifests: SECONDS_EACH=600 TARGETS="json raw onnx manifest"
	nice tests/fuzz/run.sh $(or $(SECONDS_EACH),600) $(TARGETS)

build: setup-demo ## The release program: target/release/recsae
	cargo build --release --locked

bench: setup ## CPU per record against a careful Python program, same topic and broker (ARGS="--compression lz4": or zstd)
	cargo build --quiet --release --locked
	"$(RECSAE_PYTHON)" benches/peer/run.py --recsae target/release/recsae $(ARGS)

bench-kept: setup ## What checkpoints and the counting of entities add to a record's CPU (ARGS="--rounds 1")
	cargo build --quiet --release --locked
	"$(RECSAE_PYTHON)" benches/peer/kept.py --recsae target/release/recsae $(ARGS)

bench-scale: setup ## What a record costs as workers, segments, latents, entities and partitions grow, and the delay to /metrics (ARGS="--rounds 1")
	cargo build --quiet --release --locked
	"$(RECSAE_PYTHON)" benches/scale/run.py --recsae target/release/recsae $(ARGS)

bench-topk: ## Selecting the top k: CPU a row against the portable path and select_nth
	RECSAE_DATA="$${RECSAE_DATA:-$(CURDIR)/../shared/data}" cargo bench --quiet --locked --bench topk

bench-encode: setup-demo ## Encoding: CPU a row of the native engine beside the matrix product alone and ONNX Runtime
	RECSAE_DATA="$${RECSAE_DATA:-$(CURDIR)/../shared/data}" cargo bench --quiet --locked --bench encode

bench-judge: ## One step of the judge: CPU a window of 1,025 streams
	cargo bench --quiet --locked --bench judge

bench-cluster: ## What 1,000 partitions, 100 segments and 16,384 latents would cost: topics and judge, simulated (PARTITIONS=100 SEGMENTS=24 ..)
	cargo bench --quiet --locked --bench cluster

bench-drift: setup ## Drift found and false alarms in simulated worlds, ours beside the bar (SEEDS=1,2 to repeat)
	cargo build --quiet --release --locked
	"$(RECSAE_PYTHON)" benches/drift.py --recsae target/release/recsae --tools ../shared/tools --seeds "$(SEEDS)" $(ARGS)

bench-offline: setup ## A million recorded embeddings: seconds and CPU of whole commands that encode and count them
	cargo build --quiet --release --locked
	"$(RECSAE_PYTHON)" benches/offline.py --recsae target/release/recsae $(ARGS)

bench-train: setup ## Training: CPU seconds of whole runs beside JAX on one thread, same rows and recipe (ARGS="--seeds 1")
	cargo build --quiet --release --locked
	benches/train/run.sh target/release/recsae --data "$${RECSAE_DATA:-$(CURDIR)/../shared/data}" $(ARGS)

train-quality: setup ## The default recipe on three models, two sizes, three seeds, beside the given SAEs (ARGS=--choose: the recipe's choice)
	cargo build --quiet --release --locked
	"$(RECSAE_PYTHON)" benches/train/quality.py --recsae target/release/recsae --data "$${RECSAE_DATA:-$(CURDIR)/../shared/data}" $(ARGS)

label-worlds: ## Concepts of simulated worlds named right, beside shuffled tags, in one table: SEEDS=7,8,9 (else of the clock)
	SEEDS="$(SEEDS)" cargo test --quiet --locked --test it label::concepts_of_simulated_worlds -- --nocapture

fixtures: ## Checkpoints that tests import, written anew by the libraries they are of (some GB), and our exports loaded by those
	cargo build --quiet --locked
	tests/scripts/fixtures.sh target/debug/recsae

setup: setup-demo ## All that tests and benchmarks need, versions pinned, into $RECSAE_CACHE
	@deploy/setup/debian.sh test
	@deploy/setup/python.sh
	@deploy/setup/kafka.sh
	@deploy/setup/axe.sh
	@deploy/setup/cargo.sh

setup-demo: ## What the demo needs: ONNX Runtime's library
	@deploy/setup/debian.sh build
	@deploy/setup/onnxruntime.sh
