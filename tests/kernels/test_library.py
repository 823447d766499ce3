"""Compiling and loading: the cache, what can go wrong with it, and doing without."""

import ctypes
import functools
import logging
import os
import pwd
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cdnv2_jax.kernels import library
from cdnv2_jax.kernels import library as build
from tests.kernels.networks import condensed_network, program, random_images, run
from tests.tables import table
from tests.twin_models import assert_near


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and in place of our sources one that compiles at once."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "one.cc").write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try:
        build.find_compiler()
    except build.CannotBuild:
        pytest.skip("no compiler")
    return tmp_path / "cache"


def one(path: Path) -> int:
    return ctypes.CDLL(str(path)).one()


def test_builds_once(cache: Path) -> None:
    path = build.built_library()
    assert one(path) == 1
    written = path.stat().st_mtime_ns
    assert build.built_library() == path
    assert path.stat().st_mtime_ns == written
    assert {entry.name for entry in path.parent.iterdir()} == {path.name, "lock"}
    assert path.stat().st_mode & 0o077 == path.parent.stat().st_mode & 0o077 == 0


def test_other_sources_and_flags_give_other_libraries(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build.built_library()
    monkeypatch.setenv("CDNV2_KERNEL_FLAGS", "-O1")
    second = build.built_library()
    (build.SOURCES / "one.cc").write_text('extern "C" int one() { return 2; }\n')
    third = build.built_library()
    assert len({first, second, third}) == 3
    assert one(third) == 2


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"\0" * len(data), lambda _: b""])
def test_a_damaged_library_is_built_anew(cache: Path, damage) -> None:
    path = build.built_library()
    path.write_bytes(damage(path.read_bytes()))
    assert one(build.built_library()) == 1


def test_a_library_that_others_may_write_is_not_loaded(cache: Path) -> None:
    path = build.built_library()
    path.chmod(0o777)
    path = build.built_library()
    assert path.stat().st_mode & 0o022 == 0
    path.parent.chmod(0o777)
    with pytest.raises(build.CannotBuild, match="other users can write to"):
        build.built_library()


def test_many_build_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One compiles, the others wait for it."""
    compile_now, calls = build._compile, []

    def slowly(*arguments: Any) -> Path:
        calls.append(arguments)
        time.sleep(0.5)
        return compile_now(*arguments)

    monkeypatch.setattr(build, "_compile", slowly)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: build.built_library(), range(4)))
    assert {one(path) for path in paths} == {1}
    assert len(calls) == 1
    assert not list(paths[0].parent.glob(".building-*"))


def test_processes_build_at_once(cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cdnv2_jax.kernels import library as build;"
        "build.SOURCES = Path(sys.argv[1]); import ctypes; print(ctypes.CDLL(str(build.built_library())).one())"
    )
    command = [sys.executable, "-c", code, str(build.SOURCES)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=100)[0].strip() for process in both] == ["1", "1"]


def test_a_compiler_that_fails_is_quoted_in_one_line(cache: Path) -> None:
    (build.SOURCES / "one.cc").write_text("this is no C++\n")
    with pytest.raises(build.CannotBuild, match=r"failed: .*error") as caught:
        build.built_library()
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("a file")
    with pytest.raises(build.CannotBuild, match=str(cache)):
        build.built_library()


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been loaded yet."""
    monkeypatch.setattr(library, "_loaded", functools.cache(library._loaded.__wrapped__))


@pytest.mark.usefixtures("unloaded")
def test_without_a_compiler_the_layers_do_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The same logits, and one line that says so."""
    model, images = condensed_network(), random_images(1, 8, 8)
    expected = run(model, images, condensed_block="layers")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with caplog.at_level(logging.WARNING, "cdnv2_jax"):
        assert_near(run(model, images, condensed_block="kernel"), expected, 1e-7)
        assert "cdnv2." not in program(model, images)
    assert [record.getMessage() for record in caplog.records] == [
        "CPU kernels are not used, everything else works: no C++ compiler (/nowhere/c++) is installed"
    ]


@table(
    "environment, reason",
    [
        ({"CXX": "  ", "PATH": "/nowhere"}, "no C++ compiler (c++, g++, clang++) is installed"),
        ({"CXX": "g++ '-O2"}, "CXX is not a command line (No closing quotation): correct or unset it"),
        ({"CDNV2_KERNEL_FLAGS": '"'}, "CDNV2_KERNEL_FLAGS is not a command line (No closing quotation)"),
        ({"HOME": ""}, "this user has no home directory to cache files in: set XDG_CACHE_HOME to one"),
        ({"HOME": "/proc/nowhere"}, "(XDG_CACHE_HOME can name another cache)"),
    ],
)
def test_odd_environments_cost_one_line(
    environment: dict[str, str], reason: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """None of them a traceback, whatever else is set."""
    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_loaded", functools.cache(library._loaded.__wrapped__))
        patch.delenv("XDG_CACHE_HOME")
        for name, value in environment.items():
            patch.setenv(name, value)
        if not environment.get("HOME", "/"):  # as of a user id that the system does not know
            patch.delenv("HOME")
            patch.setattr(pwd, "getpwuid", dict[int, Any]().__getitem__)
        assert not library.available()
    (record,) = caplog.records
    assert reason in record.getMessage() and "\n" not in record.getMessage()


def test_importing_compiles_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CXX": "/nowhere/c++"}
    code = (
        "import cdnv2_jax.networks.condensenet.network, cdnv2_jax.kernels.library as l; "
        "assert not l._loaded.cache_info().misses"
    )
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.iterdir())
