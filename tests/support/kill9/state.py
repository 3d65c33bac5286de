"""What a recorder's part of the tree must look like: operations, applied in memory.

Must not touch the disk except to read it back for comparison.
"""

import os
import random
import stat

DISCONNECTED = "the mount is gone"


def data_of(seed, length):
    return random.Random(seed).randbytes(length)


class Node:
    """A file, directory or symlink; hard links are one Node under several paths."""

    def __init__(self, kind, mode, content=b""):
        self.kind = kind
        self.mode = mode
        self.content = bytearray(content)
        self.xattrs = {}
        self.mtime = None  # known only if set explicitly since the last change

    def copy(self):
        other = Node(self.kind, self.mode, self.content)
        other.xattrs = dict(self.xattrs)
        other.mtime = self.mtime
        return other


class State:
    """Paths below the recorder's root, which are relative and always have their parent."""

    def __init__(self):
        self.nodes = {}

    def copy(self):
        copies = {}
        other = State()
        for path, node in self.nodes.items():
            if id(node) not in copies:
                copies[id(node)] = node.copy()
            other.nodes[path] = copies[id(node)]
        return other

    def below(self, path):
        return [p for p in self.nodes if p.startswith(path + "/")]

    def entries_changed(self, path):
        parent = self.nodes.get(os.path.dirname(path))
        if parent:
            parent.mtime = None

    def apply(self, op):
        getattr(self, "do_" + op[0])(*op[1:])

    def do_create(self, path, mode):
        self.nodes[path] = Node("file", mode)
        self.entries_changed(path)

    def do_mkdir(self, path, mode):
        self.nodes[path] = Node("dir", mode)
        self.entries_changed(path)

    def do_symlink(self, target, path):
        self.nodes[path] = Node("link", 0o777, target.encode())
        self.entries_changed(path)

    def do_write(self, path, offset, seed, length):
        self.write_bytes(path, offset, data_of(seed, length))

    def write_bytes(self, path, offset, data):
        node = self.nodes[path]
        if len(node.content) < offset:
            node.content.extend(bytes(offset - len(node.content)))
        node.content[offset:offset + len(data)] = data
        node.mtime = None

    def do_truncate(self, path, size):
        node = self.nodes[path]
        del node.content[size:]
        node.content.extend(bytes(size - len(node.content)))
        node.mtime = None

    def do_unlink(self, path):
        del self.nodes[path]
        self.entries_changed(path)

    do_rmdir = do_unlink

    def do_link(self, old, new):
        self.nodes[new] = self.nodes[old]
        self.entries_changed(new)

    def do_rename(self, old, new):
        if self.nodes.get(new) is self.nodes[old]:
            return
        moved = [(p, new + p[len(old):]) for p in [old, *self.below(old)]]
        found = [(to, self.nodes.pop(path)) for path, to in moved]
        self.nodes.update(found)
        self.entries_changed(old)
        self.entries_changed(new)

    def do_chmod(self, path, mode):
        self.nodes[path].mode = mode

    def do_utime(self, path, mtime):
        self.nodes[path].mtime = mtime

    def do_setxattr(self, path, name, value):
        self.nodes[path].xattrs[name] = value.encode()

    def do_removexattr(self, path, name):
        del self.nodes[path].xattrs[name]


def perform(root, op):
    """The system call that is recorded; exactly one that changes something."""
    kind = op[0]
    at = lambda path: os.path.join(root, path)  # noqa: E731
    if kind == "create":
        os.close(os.open(at(op[1]), os.O_CREAT | os.O_EXCL | os.O_WRONLY, op[2]))
    elif kind == "mkdir":
        os.mkdir(at(op[1]), op[2])
    elif kind == "symlink":
        os.symlink(op[1], at(op[2]))
    elif kind == "write":
        data = data_of(op[3], op[4])
        target = os.open(at(op[1]), os.O_WRONLY)
        try:
            if os.pwrite(target, data, op[2]) != len(data):
                raise AssertionError("a short write")
        finally:
            os.close(target)
    elif kind == "truncate":
        os.truncate(at(op[1]), op[2])
    elif kind == "unlink":
        os.unlink(at(op[1]))
    elif kind == "rmdir":
        os.rmdir(at(op[1]))
    elif kind == "link":
        os.link(at(op[1]), at(op[2]))
    elif kind == "rename":
        os.rename(at(op[1]), at(op[2]))
    elif kind == "chmod":
        os.chmod(at(op[1]), op[2])
    elif kind == "utime":
        os.utime(at(op[1]), ns=(op[2], op[2]))
    elif kind == "setxattr":
        os.setxattr(at(op[1]), op[2], op[3].encode())
    elif kind == "removexattr":
        os.removexattr(at(op[1]), op[2])
    else:
        raise AssertionError(f"unknown operation {op}")


def difference(state, root):
    """None if the tree on disk is the state, else the first thing that differs."""
    on_disk = {}
    for base, dirs, names in os.walk(root, onerror=raise_it):
        for name in dirs + names:
            path = os.path.join(base, name)
            on_disk[os.path.relpath(path, root)] = os.lstat(path)
    missing = sorted(state.nodes.keys() - on_disk.keys())
    extra = sorted(on_disk.keys() - state.nodes.keys())
    if missing or extra:
        return f"missing {missing[:5]}, not expected {extra[:5]}"
    links = {}
    for path, node in state.nodes.items():
        links.setdefault(id(node), []).append(path)
    for path, node in state.nodes.items():
        found = differs(os.path.join(root, path), on_disk[path], node, links[id(node)], on_disk)
        if found:
            return f"{path}: {found}"
    return None


def differs(full, seen, node, names, on_disk):
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}.get(stat.S_IFMT(seen.st_mode))
    if kind != node.kind:
        return f"is a {kind}, expected a {node.kind}"
    if kind != "link" and stat.S_IMODE(seen.st_mode) != node.mode:
        return f"mode {stat.S_IMODE(seen.st_mode):o}, expected {node.mode:o}"
    if node.mtime is not None and seen.st_mtime_ns != node.mtime:
        return f"mtime {seen.st_mtime_ns}, expected {node.mtime}"
    if kind != "dir" and seen.st_nlink != len(names):
        return f"{seen.st_nlink} links, expected {len(names)}: {names}"
    if any(on_disk[name].st_ino != seen.st_ino for name in names):
        return f"not one file with {names}"
    if kind == "link":
        content = os.fsencode(os.readlink(full))
    elif kind == "file":
        with open(full, "rb") as source:
            content = source.read()
    else:
        content = b""
    if content != node.content:
        at = next((i for i, (a, b) in enumerate(zip(content, node.content)) if a != b), "the end")
        return f"{len(content)} bytes, expected {len(node.content)}; they differ at {at}"
    xattrs = {n: os.getxattr(full, n, follow_symlinks=False)
              for n in os.listxattr(full, follow_symlinks=False) if n.startswith("user.")}
    if xattrs != node.xattrs:
        return f"xattrs {xattrs}, expected {node.xattrs}"
    return None


def raise_it(error):
    raise error
