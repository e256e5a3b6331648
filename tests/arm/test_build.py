"""The library is built once for each state of sources, options and compiler, or the error says what is missing."""

import importlib.util
import subprocess
import sys

import pytest

from arm import build
from tests.arm.convolutions import needs_compiler


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "quantgap"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "one.c"
    path.write_text('__attribute__((visibility("default"))) int one(void) { return 1; }\n')
    return path


def without(monkeypatch, package: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest)
    )


@needs_compiler
class TestBuilt:
    def test_once(self, cache, source, monkeypatch):
        first = build.built((source,), build.compiler())
        assert first.parent == cache
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
        assert build.built((source,), build.compiler()) == first
        assert [path.name for path in cache.iterdir()] == [first.name]  # and nothing else is left

    def test_again_for_another_source_option_header_or_compiler(self, cache, source):
        command, version = build.compiler()
        header = source.with_name("one.h")
        header.write_text("")
        found = {build.built((source,), (command, version))}
        found.add(build.built((source, header), (command, version)))
        header.write_text("/* changed */")
        found.add(build.built((source, header), (command, version)))
        found.add(build.built((source,), ((*command, "-DX"), version)))
        found.add(build.built((source,), (command, version + ".1")))
        source.write_text(source.read_text().replace("1;", "2;"))
        found.add(build.built((source,), (command, version)))
        assert len(found) == 6

    def test_what_does_not_compile_is_shown(self, cache, source):
        source.write_text("int one(void) { return missing; }\n")
        with pytest.raises(RuntimeError, match=r"(?s)ziglang .* cannot build the ARM kernels:.*missing"):
            build.built((source,), build.compiler())
        assert not list(cache.iterdir())

    def test_a_call_of_the_c_library_does_not_link(self, cache, source):
        source.write_text(
            'int puts(const char *);\n__attribute__((visibility("default"))) int one(void) { return puts(""); }'
        )
        with pytest.raises(RuntimeError, match="puts"):
            build.built((source,), build.compiler())

    def test_a_home_that_cannot_be_written(self, tmp_path, source, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert build.built((source,), build.compiler()).is_file()


class TestCompiler:
    def test_none_off_arm(self, monkeypatch):
        without(monkeypatch, "ziglang")
        monkeypatch.setattr(build, "on_arm", lambda: False)
        with pytest.raises(build.MissingToolchainError, match=r"package ziglang: pip install quantgap\[arm\]"):
            build.compiler()

    def test_the_host_s_own_on_arm(self, monkeypatch):
        without(monkeypatch, "ziglang")
        monkeypatch.setattr(build, "on_arm", lambda: True)
        monkeypatch.setattr(build.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "cc" else None)
        monkeypatch.setattr(build.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "cc 14", ""))
        command, version = build.compiler()
        assert command[0] == "/usr/bin/cc"
        assert "-mcpu=cortex-a53" in command
        assert version == "cc 14"
        monkeypatch.setattr(build.shutil, "which", lambda name: None)
        with pytest.raises(build.MissingToolchainError):
            build.compiler()

    @pytest.mark.parametrize(
        ("system", "machine", "found"),
        [
            ("linux", "aarch64", True),
            ("linux", "x86_64", False),
            ("linux", "armv7l", False),
            ("darwin", "arm64", False),  # whose libraries have another format; it emulates, too
        ],
    )
    def test_which_hosts_run_the_code_themselves(self, monkeypatch, system, machine, found):
        monkeypatch.setattr(build.sys, "platform", system)
        monkeypatch.setattr(build.platform, "machine", lambda: machine)
        assert build.on_arm() is found


def test_importing_builds_nothing():
    code = "import sys; from arm import kernels, count; sys.exit('unicorn' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=build.FOLDER.parents[1])
