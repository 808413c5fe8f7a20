# The commands of the README. Everything they need is set up on the way.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
RUN := .venv/bin/q8s-run
FILE ?= examples/demo.yaml
ROUNDS ?= 1
LAB := $(or $(Q8S_LAB_DIR),/var/lib/q8s-lab)
ON_LAB := OS_CLIENT_CONFIG_FILE=$(LAB)/clouds.yaml OS_CLOUD=q8s-lab

WITH_COLLECTION := PATH="$(CURDIR)/.venv/bin:$$PATH" ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/collections

.PHONY: help setup wheel bundle gate-image demo demo-down style ansible-lint check reference site test test-long test-vm lint docs bench bench-lab conformance clean

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## install what is missing on this machine
	@tools/setup.sh

wheel: setup  ## build the wheel into build/
	.venv/bin/uv build --quiet --wheel --no-build-isolation --python .venv/bin/python --out-dir build .

bundle: setup  ## build what nodes run, and guest images, where they are not cached
	$(RUN) bundle ensure --arch x86_64 --arch aarch64 --control-plane x86_64 >/dev/null

gate-image: setup
	.venv/bin/python -m q8s_lab.cloud_image debian-13-cloud-baked >/dev/null

demo: bundle  ## an OpenStack on this machine, and the cluster of examples/demo.yaml on it
	$(RUN) lab up
	$(ON_LAB) $(RUN) deploy $(FILE) --yes
	$(ON_LAB) $(RUN) verify $(FILE)
	@printf '\nThe cluster is yours. To use it from this shell:\n  export %s\n  %s ssh %s arm-mid-1 -- lscpu\n' "$(ON_LAB)" "$(RUN)" "$(FILE)"

demo-down:  ## remove the demo's cluster and the OpenStack
	-$(ON_LAB) $(RUN) destroy $(FILE) --yes
	$(RUN) lab down

style: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy q8s_wrapper q8s_bundle q8s_lab benchmarks tools inventory_plugins collections/ansible_collections/q8s/emu/plugins

lint: style ansible-lint  ## style, types, unused code, generated pages and Ansible's production profile
	.venv/bin/vulture
	.venv/bin/python tools/reference.py --check
	$(WITH_COLLECTION) antsibull-docs lint-collection-docs collections/ansible_collections/q8s/emu

ansible-lint: setup
	.venv/bin/ansible-lint

# Needs neither root nor a lab, and takes about 50 s of processor time.
check: style  ## style, types and unit tests
	.venv/bin/pytest --numprocesses 2 -q tests/unit

reference: setup  ## write the pages of the documentation that are generated from the code
	.venv/bin/python tools/reference.py

# The collection's pages are written by antsibull-docs and are not committed.
DOCS := build/docs
docs: reference site  ## the documentation as a site, in build/docs/html; warnings are errors

site: setup
	mkdir -p -m 755 docs/reference/collections
	$(WITH_COLLECTION) antsibull-docs collection --use-current --no-breadcrumbs --no-indexes \
		--fail-on-error --cleanup everything --dest-dir docs/reference/collections --squash-hierarchy q8s.emu
	.venv/bin/sphinx-build -W --keep-going -n -q -b html docs $(DOCS)/html
	@printf 'docs: %s\n' "$(DOCS)/html/index.html"

# What is not cached is built before the tests: for longer than a test waits for its cluster, and at times tests would stand in its way.
# Three at a time, each with a lab of its own: a test often waits for the cloud, and two would leave a quarter of two cores idle.
# The cluster comes by itself: its emulated guests take what two cores leave, and would do so for as long as others hold them up.
test:  ## style, unit tests, the lab's services, a host on a virtual machine, a whole cluster
	$(MAKE) --jobs 2 --output-sync=target lint site
	$(MAKE) bundle gate-image
	.venv/bin/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 15 --ignore tests/e2e -m 'not vm or gate'
	.venv/bin/pytest --durations 15 tests/e2e

# The cheapest first.
test-vm: bundle gate-image  ## roles and deploys on virtual machines with cloud images, chosen by Q8S_VM_IMAGES (over an hour)
	.venv/bin/pytest --durations 15 -m vm tests/vm/test_gate.py tests/vm tests/integration/lab

test-long: test-vm  ## what is too long for every change
	Q8S_TEST_LONG=1 .venv/bin/pytest --durations 15 tests/integration/cloud/test_user_environment.py
	Q8S_TEST_LONG=1 .venv/bin/pytest --durations 15 -m long --ignore tests/integration/cloud/test_user_environment.py

bench: setup  ## simulate deploys of 52, 250 and 1000 nodes, beside those that were measured
	.venv/bin/python -m benchmarks.deploy_simulation

# In turn, about half an hour a round on two cores with the demo's two workers: the first two take guests away and boot them again. Each
# restores what it has changed; if one is interrupted, `q8s-run deploy` does.
bench-lab: bundle  ## the baselines on the lab, beside Q8S: the boot of a guest, the paper's way, links (FILE; ROUNDS, default 1)
	$(RUN) lab up
	$(ON_LAB) $(RUN) deploy $(FILE) --yes
	$(ON_LAB) .venv/bin/python -m benchmarks.guest_boot $(FILE) --rounds $(ROUNDS)
	$(ON_LAB) .venv/bin/python -m benchmarks.paper_way $(FILE) --rounds $(ROUNDS)
	$(ON_LAB) .venv/bin/python -m benchmarks.link_accuracy $(FILE)
	.venv/bin/python -m benchmarks.link_rate

conformance: setup  ## Kubernetes' conformance tests on the cluster of FILE
	$(ON_LAB) $(RUN) conformance $(FILE)

clean:  ## remove what was made in this checkout (caches outside stay)
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .ansible build *.egg-info docs/reference/collections
