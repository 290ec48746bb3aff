"""scripts/setup: what it does to stale daemons, foreign machines and apt's sources, on fake system trees."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = REPO / "scripts"
BOUND_S = 120
SHELL_FILES = [
    *(
        "scripts/setup",
        "scripts/lock",
        "scripts/bench",
        "scripts/clean",
        ".ci/run",
        "images/broker/edgerig-broker",
    ),
    *sorted(str(path.relative_to(REPO)) for path in (SCRIPTS / "lib").glob("*.sh")),
    *sorted(str(path.relative_to(REPO)) for path in (REPO / "images/steps").iterdir()),
]


def in_setup(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` with setup's functions loaded."""
    parts = ("common", "daemon", "install", "base_image", "images", "python")
    load = "".join(f'. "{SCRIPTS}/lib/{part}.sh"; ' for part in parts)
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail; {load}{code}"],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        env={**os.environ, "EDGERIG_REPO": str(REPO), **environment},
    )


def with_process(root: Path, pid: int, name: str, state: str = "S") -> None:
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True)
    (folder / "stat").write_text(f"{pid} ({name}) {state} 1 {pid} {pid} 0 -1\n", encoding="utf-8")


def with_pid_file(root: Path, path: str, content: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


@pytest.mark.parametrize("content", ["4711", "4711\n", "", "not a number"])
def test_pid_file_without_a_process_is_removed(tmp_path: Path, content: str) -> None:
    file = with_pid_file(tmp_path, "var/run/docker.pid", content)
    done = in_setup("remove_stale_pids", EDGERIG_SYSROOT=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not file.exists()
    assert "removing stale /var/run/docker.pid" in done.stdout


def test_pid_file_whose_number_another_program_got_is_removed(tmp_path: Path) -> None:
    file = with_pid_file(tmp_path, "var/run/docker/containerd/containerd.pid", "812")
    with_process(tmp_path, 812, "python3")
    in_setup("remove_stale_pids", EDGERIG_SYSROOT=str(tmp_path))
    assert not file.exists()


def test_pid_file_of_a_zombie_is_removed(tmp_path: Path) -> None:
    """Where PID 1 reaps nobody, a killed daemon keeps its entry in /proc for ever."""
    file = with_pid_file(tmp_path, "var/run/docker.pid", "812")
    with_process(tmp_path, 812, "dockerd", state="Z")
    in_setup("remove_stale_pids", EDGERIG_SYSROOT=str(tmp_path))
    assert not file.exists()


@pytest.mark.parametrize(
    ("path", "name"),
    [("var/run/docker.pid", "dockerd"), ("var/run/docker/containerd/containerd.pid", "containerd")],
)
def test_pid_file_of_a_live_daemon_is_kept(tmp_path: Path, path: str, name: str) -> None:
    file = with_pid_file(tmp_path, path, "812\n")
    with_process(tmp_path, 812, name)
    done = in_setup("remove_stale_pids", EDGERIG_SYSROOT=str(tmp_path))
    assert file.read_text(encoding="utf-8") == "812\n"
    assert done.stdout == ""


def with_os_release(root: Path, content: str) -> None:
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text(content, encoding="utf-8")


def test_elsewhere_it_says_what_to_install_and_exits_3(tmp_path: Path) -> None:
    with_os_release(tmp_path, 'ID=fedora\nID_LIKE="rhel"\n')
    done = in_setup('may_install || say_what_to_install "Docker Engine"', EDGERIG_SYSROOT=str(tmp_path))
    assert done.returncode == 3
    assert "missing: Docker Engine" in done.stderr
    assert "compose plugin v2 and buildx" in done.stderr
    assert "make process-demo" in done.stderr


@pytest.mark.parametrize(
    "release", ["ID=debian\n", "ID=ubuntu\nID_LIKE=debian\n", 'ID=mint\nID_LIKE="ubuntu debian"\n']
)
def test_debian_and_its_children_are_known(tmp_path: Path, release: str) -> None:
    with_os_release(tmp_path, release)
    assert in_setup("have() { true; }; is_debian_family", EDGERIG_SYSROOT=str(tmp_path)).returncode == 0


SOURCES = """\
Packages https://mirror.example/debian-security/ bookworm-security main
Sources https://mirror.example/debian/ bookworm main
Packages https://mirror.example/debian/ bookworm main
Packages https://mirror.example/debian/ bookworm contrib
Packages https://mirror.example/debian/ bookworm-updates main
Packages https://other.example/ stable main
"""


def test_mirror_and_base_sources_come_from_the_machines_own_sources() -> None:
    fake_apt = f"apt-get() {{ cat <<'EOF'\n{SOURCES}EOF\n}}; DEBIAN_KEYRING=/nowhere; "
    assert in_setup(fake_apt + "debian_mirror").stdout == "https://mirror.example/debian/\n"
    assert in_setup(fake_apt + "base_sources").stdout.splitlines() == [
        "deb https://mirror.example/debian-security/ bookworm-security main",
        "deb https://mirror.example/debian/ bookworm main",
        "deb https://mirror.example/debian/ bookworm-updates main",
    ]


def test_base_sources_of_a_newer_debian_take_its_mirror() -> None:
    fake_apt = (
        "apt-get() { echo 'Packages https://mirror.example/debian/ trixie main'; }; DEBIAN_KEYRING=/nowhere; "
    )
    assert in_setup(fake_apt + "base_sources").stdout == "deb https://mirror.example/debian/ bookworm main\n"


@pytest.mark.parametrize(
    ("candidate", "package"), [("2.26.1-4", "docker-compose"), ("1.29.2-3", ""), ("", "")]
)
def test_compose_v1_is_not_taken_for_the_plugin(candidate: str, package: str) -> None:
    fake = f'apt_candidate() {{ [[ $1 != docker-compose ]] || echo "{candidate}"; }}; '
    assert in_setup(fake + "plugin_package compose").stdout == package


def test_proxy_on_loopback_is_kept_from_builds(tmp_path: Path) -> None:
    lines = 'Acquire::http::Proxy "http://127.0.0.1:3142";\nAcquire::Check-Date "0";\n'
    dump = f"apt-config() {{ cat <<'EOF'\n{lines}EOF\n}}; "
    done = in_setup(dump + f'BUILD_SETTINGS="{tmp_path}"; write_apt_settings')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "apt.conf").read_text(encoding="utf-8") == 'Acquire::Check-Date "0";\n'
    assert (tmp_path / "apt.conf").stat().st_mode & 0o777 == 0o600


def test_wait_until_is_bounded() -> None:
    started_s = time.monotonic()
    assert in_setup("wait_until 1 false || echo gave up").stdout == "gave up\n"
    assert time.monotonic() - started_s < 30


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the scripts, so that locks and caches of this clone are left alone."""
    shutil.copytree(SCRIPTS, tmp_path / "clone/scripts")
    return tmp_path / "clone"


def run_setup(clone: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(clone / "scripts/setup"), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=BOUND_S,
        env={**os.environ, **environment},
    )


def test_wrong_usage_exits_2_and_help_exits_0(clone: Path) -> None:
    wrong = run_setup(clone, "--docker")
    assert wrong.returncode == 2
    assert "scripts/setup --python-only" in wrong.stderr
    asked = run_setup(clone, "--help")
    assert asked.returncode == 0
    assert asked.stdout.count("--docker-only") == 1


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")
def test_dead_remote_daemon_is_named_and_never_started(clone: Path) -> None:
    done = run_setup(clone, "--docker-only", DOCKER_HOST="tcp://127.0.0.1:1")
    assert done.returncode == 3
    assert "tcp://127.0.0.1:1 does not answer" in done.stderr
    assert "unset DOCKER_HOST" in done.stderr


def test_python_that_is_missing_is_named(clone: Path, tmp_path: Path) -> None:
    with_os_release(tmp_path, "ID=fedora\n")
    code = "have() { false; }; ensure_python"
    done = in_setup(code, EDGERIG_SYSROOT=str(tmp_path), EDGERIG_PYTHON="no-such-python")
    assert done.returncode == 3
    assert "no Python 3.11 to 3.13" in done.stderr


@pytest.mark.parametrize("file", SHELL_FILES)
def test_shell_files_parse_and_stay_short(file: str) -> None:
    path = REPO / file
    shell = "sh" if path.read_text(encoding="utf-8").startswith("#!/bin/sh") else "bash"
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, timeout=BOUND_S)
    assert done.returncode == 0, done.stderr
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "shellcheck"), "-x", *SHELL_FILES],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
    )
    assert done.returncode == 0, done.stdout


class SecondDaemon:
    """A daemon of its own beside the machine's: other sockets, folders and pid files.

    In a network namespace of its own too: a daemon told to have no bridge removes the machine's docker0.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            "EDGERIG_SYSROOT": str(root),
            "EDGERIG_DOCKERD_LOG": str(root / "dockerd.log"),
            "PATH": f"{root}/bin:{os.environ['PATH']}",
            "DOCKER_HOST": "",
        }
        (root / "bin").mkdir()
        (root / "var/run").mkdir(parents=True)
        (root / "proc").symlink_to("/proc")
        daemon = (
            f"unshare --net {shutil.which('dockerd')} --pidfile {root}/var/run/docker.pid"
            f" --exec-root {root}/var/run/docker --data-root {root}/data --host unix://{root}/docker.sock"
            " --bridge none --iptables=false --ip-forward=false"
        )
        self._wrap("dockerd", daemon)
        self._wrap("docker", f"env -u DOCKER_HOST {shutil.which('docker')} --host unix://{root}/docker.sock")

    def _wrap(self, name: str, command: str) -> None:
        file = self.root / "bin" / name
        file.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        file.chmod(0o755)

    def pid(self) -> int:
        return int((self.root / "var/run/docker.pid").read_text(encoding="utf-8"))

    def kill_hard(self) -> None:
        """As a power cut does it: the daemon and its containerd get no chance to remove their pid files."""
        for path in ("var/run/docker.pid", "var/run/docker/containerd/containerd.pid"):
            number = int((self.root / path).read_text(encoding="utf-8"))
            os.kill(number, signal.SIGKILL)
            wait_gone(number)

    def stop(self) -> None:
        if (self.root / "var/run/docker.pid").exists():
            number = self.pid()
            os.kill(number, signal.SIGTERM)
            wait_gone(number)


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text(
        encoding="utf-8"
    ):
        assert time.monotonic() < deadline, f"process {pid} did not end"
        time.sleep(0.1)


@pytest.fixture
def second_daemon(tmp_path: Path) -> Iterator[SecondDaemon]:
    # A Unix socket's path has at most 107 bytes, pytest's folders are longer.
    root = Path("/tmp") / f"edgerig-daemon-{os.getpid()}"
    root.mkdir()
    daemon = SecondDaemon(root)
    yield daemon
    daemon.stop()
    subprocess.run(["umount", "--recursive", "--quiet", str(root / "data")], check=False, timeout=BOUND_S)
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.containers
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("dockerd") is None, reason="only root starts a daemon")
@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd starts the daemon here")
def test_daemon_is_started_again_after_a_hard_kill(second_daemon: SecondDaemon) -> None:
    first = in_setup("ensure_daemon", **second_daemon.environment)
    assert first.returncode == 0, first.stderr
    assert "starting dockerd in the background" in first.stdout
    pid = second_daemon.pid()

    again = in_setup("ensure_daemon", **second_daemon.environment)
    assert "starting" not in again.stdout
    assert second_daemon.pid() == pid

    second_daemon.kill_hard()
    # The number of the dead daemon belongs to another program now: what makes dockerd refuse to start.
    with_pid_file(second_daemon.root, "var/run/docker.pid", str(os.getpid()))
    healed = in_setup("ensure_daemon", **second_daemon.environment)
    assert healed.returncode == 0, healed.stderr
    assert "removing stale /var/run/docker.pid" in healed.stdout
    assert second_daemon.pid() not in (pid, os.getpid())
