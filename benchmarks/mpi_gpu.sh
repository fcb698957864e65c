#!/usr/bin/env bash
# Every row of several GPUs in one go, on a host with four: sums, then generation of the demo models on 1, 2 and 4 ranks,
# then decode steps of large shapes. `benchmarks/mpi_gpu.sh DIR` keeps engines in DIR.
set -u
dir=${1:?a folder for the engines}
export PYTHONPATH=src PYTHONUNBUFFERED=1 OMP_NUM_THREADS=4
ranks() { local n=$1; shift; timeout "${LIMIT:-120}" python3 -m torch.distributed.run --nproc-per-node "$n" --master-port "${PORT:-29500}" "$@" 2>&1 | grep -vE '^W[0-9]|^\*\*\*|OMP_NUM'; }
at() { echo "== $(date -u +%T) $*"; }

at sums
LIMIT=60 ranks 2 benchmarks/mpi_gpu.py sums
LIMIT=60 ranks 4 benchmarks/mpi_gpu.py sums

at engines
for tp in 1 2 4; do
  (
    export TRTBENCH_HOME=$dir/home$tp
    python3 -m trtbench_lab convert demo:llama --dtype float32 --tp_size $tp --output_dir "$dir/checkpoint$tp" -q > /dev/null &&
      python3 -m trtbench_lab build "$dir/checkpoint$tp" --backend torch --opt_level 0 --output_dir "$dir/engine$tp" -q > "$dir/build$tp.log" 2>&1 || cat "$dir/build$tp.log"
  ) &
done
wait
at generation
say() { grep -E 'output|error|ms  '; }
text=(--input_text "The town council" --max_output_len 40 --engine_dir)
python3 -m trtbench_lab run "${text[@]}" "$dir/engine1" -q 2>&1 | say
LIMIT=60 ranks 2 -m trtbench_lab run "${text[@]}" "$dir/engine2" -q --details | say
LIMIT=60 ranks 4 -m trtbench_lab run "${text[@]}" "$dir/engine4" -q --details | say
at by mpirun
OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 60 mpirun -n 2 python3 -m trtbench_lab run "${text[@]}" "$dir/engine2" -q --details 2>&1 < /dev/null | tail -12

at decode
(CUDA_VISIBLE_DEVICES=2 timeout 150 python3 benchmarks/mpi_gpu.py decode --shape llama3-8b --tp 1 2>&1 | tail -5) &
CUDA_VISIBLE_DEVICES=0,1 LIMIT=150 ranks 2 benchmarks/mpi_gpu.py decode --shape llama3-8b | tail -12
wait
LIMIT=120 ranks 4 benchmarks/mpi_gpu.py decode --shape llama3-8b | tail -12
at larger
LIMIT=120 ranks 4 benchmarks/mpi_gpu.py decode --shape llama3-70b | tail -12
LIMIT=120 ranks 4 benchmarks/mpi_gpu.py decode --shape qwen2.5-32b --batch 16 --prompt 1024 --new 256 | tail -12
at end
