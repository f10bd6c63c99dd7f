"""The index of wheels: pages that pip installs from, over HTTP, with nothing compiled."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import subprocess
import sys
import threading
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from installation import ROOT, environment

LINUX = "manylinux_2_28_x86_64"


def make_index(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "index/make_index.py", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )


def make_pages(*arguments: object) -> None:
    done = make_index("pages", *arguments)
    assert done.returncode == 0, done.stderr


def write_wheel(
    folder: Path,
    version: str,
    *,
    requires_python: str = ">=3.10",
    tag: str = f"py3-none-{LINUX}",
    answer: int = 42,
) -> Path:
    """A wheel of this project's name with one small module."""
    folder.mkdir(exist_ok=True)
    info = f"fused_ssim-{version}.dist-info"
    files = {
        "fused_ssim.py": f"ANSWER = {answer}\n",
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: fused-ssim\nVersion: {version}\n"
            f"Requires-Python: {requires_python}\n"
        ),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    record = []
    for name, text in files.items():
        digest = urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    path = folder / f"fused_ssim-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


class Server:
    """Serves a folder, and keeps the paths that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.paths: list[str] = []
        paths = self.paths

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *arguments: object) -> None:
                paths.append(self.path)

        handler = functools.partial(Handler, directory=str(folder))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@contextlib.contextmanager
def serving(folder: Path):
    server = Server(folder)
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()


def pip_install(url: str, target: Path) -> subprocess.CompletedProcess[str]:
    """From this index alone, whatever this machine's configuration of pip says."""
    variables = {
        name: value for name, value in environment().items() if not name.startswith("PIP_")
    }
    pip = [sys.executable, "-m", "pip", "--isolated", "install", "--no-cache-dir"]
    options = ["--index-url", url, "--platform", LINUX, "--only-binary", ":all:"]
    return subprocess.run(
        [*pip, *options, "--target", target, "fused-ssim"],
        check=False,
        capture_output=True,
        text=True,
        env={**variables, "PIP_CONFIG_FILE": "/dev/null", "NO_PROXY": "127.0.0.1"},
        timeout=120,
    )


@pytest.fixture
def wheels(tmp_path) -> Path:
    folder = tmp_path / "wheels"
    write_wheel(folder, "0.1.0", answer=1)
    write_wheel(folder, "0.1.0+cu130", answer=2)
    write_wheel(folder, "0.2.0+cu130", answer=3)
    write_wheel(folder, "0.9.0+cu130", requires_python=">=3.99", answer=4)
    write_wheel(folder, "0.1.0+cpu", answer=5)
    write_wheel(folder, "0.1.0", tag="cp311-cp311-macosx_11_0_arm64", answer=6)
    return folder


@pytest.fixture
def site(wheels, tmp_path) -> Path:
    make_pages(tmp_path / "site", "--folder", wheels)
    return tmp_path / "site"


def listed(site: Path, name: str) -> set[str]:
    lines = (site / name / "fused-ssim/index.html").read_text().splitlines()
    return {line.split(">")[1].split("<")[0] for line in lines if line.strip().startswith("<a ")}


def test_each_set_has_its_page(site):
    assert {path.parent.parent.name for path in site.glob("*/fused-ssim/index.html")} == {
        "cpu",
        "cu128",
        "cu130",
    }
    assert listed(site, "cu128") == {f"fused_ssim-0.1.0-py3-none-{LINUX}.whl"}
    assert listed(site, "cpu") == {
        f"fused_ssim-0.1.0+cpu-py3-none-{LINUX}.whl",
        "fused_ssim-0.1.0-cp311-cp311-macosx_11_0_arm64.whl",
    }
    assert len(listed(site, "cu130")) == 3


@pytest.mark.parametrize(("name", "answer"), [("cu128", 1), ("cu130", 3), ("cpu", 5)])
def test_pip_installs_from_it(site, tmp_path, name, answer):
    with serving(site) as server:
        done = pip_install(f"{server.url}/{name}/", tmp_path / "target")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "target/fused_ssim.py").read_text() == f"ANSWER = {answer}\n"
    # The newest of set cu130 is for a Python to come, which the page says.
    downloaded = [path for path in server.paths if path.endswith((".whl", ".metadata"))]
    assert [Path(path).suffix for path in downloaded] == [".metadata", ".whl"]
    assert downloaded[0] == f"{downloaded[1]}.metadata"


def test_pip_finds_the_set_from_its_root(site, tmp_path):
    with serving(site) as server:
        assert pip_install(f"{server.url}/cu130", tmp_path / "target").returncode == 0
    for page in (site / "index.html", site / "cu130/index.html"):
        assert "<a href=" in page.read_text()


@pytest.mark.parametrize("damaged", ["", ".metadata"])
def test_pip_refuses_what_has_another_hash(site, tmp_path, damaged):
    name = f"fused_ssim-0.1.0-py3-none-{LINUX}.whl"
    if damaged:
        path = site / "files" / f"{name}.metadata"
        path.write_text(path.read_text() + "Requires-Dist: something-else\n")
    else:
        write_wheel(site / "files", "0.1.0", answer=666)
    with serving(site) as server:
        done = pip_install(f"{server.url}/cu128/", tmp_path / "target")
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "target/fused_ssim.py").exists()


# ==================================================================================================
# Releases
# ==================================================================================================


def asset(path: Path, url: str) -> dict[str, str]:
    return {
        "name": path.name,
        "browser_download_url": f"{url}/{path.name.replace('+', '%2B')}",
        "digest": f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
    }


def releases(wheels: Path, url: str) -> list[dict[str, object]]:
    """As GitHub's API lists them: a draft, and one with everything."""
    assert make_index("metadata", wheels).returncode == 0
    source = wheels / "fused_ssim-0.1.0.tar.gz"
    source.write_bytes(b"a source distribution")
    return [
        {"tag_name": "v9.0", "draft": True, "assets": [{"name": "fused_ssim-9.0-x.whl"}]},
        {
            "tag_name": "v0.1.0",
            "draft": False,
            "assets": [asset(path, url) for path in sorted(wheels.iterdir())],
        },
    ]


@pytest.mark.parametrize("form", ["list", "pages", "one"])
def test_pip_installs_the_assets_of_releases(wheels, tmp_path, form):
    with serving(wheels) as assets:
        all_of_them: object = releases(wheels, assets.url)
        if form == "pages":
            all_of_them = [all_of_them]
        elif form == "one":
            all_of_them = all_of_them[1]
        (tmp_path / "releases.json").write_text(json.dumps(all_of_them))
        make_pages(
            tmp_path / "site", "--releases", tmp_path / "releases.json", "--metadata", wheels
        )
        with serving(tmp_path / "site") as pages:
            done = pip_install(f"{pages.url}/cu130/", tmp_path / "target")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target/fused_ssim.py").read_text() == "ANSWER = 3\n"
    assert [Path(path).suffix for path in assets.paths] == [".metadata", ".whl"]
    assert not (tmp_path / "site/files").exists()


def test_metadata_that_is_not_the_releases(wheels, tmp_path):
    (tmp_path / "releases.json").write_text(json.dumps(releases(wheels, "https://example.org")))
    changed = wheels / f"fused_ssim-0.1.0-py3-none-{LINUX}.whl.metadata"
    changed.write_text("Metadata-Version: 2.1\n")
    done = make_index(
        "pages", tmp_path / "site", "--releases", tmp_path / "releases.json", "--metadata", wheels
    )
    assert done.returncode != 0
    assert f"{changed.name}: expected sha256" in done.stderr


def test_an_asset_without_a_hash(wheels, tmp_path):
    all_of_them = releases(wheels, "https://example.org")
    for one in all_of_them[1]["assets"]:
        one["digest"] = None
    (tmp_path / "releases.json").write_text(json.dumps(all_of_them))
    done = make_index("pages", tmp_path / "site", "--releases", tmp_path / "releases.json")
    assert done.returncode != 0
    assert 'expected a digest "sha256:..."' in done.stderr


@pytest.mark.parametrize(
    ("version", "tag", "message"),
    [
        ("0.1.0+cu999", f"py3-none-{LINUX}", "no set with local version 'cu999'"),
        ("0.1.0", "py3-none-linux_x86_64", "for platform 'linux_x86_64'"),
    ],
)
def test_a_wheel_of_no_set(tmp_path, version, tag, message):
    write_wheel(tmp_path / "wheels", version, tag=tag)
    done = make_index("pages", tmp_path / "site", "--folder", tmp_path / "wheels")
    assert done.returncode != 0
    assert message in done.stderr


def test_no_wheels(tmp_path):
    done = make_index("pages", tmp_path / "site", "--folder", tmp_path)
    assert done.returncode != 0
    assert "expected at least one wheel" in done.stderr


def test_a_released_file_does_not_change(tmp_path):
    path = write_wheel(tmp_path / "wheels", "0.1.0")
    first = asset(path, "https://example.org/one")
    second = {**first, "digest": f"sha256:{'0' * 64}"}
    (tmp_path / "releases.json").write_text(json.dumps([{"assets": [first]}, {"assets": [second]}]))
    done = make_index("pages", tmp_path / "site", "--releases", tmp_path / "releases.json")
    assert done.returncode != 0
    assert "is there twice" in done.stderr
