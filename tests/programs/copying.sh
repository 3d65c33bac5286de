#!/usr/bin/env bash
# rsync, tar, cp, find and du: everything a file system can hold goes to a mount and back and is still the same.
#
# usage: copying.sh DISK MOUNT
#   DISK, MOUNT  empty folders on the local disk and on the mount; root has to run this
# The first difference ends it with the two listings' difference. Prints what was compared.
set -euo pipefail

[ $# -eq 2 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
disk=$(cd "$1" && pwd)
mount=$(cd "$2" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
readonly SPARSE_BYTES=$((48 << 20)) SPARSE_USED_KIB=1024

fail() {
    echo "copying: $*" >&2
    exit 1
}

make_source() { # FOLDER: one of everything
    local folder=$1
    mkdir -p "$folder"
    sparse "$folder/sparse"
    python3 - "$folder" <<'PY'
import os, random, socket, stat, sys
root = os.fsencode(sys.argv[1])
os.umask(0)
chance = random.Random(7)
path = lambda *names: os.path.join(root, *names)

def write(name, content, mode=0o644):
    with open(path(name), "wb") as file:
        file.write(content)
    os.chmod(path(name), mode)

for name in (b"plain", b" blank at both ends ", b"new\nline", b"\xff\xfe not UTF-8", "ünï".encode(), b"*?[a]$(x)`", b"-rf", b"n" * 255):
    write(name, name * 50)
write(b"empty", b"")
write(b"large", chance.randbytes(9_000_001))
for mode in (0o000, 0o400, 0o777, 0o4755, 0o2755, 0o6711):
    write(b"mode-%o" % mode, b"#!/bin/sh\n", mode)
for depth in range(1, 30):
    os.makedirs(path(*[b"deep"] * depth), exist_ok=True)
os.mkdir(path(b"empty folder"))
os.mkdir(path(b"sticky"))
os.chmod(path(b"sticky"), 0o1777)
os.mkdir(path(b"many"))
for number in range(500):
    write(b"many/%d" % number, chance.randbytes(chance.randrange(3000)))
os.symlink(b"plain", path(b"link"))
os.symlink(b"nowhere/at all", path(b"dangling"))
os.symlink(b"x" * 4000, path(b"long link"))
for name in (b"second name", b"many/third name"):
    os.link(path(b"large"), path(name))
os.link(path(b"link"), path(b"second name of a link"))
os.mkfifo(path(b"fifo"), 0o640)
# By a short name: a socket's has at most 107 bytes.
os.chdir(root)
socket.socket(socket.AF_UNIX).bind("socket")
os.mknod(path(b"null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.mknod(path(b"block"), stat.S_IFBLK | 0o660, os.makedev(7, 250))
os.setxattr(path(b"plain"), b"user.colour", b"blue\0and\xff")
os.setxattr(path(b"plain"), b"user.empty", b"")
os.setxattr(path(b"plain"), b"trusted.thing", chance.randbytes(900))
os.setxattr(path(b"sticky"), b"user.of a folder", b"yes")
os.setxattr(path(b"link"), b"trusted.of-a-link", b"yes", follow_symlinks=False)
os.chown(path(b"many/1"), 12345, 54321)
os.lchown(path(b"dangling"), 65534, 65534)
# Set-id bits do not survive a change of owner, so those come last.
os.chown(path(b"mode-4755"), 1000, 1000)
os.chmod(path(b"mode-4755"), 0o4755)
# All in the past: rsync takes times within one second for equal, on ext4 too.
for base, folders, files in os.walk(root, topdown=False):
    for name in files + [b""] + [name for name in folders if os.path.islink(os.path.join(base, name))]:
        at = chance.randrange(1 << 60)
        os.utime(os.path.join(base, name), ns=(at, at), follow_symlinks=False)
for name, at in ((b"empty", -1_000_000_001), (b"dangling", 5), (b"", 1_000_000_000_000_000_001)):
    os.utime(path(name), ns=(at, at), follow_symlinks=False)
PY
}

sparse() { # FILE: 48 MiB, of which a few pages hold data
    python3 - "$1" "$SPARSE_BYTES" <<'PY'
import os, sys
with open(sys.argv[1], "wb") as file:
    for at in (0, 5_000_000, 20 << 20, int(sys.argv[2]) - 70_000):
        os.pwrite(file.fileno(), b"data" * 3000, at)
    file.truncate(int(sys.argv[2]))
PY
}

listing() { # FOLDER FILE: names, kinds, modes, owners, times, link counts, sizes, targets, then content and attributes
    (cd "$1" && find . -printf '%P %y %m %U:%G %T@ %n %l\0' | sort -z | tr '\0' '\n') >"$2"
    python3 "$here/../support/treesum.py" --portable --list "$2.sums" "$1" >/dev/null
    cat "$2.sums" >>"$2"
}

same() { # WHAT A B
    listing "$2" "$disk/list-a"
    listing "$3" "$disk/list-b"
    if ! diff "$disk/list-a" "$disk/list-b" >"$disk/difference"; then
        head -n 30 "$disk/difference" >&2
        fail "$1: $2 and $3 differ"
    fi
    thin "$3/sparse"
    echo "$1: the same, $(wc -l <"$disk/list-a") lines"
}

thin() { # FILE: still has its holes
    [ "$(stat -c %s "$1")" = "$SPARSE_BYTES" ] || fail "$1 has not its size"
    local used
    used=$(du -k "$1" | cut -f1)
    [ "$used" -le "$SPARSE_USED_KIB" ] || fail "$1 takes $used KiB, its holes were filled"
}

nothing_to_do() { # WHAT FROM TO: rsync finds nothing to copy or remove, having compared every byte
    local said
    said=$(rsync -aHAXS --numeric-ids --checksum --dry-run --itemize-changes --delete "$2/" "$3/")
    [ -z "$said" ] || fail "$1: rsync would still change: $(head -n 10 <<<"$said")"
}

there_and_back_with_rsync() {
    rsync -aHAXS --numeric-ids --checksum "$disk/source/" "$mount/rsync/"
    same "rsync to the mount" "$disk/source" "$mount/rsync"
    nothing_to_do "rsync to the mount" "$disk/source" "$mount/rsync"
    rsync -aHAXS --numeric-ids --checksum "$mount/rsync/" "$disk/rsync/"
    same "rsync from the mount" "$mount/rsync" "$disk/rsync"
    nothing_to_do "rsync from the mount" "$mount/rsync" "$disk/rsync"
    # Changes inside files, in place and by way of a temporary file; files that went away.
    cp -a "$disk/source" "$disk/changed"
    printf changed | dd of="$disk/changed/large" bs=1 seek=4000000 conv=notrunc status=none
    rm -r "$disk/changed/many" "$disk/changed/fifo"
    printf 'more' >>"$disk/changed/plain"
    cp -a "$mount/rsync" "$mount/in place"
    # Not in the same second as what rsync is about to do there.
    touch -d '2001-02-03 04:05:06.789' "$disk/changed"
    rsync -aHAXS --numeric-ids --checksum --delete --no-whole-file "$disk/changed/" "$mount/rsync/"
    rsync -aHAX --numeric-ids --checksum --delete --no-whole-file --inplace "$disk/changed/" "$mount/in place/"
    same "rsync of changes" "$disk/changed" "$mount/rsync"
    same "rsync of changes in place" "$disk/changed" "$mount/in place"
}

# There are no access control lists on the mount, and nobody is told otherwise.
no_access_control_lists() {
    touch "$disk/listed" "$mount/unlisted"
    setfacl -m u:12345:r "$disk/listed" || fail "the local disk has no access control lists either"
    ! said=$(setfacl -m u:12345:r "$mount/unlisted" 2>&1) || fail "setfacl works on the mount"
    [[ $said == *"Operation not supported"* ]] || fail "setfacl on the mount says: $said"
    ! said=$(rsync -A "$disk/listed" "$mount/listed" 2>&1) || fail "rsync -A did not tell that a list was lost"
    [[ $said == *"not supported"* ]] || fail "rsync -A of a list says: $said"
    rsync "$disk/listed" "$mount/listed"
    echo "access control lists: refused with EOPNOTSUPP"
}

there_and_back_with_tar() {
    local keep=(--xattrs --xattrs-include='*' --sparse --numeric-owner --format=posix --warning=no-timestamp)
    # Sockets cannot be archived.
    tar -C "$disk/source" "${keep[@]}" --exclude=./socket -cf "$mount/from-disk.tar" .
    mkdir "$mount/tar" "$disk/tar" "$mount/bare"
    cp -a "$disk/source/." "$mount/bare/"
    tar -C "$mount/tar" "${keep[@]}" -xpf "$mount/from-disk.tar"
    tar -C "$mount/tar" "${keep[@]}" -cf "$disk/from-mount.tar" .
    tar -C "$disk/tar" "${keep[@]}" -xpf "$disk/from-mount.tar"
    rm "$disk/source/socket" "$mount/bare/socket"
    touch -r "$mount/tar" "$disk/source" "$mount/bare"
    same "tar to the mount" "$disk/source" "$mount/tar"
    same "tar from the mount" "$mount/tar" "$disk/tar"
    same "cp -a to the mount" "$disk/source" "$mount/bare"
    local size
    size=$(stat -c %s "$disk/from-mount.tar")
    [ "$size" -lt $SPARSE_BYTES ] || fail "tar did not see the holes: the archive has $size bytes"
}

copies_on_the_mount() {
    cp -a --reflink=auto --sparse=auto "$mount/tar" "$mount/copy"
    same "cp -a --reflink=auto" "$mount/tar" "$mount/copy"
    ! said=$(cp --reflink=always "$mount/tar/plain" "$mount/reflink" 2>&1) || fail "cp --reflink=always works"
    [[ $said == *"Operation not supported"* || $said == *"Inappropriate ioctl"* ]] ||
        fail "cp --reflink=always says: $said"
    # What shares its bytes must not share what is written later.
    printf 'changed' | dd of="$mount/copy/large" bs=1 seek=1000 conv=notrunc status=none
    cmp -s "$mount/tar/large" "$disk/source/large" || fail "writing to a copy changed the original"
    cp -a --sparse=always "$mount/tar/sparse" "$mount/sparse-always"
    thin "$mount/sparse-always"
}

counting() {
    local a b
    for question in "-type f" "-type d" "-type l" "-links +1 -type f" "-size +4k" "-perm -4000" "-empty" "-newermt 1990-01-01" \
        "-uid 12345" "-samefile ./large" "-name large"; do
        # shellcheck disable=SC2086
        a=$(cd "$disk/source" && find . $question | wc -l)
        # shellcheck disable=SC2086
        b=$(cd "$mount/tar" && find . $question | wc -l)
        [ "$a" = "$b" ] && [ "$a" -gt 0 ] || fail "find $question: $a on the local disk, $b on the mount"
    done
    # Each file counts once, however many names it has.
    a=$(cd "$mount/tar" && find . -printf '%i %k\n' | sort -u | awk '{sum += $2} END {print sum}')
    b=$(du -sk "$mount/tar" | cut -f1)
    [ $((a > b ? a - b : b - a)) -le $(($(find "$mount/tar" | wc -l))) ] || fail "du says $b KiB, find $a KiB"
    a=$(cd "$disk/source" && find . -type f -print0 | sort -z | du -cb --files0-from=- | tail -n 1)
    b=$(cd "$mount/tar" && find . -type f -print0 | sort -z | du -cb --files0-from=- | tail -n 1)
    [ "$a" = "$b" ] || fail "du -b: $a on the local disk, $b on the mount"
    echo "find and du: the same"
}

make_source "$disk/source"
there_and_back_with_rsync
no_access_control_lists
there_and_back_with_tar
copies_on_the_mount
counting
