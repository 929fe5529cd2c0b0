# The two commands are `make up` (see it work) and `make test` (prove that it works).

CARGO  ?= cargo
# Where everything goes: nothing appears outside of this folder.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
BUNDLE ?= $(TARGET)/bundle
STATE  ?= $(TARGET)/stoker
# What `make up` does; `make up ARGS="--interface eth1"` boots real machines.
ARGS   ?= --virtual-rack

# Namespaces and the ports 67 and 69 need root; building does not.
SUDO   := $(if $(filter 0,$(shell id -u)),,sudo)
export CARGO_TARGET_DIR := $(TARGET)
export STOKER_CACHE ?= $(TARGET)/bundle-cache

.DEFAULT_GOAL := help
.PHONY: help up build bundle bundle-arm64 demo doctor test test-arm64 rust

help:
	@echo 'make up                                a virtual rack: three machines with real firmware boot before your eyes'
	@echo 'make up ARGS="--virtual-rack 1"        another number, or a list such as uefi,uefi-http,bios'
	@echo 'make up ARGS="--interface eth1"        real machines, beside the DHCP server of that network'
	@echo 'make demo                              a small system to install on the machines of the rack: $(TARGET)/demo/demo.yaml'
	@echo 'make doctor ARGS="--interface eth1"    what on this host or network would stop a boot'
	@echo 'make test                              everything: rules, real clients, real firmware (three quarters of an hour on two cores)'
	@echo 'make test-arm64                        an emulated arm64 server boots into the agent (the first time it fetches 300 MB)'
	@echo 'make build                             stoker, stoker-edge, stoker-control, stoker-bundle into $(TARGET)/release'
	@echo 'make bundle                            what machines download, into $(BUNDLE)'

up: bundle
	@$(SUDO) $(TARGET)/release/stoker up --state $(STATE) --bundle $(BUNDLE) $(ARGS)

doctor: build
	@$(SUDO) env STOKER_STATE=$(STATE) $(TARGET)/release/stoker doctor $(filter-out --virtual-rack,$(ARGS))

build: rust
	@assets/install-dependencies up
	$(CARGO) build --release -p stoker-edge -p stoker-control -p stoker-assets --bins

# The tool leaves alone what is there and whole.
bundle: build
	$(TARGET)/release/stoker-bundle build --out $(BUNDLE)

demo: rust
	@assets/install-dependencies demo
	$(CARGO) build --release -p stoker-tests --bin stoker-demo
	@$(TARGET)/release/stoker-demo $(TARGET)/demo

# Test programs open namespaces and low ports.
TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
ifneq ($(SUDO),)
export CARGO_TARGET_$(TRIPLE)_RUNNER = sudo -E
endif
test: export STOKER_BUNDLE = $(BUNDLE)
test: rust
	@assets/install-dependencies test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	$(CARGO) build --workspace --bins
	$(TARGET)/debug/stoker-bundle build --out $(BUNDLE)
	$(CARGO) test --workspace --no-fail-fast

# Their own bundle: on an x86 machine the agent for arm64 needs another compiler.
bundle-arm64: rust
	@assets/install-dependencies arm64
	$(CARGO) build --workspace --bins
	$(TARGET)/debug/stoker-bundle build --arch arm64 --out $(BUNDLE)-arm64

test-arm64: export STOKER_BUNDLE = $(BUNDLE)-arm64
test-arm64: bundle-arm64
	$(CARGO) test -p stoker-tests --test arm64

rust:
	@command -v $(CARGO) > /dev/null || { echo 'Rust is missing: install it with rustup, then run this again (the toolchain named in rust-toolchain.toml comes by itself)'; exit 1; }
