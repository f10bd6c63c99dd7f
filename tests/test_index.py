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


def make_index(releases: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """The pages in `folder / "site"`, of what GitHub's API says."""
    path = folder / "releases.json"
    path.write_text(json.dumps(releases))
    return subprocess.run(
        [sys.executable, ROOT / "index/make_index.py", path, folder / "site"],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )


def write_wheel(
    folder: Path,
    version: str,
    *,
    tag: str = f"py3-none-{LINUX}",
    answer: int = 42,
) -> Path:
    """A wheel of this project's name with one small module."""
    folder.mkdir(exist_ok=True)
    info = f"fused_ssim-{version}.dist-info"
    files = {
        "fused_ssim.py": f"ANSWER = {answer}\n",
        f"{info}/METADATA": (f"Metadata-Version: 2.1\nName: fused-ssim\nVersion: {version}\n"),
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
    write_wheel(folder, "0.1.0+cpu", answer=4)
    write_wheel(folder, "0.1.0", tag="cp311-cp311-macosx_11_0_arm64", answer=5)
    (folder / "fused_ssim-0.1.0.tar.gz").write_bytes(b"a source distribution")
    return folder


def asset(path: Path, url: str) -> dict[str, str]:
    return {
        "name": path.name,
        "browser_download_url": f"{url}/{path.name.replace('+', '%2B')}",
        "digest": f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
    }


def releases(wheels: Path, url: str) -> list[dict[str, object]]:
    """As GitHub's API lists them: a draft, and one with everything."""
    return [
        {"tag_name": "v9.0", "draft": True, "assets": [{"name": "fused_ssim-9.0-x.whl"}]},
        {
            "tag_name": "v0.1.0",
            "draft": False,
            "assets": [asset(path, url) for path in sorted(wheels.iterdir())],
        },
    ]


def listed(site: Path, name: str) -> set[str]:
    lines = (site / name / "fused-ssim/index.html").read_text().splitlines()
    return {line.split(">")[1].split("<")[0] for line in lines if line.strip().startswith("<a ")}


def test_each_set_has_its_page(wheels, tmp_path):
    done = make_index(releases(wheels, "https://example.org"), tmp_path)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
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
    assert len(listed(site, "cu130")) == 2
    for page in (site / "index.html", site / "cu130/index.html"):
        assert "<a href=" in page.read_text()


@pytest.mark.parametrize(
    ("address", "answer", "form"),
    [("cu128/", 1, "list"), ("cu130/", 3, "pages"), ("cu130", 3, "one"), ("cpu/", 4, "list")],
)
def test_pip_installs_from_it(wheels, tmp_path, address, answer, form):
    with serving(wheels) as assets:
        found: object = releases(wheels, assets.url)
        if form == "pages":  # of --slurp
            found = [found]
        elif form == "one":
            found = found[1]
        done = make_index(found, tmp_path)
        assert done.returncode == 0, done.stderr
        with serving(tmp_path / "site") as pages:
            done = pip_install(f"{pages.url}/{address}", tmp_path / "target")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target/fused_ssim.py").read_text() == f"ANSWER = {answer}\n"
    assert [Path(path).suffix for path in assets.paths] == [".whl"]


def test_pip_refuses_what_has_another_hash(wheels, tmp_path):
    with serving(wheels) as assets:
        assert make_index(releases(wheels, assets.url), tmp_path).returncode == 0
        write_wheel(wheels, "0.1.0", answer=666)
        with serving(tmp_path / "site") as pages:
            done = pip_install(f"{pages.url}/cu128/", tmp_path / "target")
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "target/fused_ssim.py").exists()


RIGHT = {
    "name": f"fused_ssim-0.1.0-py3-none-{LINUX}.whl",
    "browser_download_url": "https://example.org/one",
    "digest": f"sha256:{'0' * 64}",
}


@pytest.mark.parametrize(
    ("assets", "message"),
    [
        ([{**RIGHT, "digest": None}], 'expected a digest "sha256:..."'),
        ([{**RIGHT, "digest": "md5:0"}], 'expected a digest "sha256:..."'),
        ([{**RIGHT, "name": f"fused_ssim-0.1.0+cu999-py3-none-{LINUX}.whl"}], "no set with local"),
        ([{**RIGHT, "name": "fused_ssim-0.1.0-py3-none-linux_x86_64.whl"}], "for platform 'linux_"),
        ([{**RIGHT, "name": "other-0.1.0-py3-none-any.whl"}], "expected a wheel of fused-ssim"),
        ([RIGHT, RIGHT], "a released file never changes"),
        ([], "expected at least one wheel"),
    ],
)
def test_refusals(tmp_path, assets, message):
    done = make_index([{"assets": [one]} for one in assets], tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
