#!/usr/bin/env python3
"""One checksum of a whole tree: everything a program could see of it.

Per entry: path, type, mode, owner, size, mtime and ctime in ns, link count, which paths are
one file, content, link target, device number, extended attributes. Sorted by the raw bytes
of the path. Prints the checksum; --list writes one line per entry, to be compared with diff.
Must only read (and leaves access times out, because reading changes them).
"""

import argparse
import hashlib
import os
import stat
import sys

KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo",
         stat.S_IFSOCK: "sock", stat.S_IFCHR: "char", stat.S_IFBLK: "block"}
CHUNK = 1 << 20


def shown(raw):
    """Raw bytes as one printable word."""
    return "".join(chr(b) if 33 <= b < 127 and b != 92 else f"\\x{b:02x}" for b in raw)


def content(path):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as source:
        while block := source.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()[:32]


def attributes(path):
    found = []
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        value = os.getxattr(path, name, follow_symlinks=False)
        found.append(f"{shown(os.fsencode(name))}={hashlib.sha256(value).hexdigest()[:16]}")
    return ",".join(found)


class Tree:
    def __init__(self, root, portable, skip):
        self.root = root
        self.portable = portable
        self.skip = skip
        self.first_path = {}

    def walk(self):
        """Every path below the root as bytes, sorted; the root itself is the empty path."""
        found = [b""]
        waiting = [b""]
        while waiting:
            folder = waiting.pop()
            with os.scandir(os.path.join(self.root, folder) if folder else self.root) as entries:
                for entry in entries:
                    path = folder + b"/" + entry.name if folder else entry.name
                    if path in self.skip:
                        continue
                    found.append(path)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
        found.sort()
        return found

    def line(self, path):
        full = os.path.join(self.root, path) if path else self.root
        seen = os.lstat(full)
        kind = KINDS[stat.S_IFMT(seen.st_mode)]
        parts = [shown(path) or ".", kind, f"{stat.S_IMODE(seen.st_mode):o}"]
        if not self.portable:
            parts += [f"{seen.st_uid}:{seen.st_gid}", f"mtime={seen.st_mtime_ns}",
                      f"ctime={seen.st_ctime_ns}", f"nlink={seen.st_nlink}"]
        if kind == "file":
            parts += [f"size={seen.st_size}", content(full)]
        elif kind == "link":
            parts.append(shown(os.readlink(full)))
        elif kind in ("char", "block"):
            parts.append(f"rdev={seen.st_rdev:x}")
        if kind != "dir" and seen.st_nlink > 1:
            parts.append("is=" + shown(self.first_path.setdefault((seen.st_dev, seen.st_ino), path)))
        xattrs = attributes(full)
        if xattrs:
            parts.append(xattrs)
        return " ".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("--list", help="file that takes one line per entry")
    parser.add_argument("--portable", action="store_true",
                        help="leave out times, owner and link counts: to compare two file systems")
    parser.add_argument("--skip", action="append", default=[], metavar="PATH",
                        help="path below the root to leave out (may be repeated)")
    args = parser.parse_args()

    digest = hashlib.sha256()
    listing = open(args.list, "w") if args.list else None
    tree = Tree(os.fsencode(args.root), args.portable, {os.fsencode(s) for s in args.skip})
    count = 0
    for path in tree.walk():
        line = tree.line(path)
        digest.update(line.encode() + b"\n")
        if listing:
            listing.write(line + "\n")
        count += 1
    if listing:
        listing.close()
    print(f"{digest.hexdigest()[:32]} {count} entries")


if __name__ == "__main__":
    sys.exit(main())
