#!/usr/bin/env bash
# Run all checks of the GPU backend on a machine with an NVIDIA GPU: bash tests/device_check.sh
#
# Run it in the repository's root. Logs and a summary go to $OUT. A step has a time box, and begins only if there is
# time left. The script goes on after failures, and ends with 1 if there were any. Settings, by environment:
#   OUT      where logs go (default device_check_logs)   STEPS    which steps (default: all, in this order)
#   BUDGET   seconds for everything (default 560)        WORKERS  pytest's processes (default 8)
#   PYTHON   the interpreter (default python3)
# The package's extensions must be built, or step `build` builds them.
set -u
STEPS=${STEPS:-"env build smoke tests bench kernels sanitize profile soak"}
BUDGET=${BUDGET:-560}
WORKERS=${WORKERS:-8}
OUT=${OUT:-device_check_logs}
PYTHON=${PYTHON:-python3}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
mkdir -p "$OUT"
SUMMARY=$OUT/summary.txt
: > "$SUMMARY"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export CUPY_CACHE_DIR=$WORK/cupy_cache NUMBA_CACHE_DIR=$WORK/numba_cache
[ -d /usr/local/cuda ] && export CUDA_PATH=${CUDA_PATH:-/usr/local/cuda} && PATH=$PATH:/usr/local/cuda/bin
for folder in /opt/nvidia/nsight-compute/*/; do [ -x "$folder/ncu" ] && PATH=$PATH:$folder; done
export PATH
failures=0

say() { echo "$*" | tee -a "$SUMMARY"; }
left() { echo $((BUDGET - SECONDS)); }
wanted() { case " $STEPS " in *" $1 "*) return 0 ;; esac; return 1; }
# step NAME BOX COMMAND...: run it for at most BOX seconds; what it prints goes to $OUT/NAME.log.
step() {
    local name=$1 box=$2 begin=$SECONDS most status
    shift 2
    most=$(($(left) - 5))
    [ "$box" -gt "$most" ] && box=$most
    if [ "$box" -lt 8 ]; then say "-- $name: skipped, $(left) s left"; return; fi
    timeout -k 5 "$box" "$@" > "$OUT/$name.log" 2>&1
    status=$?
    if [ $status = 0 ]; then say "-- $name: passed in $((SECONDS - begin)) s"; return; fi
    failures=$((failures + 1))
    say "-- $name: failed with $status (124, 137: out of time) after $((SECONDS - begin)) s of $box"
    tail -5 "$OUT/$name.log" | tee -a "$SUMMARY"
}

if wanted env; then
    { nvidia-smi; nvcc --version; "$PYTHON" -m pip list; } > "$OUT/env.log" 2>&1
    nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader 2>&1 | head -1 | tee -a "$SUMMARY"
fi
if wanted build; then
    if ! "$PYTHON" -c 'import aproarray.cpu' > "$OUT/build.log" 2>&1; then
        step build 170 "$PYTHON" setup.py build_ext --inplace
    fi
    "$PYTHON" -m aproarray info 2>&1 | grep backend | tee -a "$SUMMARY"
fi
wanted smoke && step smoke 100 "$PYTHON" tests/device_check.py smoke
if wanted tests; then
    # The libraries' own warnings are none of the tests' business, a grid that CuPy cuts down is.
    step tests 200 "$PYTHON" -m pytest -m gpu -n "$WORKERS" --max-worker-restart=2 -q -p no:cacheprovider -W default \
        -W "error:The grid size will be reduced" --durations=15 \
        tests/test_gpu.py tests/test_dlpack.py tests/test_related_segments.py
    grep -hE "^(FAILED|ERROR|SKIPPED)|passed|failed" "$OUT/tests.log" | tail -25 | cut -c1-200 | tee -a "$SUMMARY"
fi
if wanted bench; then
    step bench 110 "$PYTHON" -m benchmarks.gpu --repeats 30
    grep -hE "^(\||On )" "$OUT/bench.log" | tee -a "$SUMMARY"
fi
if wanted kernels; then
    step kernels 50 "$PYTHON" tests/device_check.py kernels
    tail -40 "$OUT/kernels.log" | tee -a "$SUMMARY"
fi
if wanted sanitize; then
    # Side by side, as they wait for the host most of the time. racecheck sees shared memory alone.
    box=$(($(left) - 60))
    [ $box -gt 100 ] && box=100
    if [ $box -gt 20 ]; then
        tools="memcheck racecheck synccheck initcheck"
        for tool in $tools; do
            pool=""
            case $tool in memcheck | initcheck) pool=1 ;; esac
            WITHOUT_POOL=$pool timeout -k 5 $box compute-sanitizer --tool $tool --print-limit 20 --error-exitcode 77 \
                "$PYTHON" tests/device_check.py smoke > "$OUT/$tool.log" 2>&1 &
            eval "started_$tool=$!"
        done
        for tool in $tools; do
            eval "wait \$started_$tool"
            status=$?
            [ $status = 0 ] || failures=$((failures + 1))
            say "-- $tool: $status (77: it found something) $(grep -h SUMMARY "$OUT/$tool.log" | tail -1)"
        done
    else
        say "-- sanitize: skipped, $(left) s left"
    fi
fi
if wanted profile; then
    step profile 80 ncu --clock-control none --profile-from-start off --csv --page details \
        --section SpeedOfLight --section MemoryWorkloadAnalysis --section Occupancy --section LaunchStats \
        --section WarpStateStats --section SchedulerStats --launch-count 40 \
        "$PYTHON" tests/device_check.py profile
    grep -hE 'gpu__time_duration|"Duration"' "$OUT/profile.log" | cut -d, -f5,13- | head -40 | tee -a "$SUMMARY"
fi
wanted soak && step soak 60 "$PYTHON" tests/device_check.py soak
say "$failures step$([ $failures = 1 ] || echo s) failed; $SECONDS s"
[ $failures = 0 ]
