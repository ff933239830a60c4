"""The package as built: every folder and data file arrives, and nothing else becomes importable."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("codegen", "frontend", "ir", "passes", "runtime")
SHIPPED = {".py", ".grad", ".json", ".lark", ".txt"}


def shipped_files() -> set[str]:
    """What a wheel must hold under gradc/, by its path there."""
    found = {p.name for p in (ROOT / "gradc").iterdir() if p.is_file() and p.suffix in SHIPPED}
    found.add("py.typed")
    for folder in FOLDERS:
        found |= {
            p.relative_to(ROOT).as_posix()
            for p in (ROOT / folder).rglob("*")
            if p.suffix in SHIPPED and "__pycache__" not in p.parts
        }
    return {f"gradc/{name}" for name in found}


def in_the_tree(name: str) -> str:
    """Where a file of the wheel lies in the source tree: `gradc/ir/core.py` is
    `ir/tensor/core.py`.
    """
    inner = name.removeprefix("gradc/")
    return inner if "/" in inner else name


def test_packages_listed_are_the_folders_that_hold_something() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    folders = {str(Path(name).parent).replace("/", ".") for name in shipped_files()}
    assert sorted(listed) == sorted(folders)


def test_every_package_folder_has_an_init() -> None:
    folders = {Path(name).parent.relative_to("gradc") for name in shipped_files()} - {Path(".")}
    assert [str(f) for f in sorted(folders) if not (ROOT / f / "__init__.py").is_file()] == []


def test_links_lead_to_the_folders() -> None:
    links = [ROOT / "gradc" / folder for folder in FOLDERS]
    if not any(link.exists() for link in links):
        pytest.skip("a copy without symbolic links (an sdist, Windows)")
    assert [link.resolve() for link in links] == [ROOT / folder for folder in FOLDERS]


# Where the name of a module is not that of what is installed.
DISTRIBUTIONS = {"flint": "python-flint", "numba_cuda": "numba-cuda"}
# Of the extras: programs, libraries that others load, and what is asked for by name.
LOADED = {
    "cuda-bindings",
    "cuda-toolkit",
    "nvidia-cuda-nvdisasm",
    "nvidia-nvjitlink",
    "nvidia-nvvm",
    "openmpi",
}


def imported() -> set[str]:
    """What shipped modules import, wherever they do, beside gradc and the standard library."""
    found: set[str] = set()
    for folder in ("gradc", *FOLDERS):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"gradc"}


def test_what_is_installed_is_what_is_imported() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    names = {DISTRIBUTIONS.get(name, name) for name in imported()}
    named = re.compile(r"[\w-]+")
    needed = {match[0] for line in project["dependencies"] if (match := named.match(line))}
    optional = {
        match[0]
        for name in ("bench", "cuda", "mpi")
        for line in project["optional-dependencies"][name]
        if (match := named.match(line))
    }
    assert needed <= names, "installed with gradc, and imported by nothing"
    assert names == needed | (optional - LOADED)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel made from it, built from a copy of the tree."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "out"
    )
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)],
        capture_output=True,
        check=True,
    )
    return out


@pytest.mark.slow
def test_wheel_holds_exactly_what_the_folders_hold(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
        (top_level,) = [n for n in archive.namelist() if n.endswith("/top_level.txt")]
        assert archive.read(top_level).decode().split() == ["gradc"]
    assert names == shipped_files()
    assert any(name.endswith(".lark") for name in names)
    assert any(name.endswith(".grad") for name in names)


@pytest.mark.slow
def test_wheel_alone_checks_a_model(built: Path, tmp_path: Path) -> None:
    """The unpacked wheel, with nothing of the source tree beside it, finds its grammar and
    library.
    """
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import gradc, gradc.__main__ as entry\n"
        "assert gradc.__file__.startswith(sys.argv[1]), gradc.__file__\n"
        "sys.argv[1:] = ['check', sys.argv[2]]\n"
        "sys.exit(entry.main())\n"
    )
    model = ROOT / "examples" / "digits" / "mlp.grad"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(model)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sdist_holds_tests_examples_and_their_data(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    wanted = {"examples/digits/digits_train.npz", "tests/test_packaging.py", "CONTRIBUTING.md"}
    assert wanted - names == set()
    assert {in_the_tree(name) for name in shipped_files()} - names == set()
