"""app/: a Vite, React and TypeScript application, its package caches, and bun.

Owns the application's sources, the caches that let `npm ci` and `bun install` run without a
network, and the build made once on the local disk, to which later builds are compared.
"""

import os
import shutil
import sys
import tarfile
from pathlib import Path

from stages import call, count_entries, file_digests, fresh

HERE = Path(__file__).resolve().parent
BUN = ("@oven/bun-linux-x64", "1.4.5")
LEAST_FILES = {"small": 1_500, "full": 20_000}


def recipe(size):
    return {
        "format": 2,
        "size": size,
        "bun": BUN,
        "least_files": LEAST_FILES[size],
        "sources": {"common": file_digests(HERE / "app/common"), size: file_digests(HERE / "app" / size)},
    }


def make(out, recipe):
    size = recipe["size"]
    app = fresh(out / "app")
    shutil.copytree(HERE / "app/common", app, dirs_exist_ok=True)
    shutil.copytree(HERE / "app" / size, app, dirs_exist_ok=True)

    fetch_bun(out)
    reference = fresh(out / "reference")
    shutil.copytree(app, reference, dirs_exist_ok=True)
    call(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", out / "npm-cache"],
         reference)
    files, folders = count_entries(reference / "node_modules")
    if files < recipe["least_files"]:
        sys.exit(f"make_inputs: the application installs {files} files, wanted {recipe['least_files']}")
    for command in (["vite", "build"], ["tsc", "--noEmit"], ["vitest", "run"]):
        call([reference / "node_modules/.bin" / command[0], *command[1:]], reference)
    shutil.rmtree(reference / "node_modules")

    # bun has a lock file and a cache of its own; both are filled here and only read later.
    bun = [out / "bin/bun", "install", "--ignore-scripts", "--cache-dir", out / "bun-cache"]
    call([*bun, "--save-text-lockfile"], reference, bun_environment(out))
    bun_files, _ = count_entries(reference / "node_modules")
    shutil.copy(reference / "bun.lock", app / "bun.lock")
    shutil.rmtree(reference / "node_modules")
    return {"size": size, "npm_files": files, "npm_folders": folders, "bun_files": bun_files}


def bun_environment(out):
    """bun writes into its home; that must not be the user's."""
    home = out / "bun-home"
    home.mkdir(exist_ok=True)
    settings = Path.home() / ".npmrc"
    if settings.exists():
        shutil.copy(settings, home / ".npmrc")
    return {"HOME": str(home), "BUN_INSTALL": str(home)}


def fetch_bun(out):
    name, version = BUN
    target = out / "bin/bun"
    stamp = out / "bin/bun.version"
    if target.exists() and stamp.exists() and stamp.read_text() == version:
        return
    arriving = fresh(out / "bin")
    call(["npm", "pack", "--silent", f"{name}@{version}", "--pack-destination", arriving], arriving)
    archive = next(arriving.glob("*.tgz"))
    with tarfile.open(archive) as tar:
        with tar.extractfile("package/bin/bun") as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink)
    os.chmod(target, 0o755)
    archive.unlink()
    stamp.write_text(version)
