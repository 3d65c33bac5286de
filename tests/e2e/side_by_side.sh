#!/usr/bin/env bash
# The coding workload on the local disk and on a mount, in one run; prints a table.
#
# usage: side_by_side.sh INPUTS WELDRFS
#   INPUTS   what benches/coding/make_inputs.py made
#   WELDRFS  the program to mount with
set -euo pipefail

[ $# -eq 2 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
inputs=$(cd "$1" && pwd)
weldrfs=$(readlink -f "$2")
folder=$(mktemp -d "${TMPDIR:-/tmp}/weldrfs-e2e-XXXXXX")
mkdir "$folder/disk" "$folder/store" "$folder/state" "$folder/mnt"
export WELDR_ENV_VOL=$folder/state

finish() {
    if mountpoint -q "$folder/mnt"; then
        "$weldrfs" umount "$folder/mnt" || umount -l "$folder/mnt" || true
    fi
    rm -rf "$folder"
}
trap finish EXIT

# The caches of inputs and programs are as warm for the second as for the first.
find "$inputs" -type f -print0 | xargs -0 cat >/dev/null
"$here/coding_day.sh" "$folder/disk/day" "$inputs" "$folder/disk.json" >/dev/null
"$weldrfs" mount "file://$folder/store" "$folder/mnt" -o "state_dir=$folder/state"
"$here/coding_day.sh" "$folder/mnt/day" "$inputs" "$folder/mount.json" >/dev/null
pid=$(pgrep -nf "mount file://$folder/store" || true)
memory=$(awk '/VmRSS|VmHWM/ {printf "%s %d MiB ", $1, $2 / 1024}' "/proc/$pid/status" 2>/dev/null || true)
"$weldrfs" sync "$folder/mnt"
objects=$(find "$folder/store" -type f | wc -l)
bytes=$(du -sm "$folder/store" | cut -f1)

python3 - "$folder/disk.json" "$folder/mount.json" <<'PY'
import json, math, sys
disk, mount = (json.load(open(path))["steps"] for path in sys.argv[1:3])
print(f"{'step':<22}{'local disk s':>13}{'weldrfs s':>11}{'ratio':>8}")
logs = []
for a, b in zip(disk, mount, strict=True):
    ratio = b["seconds"] / max(a["seconds"], 0.001)
    logs.append(math.log(max(ratio, 0.001)))
    print(f"{a['name']:<22}{a['seconds']:>13.2f}{b['seconds']:>11.2f}{ratio:>8.2f}")
print(f"{'geometric mean':<46}{math.exp(sum(logs) / len(logs)):>8.2f}")
PY
echo "objects in the store: $objects ($bytes MB); memory of the mount: ${memory:-unknown}"
