"""Histories of real documentation: the commits of a git repository, or the releases of a package."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from app.local.console import Console
from schemas.errors import ServiceMissing

CACHE = Path(__file__).parents[1] / ".cache" / "bench-history"
_PIP = Path(__file__).parents[1] / ".cache" / "uv" / "bin" / "python"
_WITHIN_S = 300
_SUFFIXES = (".txt", ".rst", ".md")


@dataclass(frozen=True, slots=True)
class Revision:
    """name: of the release or the commit. documents: all there are then, text by path."""

    name: str
    documents: dict[str, str]


def git_history(repository: Path, patterns: Sequence[str], most: int) -> Iterator[Revision]:
    """The newest `most` commits that touch matching files, oldest first. Raises ServiceMissing."""
    log = _git(repository, "log", "--first-parent", "--reverse", "--format=%H", "--", *patterns).split()
    if len(log) < 2:
        raise ServiceMissing(f"{repository} has no two commits that touch {' '.join(patterns)}")
    for commit in log[-most:]:
        listed = _git(repository, "ls-tree", "-r", "--name-only", "-z", commit).split("\0")
        paths = [path for path in listed if any(fnmatch(path, pattern) for pattern in patterns)]
        yield Revision(commit[:8], {path: _git(repository, "show", f"{commit}:{path}") for path in paths})


def release_history(package: str, versions: Sequence[str], console: Console) -> Iterator[Revision]:
    """The text files under docs/ of a package's source archives, which are downloaded once. Raises ServiceMissing."""
    for version in versions:
        archive = _archive(package, version, console)
        documents = {}
        with tarfile.open(archive) as members:
            for member in members:
                path = member.name.partition("/")[2]
                if path.startswith("docs/") and path.endswith(_SUFFIXES) and (file := members.extractfile(member)):
                    documents[path] = file.read().decode(errors="replace")
        yield Revision(version, documents)


def _archive(package: str, version: str, console: Console) -> Path:
    folder = CACHE / f"{package}-{version}"
    found = list(folder.glob("*.tar.gz"))
    if not found:
        console.status(f"downloading the source of {package} {version}")
        pip = [str(_PIP if _PIP.is_file() else sys.executable), "-m", "pip", "download", "-q", "--no-deps"]
        command = [
            *pip,
            "--no-binary",
            ":all:",
            "--disable-pip-version-check",
            "-d",
            str(folder),
            f"{package}=={version}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN_S, check=False)
        found = list(folder.glob("*.tar.gz"))
        if done.returncode or not found:
            reason = (done.stderr.strip() or "no .tar.gz came").splitlines()[-1]
            raise ServiceMissing(f"the source of {package} {version} cannot be downloaded with pip: {reason}")
    return found[0]


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    done = subprocess.run(command, capture_output=True, timeout=_WITHIN_S, check=False)
    if done.returncode:
        raise ServiceMissing(f"`{' '.join(command)}` failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")
