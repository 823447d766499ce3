#!/usr/bin/env bash
# Measure on a machine with a GPU and no network, in nine minutes.
#
#   bash benchmarks/device.sh prepare         with network: fetch what the GPU machine lacks into .whl and .device
#   OUT=DIR bash benchmarks/device.sh         on the GPU machine, in a copy of this tree with .whl and .device
#   OUT=DIR bash benchmarks/device.sh smoke   the same with the smallest network, on any machine; .whl is not needed
#   bash benchmarks/device.sh commands        print the commands
#   python -m benchmarks.gpu_tables DIR       afterwards: results into the repository, its lowering table and its docs
#
# The GPU machine has Linux on x86-64, Python 3.12, jax with CUDA, torch with CUDA and inductor's needs (a C compiler),
# and what these two bring. WHEELS is what else is needed, in the versions of requirements.txt.
#
# OUT gets log.txt, results/CARD/{parity,accelerator,lowerings}.json and run.tgz. To resume, copy `results` and
# `run.tgz` into .device: what they hold is not measured again, lowerings excepted. Every part has its own time limit; a part that fails
# does not stop the others. LIMIT is that of all of them, in seconds.
#
# For CIFAR-10, call `prepare` with CIFAR=FOLDER, where FOLDER/train and FOLDER/test have one folder of JPEGs per class.
set -u
cd "$(dirname "$0")/.." || exit 2
WHEELS="flax optax orbax-checkpoint tensorstore ml_collections grain array_record argcomplete importlib_resources"
SOURCES="portpicker==1.6.0" # of grain; there is no wheel of it
PYTHON=${PYTHON:-python3} LIMIT=${LIMIT:-530} MODE=${1:-measure}
export PYTHONUNBUFFERED=1

prepare() {
  set -e
  mkdir -p .whl .device
  local pins=() platforms=() name n
  for name in $WHEELS; do
    pins+=("$(grep -E "^$name==[^;]*(; python_version >= \"3.12\")?$" requirements.txt | cut -d';' -f1)")
  done
  for n in 5 17 24 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${n}_x86_64"); done
  platforms+=(--platform manylinux2014_x86_64)
  "$PYTHON" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" -d .whl "${pins[@]}"
  "$PYTHON" -m pip wheel -q --disable-pip-version-check --no-deps -w .whl $SOURCES
  if [ -n "${CIFAR:-}" ]; then tar c --sort=name -C "$CIFAR" train test | xz -T0 > .device/cifar10.tar.xz; fi
  du -sh .whl .device
}

left() { echo $((LIMIT - SECONDS)); }

# part NAME SECONDS COMMAND…: run a command within its limit and what is left; print it only, if MODE is "commands".
part() {
  local name=$1 limit=$2 rest
  shift 2
  if [ "$MODE" = commands ]; then printf '%s\n' "$*"; return; fi
  rest=$(left)
  if [ "$limit" -gt "$rest" ]; then limit=$rest; fi
  if [ "$limit" -lt 15 ]; then echo "== $name: no time left"; return; fi
  echo "== $name ($limit of $rest s)"
  timeout -k 15 "$limit" "$@" 2>&1
  echo "== $name: exit status $?"
}

machine() {
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  "$PYTHON" - <<'P'
import importlib.metadata as metadata, importlib.util as util, sys
names = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "torch", "triton", "numpy")
found = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"] in names}
print("python", sys.version.split()[0], *(f"{name} {version}" for name, version in sorted(found.items())))
needed = "jax flax optax orbax tensorstore ml_collections grain array_record argcomplete portpicker numpy torch".split()
needed += "absl rich PIL cv2 sklearn matplotlib jinja2 tensorboard etils msgpack treescope psutil".split()
print("missing:", *[name for name in needed if util.find_spec(name) is None] or ["nothing"])
import jax
print(jax.devices())
P
}

parity() {
  part "parity of $1" "$2" "$PYTHON" -m benchmarks.parity --models "$1" --work "${@:3}" --images "$images" \
    --resume --output "$OUT/results"
}

speed() {
  part "speed of $1" "$2" "$PYTHON" -m benchmarks.accelerator --models "$1" --work "${works[@]}" --sides "${sides[@]}" \
    --training-batches "${training[@]}" --inference-batches "${inference[@]}" --budget "$(($2 - 20))" --resume \
    --output "$OUT/results"
}

lowerings() {
  part "lowerings of ${*:2}" "$1" "$PYTHON" -m benchmarks.lowerings --models "${@:2}" --batch "$batch" --dtype bfloat16 \
    --rounds 5 --seconds 1 --output "$OUT/results"
}

# cifar CONFIG FLAG…: resumes the run in .device/run.tgz, stops in time to save its state, and packs it.
cifar() {
  local run=$OUT/run
  if [ "$MODE" != commands ] && [ -f .device/run.tgz ]; then mkdir -p "$run" && tar xzf .device/run.tgz -C "$run"; fi
  part CIFAR-10 $(($(left) - 25)) "$PYTHON" main.py train --config "configs/cifar.py:$1" --workdir "$run" "${@:2}"
  if [ "$MODE" != commands ]; then
    tar czf "$OUT/run.tgz" -C "$run" . && rm -r "$run"
  fi
}

measure() {
  local images=8 batch=128 training=(64 256) inference=(1 64 256)
  local works=(condensed training masked) sides=(ours torch_compile torch)
  if [ -d .device/results ]; then cp -r .device/results "$OUT"; fi
  parity cdnv2_a 110 condensed masked training
  speed cdnv2_a 160
  speed cdnv2_c 110
  lowerings 80 cdnv2_a cdnv2_c
  parity cdnv2_c 50 condensed masked
  if [ "$MODE" != commands ]; then
    if [ ! -f .device/cifar10.tar.xz ]; then return; fi
    rm -rf /tmp/cifar && mkdir /tmp/cifar && tar xJf .device/cifar10.tar.xz -C /tmp/cifar && mv /tmp/cifar/{test,val}
  fi
  cifar condensenet_50,cifar10 --config.data.source=image_folder --config.data.directory=/tmp/cifar \
    --config.data.workers=12 --config.data.batch_size=256 --config.epochs=60 --config.eval_every_epochs=5 \
    --config.checkpoint_every_epochs=1
}

smoke() {
  LIMIT=3000 # a minute or two on two idle cores
  local images=2 batch=1 training=(2) inference=(1) works=(training) sides=(ours torch)
  parity smallest 600 condensed
  speed smallest 600
  lowerings 600 smallest
  cifar condensenet_50,cifar10,smoke
}

case $MODE in
  prepare) prepare ;;
  commands) OUT=${OUT:-OUT}; measure ;;
  measure | smoke)
    mkdir -p "${OUT:?give a folder for the results: OUT=DIR bash benchmarks/device.sh}" || exit 2
    {
      if [ "$MODE" = measure ]; then
        site=$(mktemp -d)
        "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$site" .whl/*.whl || exit 1
        export PYTHONPATH=$site:$PWD
      fi
      machine
      "$MODE"
      echo "== done, after $SECONDS s"
    } 2>&1 | tee -a "$OUT/log.txt"
    ;;
  *) echo "benchmarks/device.sh: it is prepare, smoke, commands or nothing, not '$MODE'" >&2; exit 2 ;;
esac
