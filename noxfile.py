"""Every check of the project, each in an environment of its own.

``nox`` runs the checks that must pass before a change goes in; ``nox --list`` names them all.
``nox -s mutants`` judges the explorations of the lock and the map; it takes long the first time, so
it is not among them.
Nothing is needed but Python, pip and the package index that pip is configured for. That is why
environments are made by virtualenv: uv does not read pip's configuration.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
# nox turns this on where it sees a CI; a Python that the machine lacks is no fault of the code.
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).parent
DIST = ROOT / ".nox" / "dist"
COVERAGE = ROOT / ".nox" / "coverage-data"
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
CLASSIFIED = nox.project.python_versions(PYPROJECT)
# Where nox runs on a Python newer than any named, that one is tried too: better than nothing.
SUPPORTED = CLASSIFIED if sys.version_info < (3, 11) else sorted({*CLASSIFIED, RUNNING})


def _wake_pyenv() -> None:
    """Let pyenv's shims run every Python that pyenv has installed.

    A shim ``python3.12`` on the PATH answers "command not found" unless its version is selected,
    and nox would skip a Python that is there.
    """
    if "PYENV_VERSION" in os.environ or not (pyenv := shutil.which("pyenv")):
        return
    command = [pyenv, "versions", "--bare", "--skip-aliases"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    known = [v for v in answer.stdout.split() if v.rpartition(".")[0] in SUPPORTED]
    # The first one is what a plain `python3` means: keep that the Python which runs nox.
    known.sort(key=lambda version: not version.startswith(f"{RUNNING}."))
    if known:
        os.environ["PYENV_VERSION"] = ":".join(known)


_wake_pyenv()
# The Python of the checks that need only one: nox's own, unless aspf doesn't run on it.
ONE = RUNNING
if RUNNING not in SUPPORTED:
    ONE = next((v for v in SUPPORTED if shutil.which(f"python{v}")), SUPPORTED[0])


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


def _install_wheel(session: nox.Session, *requirements: str) -> None:
    """Install the wheel that the `wheel` session has built, with the ``cli`` extra."""
    (wheel,) = DIST.glob("*.whl")
    session.install(f"{wheel}[cli]", *requirements)
    # In a reused environment (`nox -r`) pip takes the same version for the same wheel.
    session.install("--force-reinstall", "--no-deps", str(wheel))


@nox.session(python=ONE, default=False)
def wheel(session: nox.Session) -> None:
    """Build the sdist, and the wheel from the sdist, as a release would."""
    shutil.rmtree(DIST, ignore_errors=True)
    session.install("build")
    session.run("pyproject-build", "--outdir", str(DIST), str(ROOT))


@nox.session(python=SUPPORTED, requires=["wheel"])
def tests(session: nox.Session) -> None:
    """Test the built wheel; arguments go to pytest."""
    _install_wheel(session, *_group("test"))
    config = ROOT / "pyproject.toml"
    # From an empty directory: in the checkout, Python would import the checkout.
    session.chdir(session.create_tmp())
    pytest = ["pytest", f"--config-file={config}", f"--rootdir={ROOT}", "--numprocesses=2"]
    env = {"ASPF_TEST_INSTALLED": "1"}
    if session.python != ONE or session.posargs:
        session.run(*pytest, *(session.posargs or [str(ROOT / "tests")]), env=env)
        return
    # Measured once, since no line of aspf is for one Python only; and without the explorations that
    # would take four times as long and take no branch that the other tests don't.
    COVERAGE.mkdir(parents=True, exist_ok=True)
    for stale in COVERAGE.glob(".coverage*"):
        stale.unlink()
    session.run(
        *("coverage", "run", f"--rcfile={config}", "-m", *pytest, str(ROOT / "tests")),
        *("-m", "not thorough"),
        env={**env, "COVERAGE_FILE": str(COVERAGE / ".coverage")},
    )
    session.run(*pytest, str(ROOT / "tests"), "-m", "thorough", env=env)
    session.notify("coverage")


@nox.session(python=ONE, default=False)
def coverage(session: nox.Session) -> None:
    """Report the branches that no test took; the threshold is pyproject's."""
    session.install("coverage[toml]")
    session.chdir(COVERAGE)
    config = f"--rcfile={ROOT / 'pyproject.toml'}"
    session.run("coverage", "combine", config)
    session.chdir(ROOT)
    session.run("coverage", "report", f"--data-file={COVERAGE / '.coverage'}", config)


@nox.session(python=ONE, requires=["wheel"])
def released(session: nox.Session) -> None:
    """Find the bugs of released packages, in the versions that examples/released/ names."""
    _install_wheel(session, "hypothesis", "pytest")
    rounds: list[dict[str, str]] = []
    names: list[list[str]] = []
    for example in sorted(ROOT.glob("examples/released/*.py")):
        package, version = example.read_text("utf-8").split(":")[0].strip('"').split()
        at = next((i for i, pins in enumerate(rounds) if package not in pins), len(rounds))
        if at == len(rounds):
            rounds.append({})
            names.append([])
        rounds[at][package] = version
        names[at].append(example.stem)
    config = ROOT / "pyproject.toml"
    tests = ROOT / "tests" / "released"
    for pins, wanted in zip(rounds, names, strict=True):
        session.install(*(f"{package}=={version}" for package, version in pins.items()))
        session.run(
            *("pytest", f"--config-file={config}", f"--rootdir={ROOT}", "-p", "no:cacheprovider"),
            str(tests),
            env={"ASPF_RELEASED": " ".join(wanted)},
        )


@nox.session(python=ONE)
def lint(session: nox.Session) -> None:
    """Check style and format of everything."""
    session.install(*_group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(python=ONE, requires=["wheel"])
def types(session: nox.Session) -> None:
    """Check the types inside, and that users see a type on every public name."""
    _install_wheel(session, *_group("types"))
    session.run("mypy")
    session.chdir(session.create_tmp())
    session.run("pyright", "--ignoreexternal", "--verifytypes", "aspf")


@nox.session(python=ONE, requires=["wheel"])
def docs(session: nox.Session) -> None:
    """Build the documentation, warnings being errors, and run every example in it."""
    _install_wheel(session, *_group("docs"))
    out = ROOT / "docs" / "_build"
    for builder in ("html", "doctest"):
        session.run(
            *("sphinx-build", "--builder", builder, "--fail-on-warning", "--keep-going"),
            *("--nitpicky", "--quiet", "--doctree-dir", str(out / "doctrees")),
            *(str(ROOT / "docs"), str(out / builder)),
        )


@nox.session(python=ONE, default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmarks of the checkout; arguments go to ``python -m benchmarks``."""
    session.install("--editable", ".[cli]", *_group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(python=ONE, default=False)
def demo(session: nox.Session) -> None:
    """Run the experiment, and reproduce the race of the mail."""
    session.install(".[cli]")
    session.chdir(session.create_tmp())
    session.run("aspf", "faults")
    session.run("aspf", "faults", "--layout", "split", "--io", "1", "--writers", "1")
    session.run("aspf", "race", "lost-wakeup")


@nox.session(python=ONE, default=False)
def mutants(session: nox.Session) -> None:
    """Break the lock and the range map line by line; each mutant is killed or explained."""
    session.install("--editable", ".", *_group("test"), *_group("mutants"))
    session.run("python", "-m", "mutants", *session.posargs)
