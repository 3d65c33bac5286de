"""repo/: a git repository made of published packages, committed version by version.

Owns the history: which versions, in which order, cut into commits how. Fetching goes
through `npm pack` and `cargo fetch`; the archives are kept in archives/, so that an
interrupted run fetches nothing twice. The result depends on the versions alone:
dates, names and order are fixed, so the commit ids are the same everywhere.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from stages import call, fresh

HERE = Path(__file__).resolve().parent
FIRST_DATE = 1_500_000_000
SECONDS_BETWEEN = 7_200
AUTHOR = "Coding Day <coding-day@example.invalid>"
NPM_PACK_BATCH = 12
TAGS = 10


def recipe(size):
    history = json.loads((HERE / "history.json").read_text())[size]
    return {"format": 3, **history}


def make(out, recipe):
    archives = out / "archives"
    archives.mkdir(exist_ok=True)
    versions = in_turn(recipe["npm"], recipe["crates"])
    fetch_npm(archives, [(n, v) for kind, n, v in versions if kind == "npm"])
    fetch_crates(archives, [(n, v) for kind, n, v in versions if kind == "crates"])

    unfinished = fresh(out / "repo.new")
    call(["git", "init", "-q", "-b", "main", "."], unfinished)
    commits = import_history(unfinished, archives, versions, recipe["commits_per_version"])
    call(["git", "repack", "-a", "-d", "-q"], unfinished)
    call(["git", "reset", "-q", "--hard", "main"], unfinished)
    call(["git", "fsck", "--full"], unfinished)
    files = len(call(["git", "ls-files", "-z"], unfinished).split("\0")) - 1
    head = call(["git", "rev-parse", "main"], unfinished).strip()
    if files < recipe["least_files"] or commits < recipe["least_commits"]:
        sys.exit(f"make_inputs: the repository has {files} files and {commits} commits, wanted "
                 f"{recipe['least_files']} and {recipe['least_commits']}: add versions to history.json")
    if (out / "repo").exists():
        shutil.rmtree(out / "repo")
    os.rename(unfinished, out / "repo")
    return {"head": head, "files": files, "commits": commits,
            "far": "mark-00", "near": f"mark-{TAGS - 1:02}"}


def in_turn(npm, crates):
    """[(kind, name, version)]: each package in version order, the packages interleaved evenly."""
    placed = []
    for kind, group in (("npm", npm), ("crates", crates)):
        for name, versions in group.items():
            for i, version in enumerate(versions):
                placed.append(((i + 0.5) / len(versions), kind, name, version))
    placed.sort(key=lambda p: (p[0], p[1], p[2]))
    return [(kind, name, version) for _, kind, name, version in placed]


def archive_name(kind, name, version):
    if kind == "npm":
        return f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    return f"{name}-{version}.crate"


def fetch_npm(archives, wanted):
    missing = [(n, v) for n, v in wanted if not (archives / archive_name("npm", n, v)).exists()]
    for start in range(0, len(missing), NPM_PACK_BATCH):
        batch = missing[start:start + NPM_PACK_BATCH]
        arriving = fresh(archives / "arriving")
        call(["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", arriving]
             + [f"{n}@{v}" for n, v in batch], archives)
        for name, version in batch:
            # Renamed only when whole: a half-fetched archive is never taken for one.
            os.rename(arriving / archive_name("npm", name, version),
                      archives / archive_name("npm", name, version))
        arriving.rmdir()


def fetch_crates(archives, wanted):
    """One scratch manifest per round: cargo holds one compatible version of a crate at a time."""
    rounds = []
    for name, version in wanted:
        if (archives / archive_name("crates", name, version)).exists():
            continue
        for chosen in rounds:
            if name not in chosen:
                chosen[name] = version
                break
        else:
            rounds.append({name: version})
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    for chosen in rounds:
        scratch = fresh(archives / "scratch")
        (scratch / "src").mkdir()
        (scratch / "src/lib.rs").write_text("")
        lines = [f'{n} = {{ version = "={v}", default-features = false }}' for n, v in chosen.items()]
        (scratch / "Cargo.toml").write_text(
            '[package]\nname = "scratch"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n'
            "[dependencies]\n" + "\n".join(lines) + "\n")
        call(["cargo", "fetch", "--quiet"], scratch)
        for name, version in chosen.items():
            wanted_name = archive_name("crates", name, version)
            found = sorted(home.glob(f"registry/cache/*/{wanted_name}"))
            if not found:
                sys.exit(f"make_inputs: cargo fetched {name} {version} but left no archive in {home}")
            shutil.copy(found[0], archives / (wanted_name + ".new"))
            os.rename(archives / (wanted_name + ".new"), archives / wanted_name)
        shutil.rmtree(scratch)


def contents(archive):
    """{path in the package: (git mode, bytes)}"""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.split("/", 1)[-1]
            # git refuses these as paths of a tree.
            if not path or any(part.lower() in (".git", ".", "..", "") for part in path.split("/")):
                continue
            if member.issym():
                found[path] = ("120000", member.linkname.encode())
            elif member.isfile():
                mode = "100755" if member.mode & 0o111 else "100644"
                found[path] = (mode, tar.extractfile(member).read())
    return found


def import_history(repo, archives, versions, parts):
    """Streams all commits into `git fast-import`; returns how many on main."""
    importer = subprocess.Popen(["git", "fast-import", "--quiet", "--done"], cwd=repo,
                                stdin=subprocess.PIPE)
    history = History(importer.stdin)
    present = {}
    for kind, name, version in versions:
        package = f"{kind}/{name}"
        before = present.get(package, {})
        after = contents(archives / archive_name(kind, name, version))
        changed = sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))
        for i, group in enumerate(grouped(changed, parts)):
            said = f"{name} {version}" + (f", part {i + 1}" if i else "")
            history.commit("main", said, [(f"{package}/{p}", after.get(p)) for p in group])
        present[package] = after
    for tag in range(TAGS):
        mark = 1 + (history.count - 1) * tag // (TAGS - 1)
        history.reset(f"refs/tags/mark-{tag:02}", mark)
    on_main = history.count
    history.reset("refs/heads/side", max(1, on_main // 3))
    for i in range(5):
        text = f"note {i}\n".encode() * 50
        history.commit("side", f"side note {i}", [(f"notes/{i}.md", ("100644", text))])
    importer.stdin.write(b"done\n")
    importer.stdin.close()
    if importer.wait(timeout=600) != 0:
        sys.exit("make_inputs: git fast-import failed")
    return on_main


def grouped(paths, parts):
    """Cuts one version's changes into at most `parts` commits, along its folders."""
    folders = {}
    for path in paths:
        top = path.split("/", 1)[0] if "/" in path else ""
        folders.setdefault(top, []).append(path)
    groups = list(folders.values())
    while len(groups) < parts and groups and max(map(len, groups)) >= 8:
        largest = max(groups, key=len)
        at = groups.index(largest)
        half = len(largest) // 2
        groups[at:at + 1] = [largest[:half], largest[half:]]
    if len(groups) > parts:
        groups = groups[:parts - 1] + [sum(groups[parts - 1:], [])]
    return groups


class History:
    """Writes git's fast-import stream."""

    def __init__(self, stream):
        self.stream = io.BufferedWriter(stream.raw, 1 << 20) if hasattr(stream, "raw") else stream
        self.count = 0

    def commit(self, branch, message, changes):
        self.count += 1
        when = FIRST_DATE + self.count * SECONDS_BETWEEN
        text = (message + "\n").encode()
        self._line(f"commit refs/heads/{branch}")
        self._line(f"mark :{self.count}")
        self._line(f"committer {AUTHOR} {when} +0000")
        self._data(text)
        for path, entry in changes:
            quoted = '"' + re.sub(r'(["\\])', r"\\\1", path) + '"'
            if entry is None:
                self._line(f"D {quoted}")
            else:
                self._line(f"M {entry[0]} inline {quoted}")
                self._data(entry[1])
        self.stream.write(b"\n")
        self.stream.flush()

    def reset(self, ref, mark):
        self._line(f"reset {ref}")
        self._line(f"from :{mark}")
        self.stream.write(b"\n")
        self.stream.flush()

    def _line(self, text):
        self.stream.write(text.encode() + b"\n")

    def _data(self, content):
        self._line(f"data {len(content)}")
        self.stream.write(content + b"\n")
