"""Stages that run once: lock, markers, manifest, and running other programs.

Must not know what any stage makes.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time

COMMAND_TIMEOUT_S = 1200


class Stages:
    """One output folder, held by one process at a time."""

    def __init__(self, out):
        self.out = out
        self.manifest_path = out / "manifest.json"

    def __enter__(self):
        self._lock = open(self.out / ".lock", "w")
        # Tests of several binaries ask for the same inputs at once: the others wait.
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_):
        self._lock.close()

    def run(self, name, recipe, make):
        """Calls make(out, recipe) -> facts unless this very recipe was made before."""
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        manifest = self._manifest()
        if manifest.get(name, {}).get("recipe") == digest:
            return
        started = time.monotonic()
        facts = make(self.out, recipe)
        facts["recipe"] = digest
        manifest = self._manifest()
        manifest[name] = facts
        self._write(manifest)
        shown = {k: v for k, v in facts.items() if k != "recipe"}
        print(f"{name}: made in {time.monotonic() - started:.1f} s: {shown}", file=sys.stderr)

    def _manifest(self):
        try:
            return json.loads(self.manifest_path.read_text())
        except FileNotFoundError:
            return {}

    def _write(self, manifest):
        new = self.manifest_path.with_suffix(".new")
        new.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        os.replace(new, self.manifest_path)


def fresh(folder):
    """An empty folder, whatever an interrupted run left there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def unpack(tar, folder, rules):
    """Unpacks an open archive by the rules `data` or `tar`. Python 3.11.2, Debian 12's, has none yet: then it is
    unpacked as it is, which npm and apt have found to be what their registries say."""
    has_rules = hasattr(tarfile, "data_filter")
    tar.extractall(folder, **({"filter": rules} if has_rules else {}))


def call(argv, cwd, env=None, stdin=None):
    """Runs a program; on failure shows what it said and stops."""
    done = subprocess.run([str(a) for a in argv], cwd=cwd, env={**os.environ, **(env or {})},
                          stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=COMMAND_TIMEOUT_S)
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        sys.exit(f"make_inputs: {' '.join(map(str, argv))} in {cwd} failed "
                 f"({done.returncode}):\n{text[-4000:]}")
    return text


def file_digests(folder):
    """Recipe part for a folder of sources: relative path to digest."""
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            with open(path, "rb") as source:
                found[os.path.relpath(path, folder)] = hashlib.sha256(source.read()).hexdigest()
    return found


def count_entries(folder):
    """(files and links, folders) below a folder."""
    files = folders = 0
    for _, dirs, names in os.walk(folder):
        files += len(names)
        for name in dirs:
            folders += 1
    return files, folders
