"""The set-up child: reads or makes the node key, makes and configures the TUN device, reports, and is gone.

Owns      nothing that outlives it: the descriptor of the TUN device goes to the supervisor
Rights    the supervisor's own (CAP_NET_ADMIN, the key file); not dumpable
Receives  nothing
Sends     DeviceReady with the descriptor, or DeviceFailed
Dies      always, within a second; the supervisor, which must never hold the key, lives on with what it reported.
          Where it hangs it is killed, and the node does not start
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.runtime import keyfile, psk
from actors.runtime.birth import fork_once
from actors.runtime.channel import Channel, ChannelClosed
from actors.runtime.loop import HasFileno
from actors.runtime.networkfile import NetworkFileError, read_network
from protocol.frames import DeviceFailed, DeviceReady
from protocol.mycelium.identity import KEY_BYTES, KeyFileError, address_of, public_key
from septate.config import PrivateNetwork

END_SECONDS: Final = 0.5
OVERLAY_PREFIX_BITS: Final = 7
QUEUED_PACKETS: Final = 2000
"""What the kernel keeps while tun is busy. Its 500 are 10 ms of small datagrams, half of which were lost (measured);
what queues for longer queues in tun, by flow."""
GSO_MAX_BYTES: Final = 65_000
"""Below what one sealed packet can hold (65 503), with room for the vnet header behind it."""

_TUNSETOFFLOAD: Final = 0x400454D0
_TUN_F_CSUM_TSO: Final = 0x01 | 0x02 | 0x04
_TUN_F_TSO_ECN: Final = 0x08
_TUN_F_USO: Final = 0x20 | 0x40


@dataclass(frozen=True, slots=True)
class SetupConfig:
    """What to set up."""

    key_file: Path
    """32 raw bytes; made if missing."""
    make_key_folder: bool
    """Whether its folder may be made, too: for the default path only."""
    tun_name: str | None
    """The device; None for a node without one."""
    mtu: int
    """Bytes; 1342 by default, because a reference node's QUIC link dies of larger packets (wire spec 5.6)."""
    network: PrivateNetwork | None = None
    """The private network, whose key has to be there and of use."""


class SetupError(Exception):
    """The node can't start; says what failed, why, and what to do."""


def in_child(config: SetupConfig, stop: HasFileno, patience: float) -> tuple[DeviceReady, list[int]] | None:
    """Has a child do the work; what it reported, with the device's descriptor, or None if `stop` got readable before.

    Raises `SetupError`, also where nothing is reported within `patience` seconds.
    """
    pid, channel = fork_once(lambda end: main(end, config), "setup")
    deadline = time.monotonic() + patience
    try:
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([channel, stop], [], [], left)
            if stop in ready:
                return None
            for message, descriptors in channel.receive():
                if isinstance(message, DeviceFailed):
                    raise SetupError(message.error)
                return message, descriptors
    except ChannelClosed:
        raise SetupError("the set-up process died without a word; its last lines stand above") from None
    finally:
        _see_off(pid)
        channel.close()
    device = f" and the TUN device {config.tun_name}" if config.tun_name else ""
    raise SetupError(
        f"the set-up process hangs: it said nothing for {patience:g} s; look whether the key file {config.key_file}"
        f"{device} can be reached"
    )


def _see_off(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        # Nearly always it is about to end by itself; killed at once it could leave a key half made.
        if not select.select([pidfd], [], [], END_SECONDS)[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        # What hangs in the kernel dies when that lets go of it, and does not keep us.
        if select.select([pidfd], [], [], END_SECONDS)[0]:
            os.waitpid(pid, 0)
    finally:
        os.close(pidfd)


def main(channel: Channel, config: SetupConfig) -> None:
    """Does the work and reports."""
    warnings: list[str] = []
    try:
        public = public_key(load_or_create_key(config, warnings))
        if config.network is not None:
            psk.check()
            read_network(config.network.name, config.network.key_file)
        if config.tun_name is None:
            channel.send(DeviceReady(public, False, tuple(warnings)))
            return
        device, offload = open_device(config.tun_name)
        configure_device(config.tun_name, address_of(public), config.mtu, bool(offload))
    except (SetupError, KeyFileError, NetworkFileError, psk.Unusable) as error:
        channel.send(DeviceFailed(str(error)))
        return
    channel.send(DeviceReady(public, bool(offload & _TUN_F_USO), tuple(warnings)), (device,))


def load_or_create_key(config: SetupConfig, warnings: list[str]) -> bytes:
    """The secret key in the file, or a new one, saved there so that nobody else may read it.

    Raises `KeyFileError`.
    """
    path = config.key_file
    try:
        secret = keyfile.load(path)
    except FileNotFoundError:
        secret = os.urandom(KEY_BYTES)
        keyfile.create(path, secret, make_folder=config.make_key_folder)
        warnings.append(f"no key file {path}: made a new key, and so a new address")
        return secret
    if keyfile.readable_by_others(path):
        warnings.append(f"everybody may read the key file {path}: chmod 600 it")
    return secret


def open_device(name: str) -> tuple[int, int]:
    """Makes (or attaches to) the TUN device `name`; returns its descriptor and the TUN_F bits of what it offloads.

    Raises `SetupError`.
    """
    # Imported late: only this short-lived process pays for it.
    from pytun_pmd3.linux import IFF_NO_PI, IFF_TUN, IFF_VNET_HDR, TunTapDevice

    try:
        device = TunTapDevice(name=name, flags=IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)
    except OSError as error:
        raise SetupError(_device_refused(name, error)) from error
    descriptor = os.dup(device.fileno())
    device.close()
    os.set_blocking(descriptor, False)
    for offload in (_TUN_F_CSUM_TSO | _TUN_F_TSO_ECN | _TUN_F_USO, _TUN_F_CSUM_TSO | _TUN_F_TSO_ECN, _TUN_F_CSUM_TSO):
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, offload)
            return descriptor, offload
    return descriptor, 0


def configure_device(name: str, address: bytes, mtu: int, offload: bool) -> None:
    """Gives the device its MTU and address and brings it up.

    Raises `SetupError`.
    """
    import ipaddress

    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    text = str(ipaddress.IPv6Address(address))
    try:
        with IPRoute() as netlink:
            index = netlink.link_lookup(ifname=name)[0]
            netlink.link("set", index=index, mtu=mtu, txqlen=QUEUED_PACKETS)
            if offload:
                # An old kernel refuses the attribute; then super-packets are as large as it likes, which we cut.
                with contextlib.suppress(NetlinkError):
                    netlink.link("set", index=index, gso_max_size=GSO_MAX_BYTES)
            try:
                # nodad: the address belongs to our key; nobody on this device could claim it.
                netlink.addr("add", index=index, address=text, prefixlen=OVERLAY_PREFIX_BITS, flags=0x02)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
            netlink.link("set", index=index, state="up")
    except (NetlinkError, OSError, IndexError) as error:
        reason = os.strerror(error.code) if isinstance(error, NetlinkError) else str(error)
        raise SetupError(
            f"cannot configure the TUN device {name} with {text}/{OVERLAY_PREFIX_BITS}, MTU {mtu}: {reason}; "
            "CAP_NET_ADMIN is needed, and IPv6 must not be disabled on this machine"
        ) from error


def _device_refused(name: str, error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            f"cannot open the TUN device {name}: permission denied; run under the systemd unit, grant CAP_NET_ADMIN, "
            "or use --no-tun"
        )
    if error.errno == errno.EBUSY:
        return f"cannot open the TUN device {name}: another program has it; choose another --tun-name"
    if error.errno == errno.ENOENT:
        return "cannot open /dev/net/tun: there is none; load the kernel's tun module (modprobe tun), or use --no-tun"
    if not error.errno:
        return f"cannot open the TUN device {name!r}: {error.args[-1]}; a name has 1 to 15 bytes"
    return f"cannot open the TUN device {name!r}: {os.strerror(error.errno)}; try another --tun-name, or use --no-tun"
