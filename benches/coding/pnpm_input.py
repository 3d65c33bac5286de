"""pnpm/: the program, a lock file for the application, and a store that lets it install without a network."""

import os
import shutil
import tarfile
from pathlib import Path

from stages import call, count_entries, file_digests, fresh, unpack

HERE = Path(__file__).resolve().parent
# The last major version that is one JavaScript program.
PNPM = "10.11.0"


def recipe(size):
    return {"format": 1, "pnpm": PNPM, "sources": file_digests(HERE / "app" / size)}


def make(out, recipe):
    folder = fresh(out / "pnpm")
    call(["npm", "pack", "--silent", f"pnpm@{PNPM}", "--pack-destination", folder], folder)
    archive = next(folder.glob("*.tgz"))
    with tarfile.open(archive) as tar:
        unpack(tar, folder, "data")
    archive.unlink()

    # It writes into its home; that must not be the user's.
    home = folder / "home"
    home.mkdir()
    settings = Path.home() / ".npmrc"
    if settings.exists():
        shutil.copy(settings, home / ".npmrc")
    environment = {"HOME": str(home), "CI": "1"}
    project = folder / "project"
    project.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(out / "app" / name, project / name)
    pnpm = ["node", folder / "package/bin/pnpm.cjs"]
    # The same versions as npm's lock file has.
    call([*pnpm, "import"], project, environment)
    call([*pnpm, "install", "--frozen-lockfile", "--ignore-scripts", "--store-dir", folder / "store"], project, environment)
    files, _ = count_entries(project / "node_modules")
    os.rename(project / "pnpm-lock.yaml", folder / "pnpm-lock.yaml")
    shutil.rmtree(project)
    return {"files": files}
