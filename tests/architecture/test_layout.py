"""The house stays one that can be seen at a glance."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
ALLOWED_AT_ROOT = {
    ".ci", ".dockerignore", ".env.example", ".github", ".gitignore", ".importlinter", "CHANGELOG.md", "CONTRIBUTING.md",
    "Dockerfile", "LICENSE", "Makefile", "README.md", "SECURITY.md", "benchmarks", "cli", "constraints.txt",
    "docker-compose.yml", "docs", "k8s", "libs", "ops", "pyproject.toml", "requirements-dev.txt", "services", "tests",
}  # fmt: skip
AGENTS = ("xgb-agent", "lgbm-agent", "patchtst-agent", "nhits-agent")


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [Path(name) for name in listing.decode().split("\0") if name]


def test_nothing_stands_at_the_root_that_is_not_on_the_list() -> None:
    assert {path.parts[0] for path in tracked()} <= ALLOWED_AT_ROOT


def test_no_data_model_or_lock_file_is_tracked() -> None:
    forbidden = {".parquet", ".pkl", ".onnx", ".sqlite", ".pth", ".joblib", ".lock"}
    assert [path for path in tracked() if path.suffix in forbidden] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_package_has_a_readme_of_at_most_forty_lines_and_tests() -> None:
    for folder in sorted((ROOT / "services").iterdir()):
        assert len((folder / "README.md").read_text().splitlines()) <= 40, folder.name
        assert list((folder / "tests").glob("test_*.py")), folder.name


def test_every_service_reads_settings_then_app_or_model() -> None:
    for folder in sorted((ROOT / "services").iterdir()):
        package = next(path for path in (folder / "src").iterdir() if (path / "py.typed").exists())
        second = "model.py" if folder.name in AGENTS else "app.py"
        assert {"__main__.py", "settings.py", second} <= {path.name for path in package.iterdir()}, folder.name


def test_the_public_ci_calls_make_targets_only() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    commands = re.findall(r"run: (.*)", text)
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands
    assert all(re.fullmatch(r"make ([a-z0-9-]+)( PYTHON=python3)?", command) for command in commands)
    assert {command.split()[1] for command in commands} <= targets
