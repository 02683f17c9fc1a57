"""Versions of somebody's code, as frozen copies: what git has under a name, the working tree as it is, or a folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from regimes.core.errors import DeclarationError

#: The name of what stands in the repository's folder, committed or not.
WORKING_TREE = "working tree"
_MAIN = ("main", "master", "origin/main", "origin/master")
_NOT_CODE = (".git", "__pycache__", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache")


class Version(NamedTuple):
    """A frozen copy of the code.

    Parameters
    ----------
    name : str
        As a person says it, the commit behind it.
    digest : str
        Of its content: equal ones are equal code.
    tree : Path
        The copy.
    """

    name: str
    digest: str
    tree: Path


class Versions:
    """Versions of the code in which a file lies.

    Parameters
    ----------
    folder : Path
        Of the file.
    out : Path
        Copies are kept in ``trees`` below it, by content. It is never part of a version.
    """

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self.out = folder.resolve(), out.resolve()
        self.store = self.out / "trees"
        found = _git(["rev-parse", "--show-toplevel"], self.folder, missing="")
        self.root = Path(found).resolve() if found else self.folder
        self.is_repository = bool(found)

    @property
    def inner(self) -> Path:
        """The file's folder, as seen from the root of a version."""
        return self.folder.relative_to(self.root)

    def base(self) -> str:
        """What is compared with where nobody says: where the branch left main, else the version before.

        Raises
        ------
        DeclarationError
            If there is none.
        """
        for name in _MAIN if self.is_repository else ():
            if self._commit(name):
                left = _git(["merge-base", "HEAD", name], self.root, missing="")
                if left and left != self._commit("HEAD"):
                    return left
                break
        if self.is_repository and _git(["status", "--porcelain"], self.root, missing=""):
            return "HEAD"
        if self.is_repository and self._commit("HEAD~1"):
            return "HEAD~1"
        raise DeclarationError(
            f"there is no version before this one in {self.root}; give a revision or a folder", "base"
        )

    def frozen(self, name: str, key: str) -> Version:
        """Return a version as a copy: a revision, `WORKING_TREE`, or a folder.

        Raises
        ------
        DeclarationError
            If it is none of these.
        """
        commit = self._commit(name) if self.is_repository else ""
        if commit:
            called = name if commit.startswith(name) else f"{name} ({commit[:9]})"
            return self._tree(called, _git(["rev-parse", f"{commit}^{{tree}}"], self.root))
        if name == WORKING_TREE and self.is_repository:
            return self._tree(name, self._written())
        place = self.root if name == WORKING_TREE else self.folder / name
        if not place.is_dir():
            where = f"of {self.root}" if self.is_repository else f"({self.root} is no git repository)"
            raise DeclarationError(f"got '{name}'; allowed: a revision {where}, '{WORKING_TREE}', or a folder", key)
        return self._copied(name, place.resolve())

    def _commit(self, name: str) -> str:
        return _git(
            ["rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}"], self.root, missing=""
        )

    def _written(self) -> str:
        """Write the working tree, untracked files that are not ignored too, as git's tree; its index is left alone."""
        index = Path(_git(["rev-parse", "--git-path", "index"], self.root))
        with tempfile.TemporaryDirectory() as folder:
            own = Path(folder) / "index"
            with contextlib.suppress(FileNotFoundError):  # with it git knows which files it has read already
                shutil.copy2(self.root / index, own)
            _git(["add", "--all", "--", ".", *self._outside()], self.root, index=own)
            return _git(["write-tree"], self.root, index=own)

    def _outside(self) -> list[str]:
        """What git has to leave out: our own folder, where it lies in the repository and git does not ignore it."""
        if not self.out.is_relative_to(self.root):
            return []
        inner = str(self.out.relative_to(self.root))
        return [] if _git(["check-ignore", inner], self.root, missing="") else [f":(exclude){inner}"]

    def _tree(self, name: str, tree: str) -> Version:
        with self._made(tree[:16]) as part:
            if part is not None:
                with tempfile.TemporaryDirectory() as folder:
                    own = Path(folder) / "index"
                    _git(["read-tree", tree], self.root, index=own)
                    _git(["checkout-index", "--all", f"--prefix={part}/"], self.root, index=own)
        return Version(name, tree[:16], self.store / tree[:16])

    def _copied(self, name: str, place: Path) -> Version:
        files = [path for path in sorted(place.rglob("*")) if path.is_file() and not self._passed_over(path, place)]
        found = hashlib.sha256()
        for path in files:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found.update(f"{path.relative_to(place)} {os.access(path, os.X_OK)} {content}\n".encode())
        digest = found.hexdigest()[:16]
        with self._made(digest) as part:
            for path in files if part is not None else ():
                target = part / path.relative_to(place)  # type: ignore[operator]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
        return Version(name, digest, self.store / digest)

    def _passed_over(self, path: Path, place: Path) -> bool:
        names = path.relative_to(place).parts
        return any(name in _NOT_CODE for name in names) or path.is_relative_to(self.out)

    @contextlib.contextmanager
    def _made(self, digest: str) -> Iterator[Path | None]:
        """Yield a folder to fill, which then has its name at once; None where the copy is there already."""
        target = self.store / digest
        if target.is_dir():
            yield None
            return
        self.store.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.store))
        try:
            yield part
            with contextlib.suppress(OSError):  # another process has been faster
                part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def link(self, version: Version, names: Sequence[str]) -> None:
        """Link files of the working tree that no version holds (data, say) into a copy.

        Raises
        ------
        DeclarationError
            If one is not there.
        """
        for name in names:
            place, target = self.folder / name, version.tree / self.inner / name
            if not place.exists():
                raise DeclarationError(f"there is no '{name}' in {self.folder}", "guard.links")
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    target.symlink_to(place)


def _git(words: list[str], folder: Path, *, index: Path | None = None, missing: str | None = None) -> str:
    """Return what git says; `missing` where it says that there is none.

    Raises
    ------
    DeclarationError
        What it complains of.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise DeclarationError("needs git, which is not installed", "base") from None
    if done.returncode != 0:
        if missing is not None:
            return missing
        raise DeclarationError(f"git {words[0]} failed: {done.stderr.strip()}", "base")
    return done.stdout.strip()
