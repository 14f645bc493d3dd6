"""The set-up child: the key is made whole or not at all, the device opens or says why not."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from actors import setup
from actors.runtime.birth import fork_once
from actors.runtime.channel import close_all
from actors.setup import SetupConfig
from protocol.frames import DeviceFailed, DeviceReady
from tests.runtime.children import Child, as_the_supervisor

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

# RFC 7748, section 6.1.
SECRET = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "priv_key.bin"


def _set_up(
    key_file: Path, *, tun_name: str | None = None, make_key_folder: bool = False
) -> DeviceReady | DeviceFailed:
    """What the set-up child reports."""
    config = SetupConfig(key_file, make_key_folder, tun_name, 1342)
    with as_the_supervisor():
        child = Child(*fork_once(lambda channel: setup.main(channel, config), "setup"))
    try:
        assert child.ended() == 0
        child.listen()
        ((report, descriptors),) = child.heard
        close_all(descriptors)
        assert isinstance(report, DeviceReady | DeviceFailed)
        return report
    finally:
        child.close()


def _failure(key_file: Path, **more: bool) -> str:
    report = _set_up(key_file, **more)  # type: ignore[arg-type]
    assert isinstance(report, DeviceFailed)
    return report.error


# --- the key ----------------------------------------------------------------------------------------------------------


def test_key_that_is_there_is_used_without_a_word(key_file: Path) -> None:
    key_file.write_bytes(SECRET)
    key_file.chmod(0o600)
    assert _set_up(key_file) == DeviceReady(PUBLIC, False, ())
    assert key_file.read_bytes() == SECRET


def test_missing_key_is_made_whole_for_its_owner_alone_and_said_aloud(key_file: Path) -> None:
    report = _set_up(key_file)
    assert isinstance(report, DeviceReady)
    assert report.warnings == (f"no key file {key_file}: made a new key, and so a new address",)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert len(key_file.read_bytes()) == 32
    assert [entry.name for entry in key_file.parent.iterdir()] == [key_file.name]


def test_key_that_was_made_is_the_key_of_the_next_start(key_file: Path) -> None:
    first, second = _set_up(key_file), _set_up(key_file)
    assert isinstance(first, DeviceReady)
    assert isinstance(second, DeviceReady)
    assert first.public_key == second.public_key
    assert second.warnings == ()


def test_two_new_keys_differ(tmp_path: Path) -> None:
    first, second = _set_up(tmp_path / "one"), _set_up(tmp_path / "two")
    assert isinstance(first, DeviceReady)
    assert isinstance(second, DeviceReady)
    assert first.public_key != second.public_key


def test_umask_does_not_open_a_new_key(key_file: Path) -> None:
    before = os.umask(0)
    try:
        _set_up(key_file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("size", [0, 1, 31])
def test_short_key_file_is_refused_with_its_path_and_left_as_it_is(key_file: Path, size: int) -> None:
    key_file.write_bytes(bytes(size))
    reason = _failure(key_file)
    assert str(key_file) in reason
    assert f"holds {size} bytes, a key has 32" in reason
    assert key_file.read_bytes() == bytes(size)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_key_that_everybody_may_read_is_used_with_a_warning(key_file: Path, mode: int, warned: bool) -> None:
    key_file.write_bytes(SECRET)
    key_file.chmod(mode)
    report = _set_up(key_file)
    assert isinstance(report, DeviceReady)
    assert report.public_key == PUBLIC
    assert report.warnings == ((f"everybody may read the key file {key_file}: chmod 600 it",) if warned else ())
    assert stat.S_IMODE(key_file.stat().st_mode) == mode


def test_key_file_that_is_a_folder_is_refused_with_its_path(tmp_path: Path) -> None:
    assert f"cannot read key file {tmp_path}: Is a directory" in _failure(tmp_path)


def test_folder_that_somebody_named_has_to_exist(tmp_path: Path) -> None:
    key_file = tmp_path / "absent" / "key"
    assert f"cannot write key file {key_file}: No such file or directory" in _failure(key_file)


def test_folder_of_the_default_path_is_made(tmp_path: Path) -> None:
    key_file = tmp_path / "share" / "mycelium" / "key"
    assert isinstance(_set_up(key_file, make_key_folder=True), DeviceReady)
    assert stat.S_IMODE(key_file.parent.stat().st_mode) == 0o700


def test_no_report_shows_the_key(key_file: Path) -> None:
    key_file.write_bytes(SECRET)
    report = repr(_set_up(key_file)) + repr(SetupConfig(key_file, False, None, 1342))
    assert SECRET.hex() not in report
    assert repr(SECRET)[2:-1] not in report


# --- the device -------------------------------------------------------------------------------------------------------


def _in_namespaces(script: str, *, before: str = "true") -> str:
    """What a Python script prints as root of network and mount namespaces of its own, after a shell command there."""
    if shutil.which("unshare") is None or not Path("/dev/net/tun").exists():
        pytest.skip("needs unshare and /dev/net/tun")
    program = "from actors.setup import *\nfrom actors.runtime.confine import drop_capabilities\n" + textwrap.dedent(
        script
    )
    inner = ["sh", "-c", f'{before} || exit 77; exec "$@"', "sh", sys.executable, "-c", program]
    done = subprocess.run(
        ["unshare", "-Urnm", *inner],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    if "unshare failed" in done.stderr or done.returncode == 77:
        pytest.skip("this user may make no namespaces")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


REPORT = """
try:
    open_device({name!r})
except SetupError as error:
    print(error)
else:
    print("opened")
"""


def test_device_opens_and_says_what_it_offloads() -> None:
    script = """
        descriptor, offload = open_device("st0")
        print(os.get_blocking(descriptor), offload & 7)
        """
    assert _in_namespaces(script) == "False 7"


def test_device_gets_address_mtu_and_is_up() -> None:
    script = """
        import subprocess
        descriptor, offload = open_device("st0")
        configure_device("st0", bytes.fromhex("0520c662fd009e925d9934ed0ab882ab"), 1342, bool(offload))
        configure_device("st0", bytes.fromhex("0520c662fd009e925d9934ed0ab882ab"), 1342, bool(offload))
        print(subprocess.check_output(["ip", "-o", "-6", "address", "show", "dev", "st0"], text=True))
        print(subprocess.check_output(["ip", "-o", "link", "show", "dev", "st0"], text=True))
        """
    if shutil.which("ip") is None:
        pytest.skip("needs ip")
    shown = _in_namespaces(script)
    assert "520:c662:fd00:9e92:5d99:34ed:ab8:82ab/7 scope global" in shown
    assert "tentative" not in shown
    assert "mtu 1342" in shown
    assert ",UP" in shown


def test_machine_without_ipv6_is_told_so() -> None:
    script = """
        descriptor, offload = open_device("st0")
        try:
            configure_device("st0", bytes.fromhex("0520c662fd009e925d9934ed0ab882ab"), 1342, False)
        except SetupError as error:
            print(error)
        """
    off = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"
    said = _in_namespaces(script, before=off)
    assert "cannot configure the TUN device st0 with 520:c662:fd00:9e92:5d99:34ed:ab8:82ab/7, MTU 1342: " in said
    assert "IPv6 must not be disabled" in said


def test_device_without_rights_says_what_to_do() -> None:
    said = _in_namespaces("drop_capabilities()" + REPORT.format(name="st0"))
    assert said == (
        "cannot open the TUN device st0: permission denied; run under the systemd unit, grant CAP_NET_ADMIN, "
        "or use --no-tun"
    )


def test_device_that_another_program_has_says_so() -> None:
    said = _in_namespaces("kept = open_device('st0')" + REPORT.format(name="st0"))
    assert said == "cannot open the TUN device st0: another program has it; choose another --tun-name"


def test_machine_without_tun_is_told_to_load_it() -> None:
    said = _in_namespaces(REPORT.format(name="st0"), before="mount -t tmpfs tmpfs /dev/net")
    assert said == (
        "cannot open /dev/net/tun: there is none; load the kernel's tun module (modprobe tun), or use --no-tun"
    )


@pytest.mark.parametrize("name", ["x" * 16, "a/b", ".."])
def test_device_name_that_the_kernel_refuses_is_an_error_that_names_it(name: str) -> None:
    said = _in_namespaces(REPORT.format(name=name))
    assert said.startswith(f"cannot open the TUN device {name!r}: ")
    assert said != "opened"


def test_failure_of_the_device_reaches_the_supervisor(key_file: Path) -> None:
    key_file.write_bytes(SECRET)
    report = _set_up(key_file, tun_name="x" * 16)
    assert isinstance(report, DeviceFailed)
    assert "TUN device" in report.error or "/dev/net/tun" in report.error
