"""Configuration: what a file may say, how it combines with options, and what is refused."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import pytest

import septate
from protocol.mycelium.endpoint import SocketAddress
from septate import config
from septate.config import ConfigError, NodeConfig, PrivateNetwork, Settings, log_level, node_config, remarks
from septate.config_file import FileSettings, parse_settings, read_config_file
from septate.places import default_config_file, default_key_file

PEER = "tcp://192.0.2.1:9651"


def settings_of(**document: Any) -> Settings:
    return parse_settings(document, "test.toml").settings


def node(settings: Settings, **more: Any) -> NodeConfig:
    values: dict[str, Any] = {
        "key_file": Path("key"),
        "make_key_folder": False,
        "log_level": "info",
        "log_format": "compact",
        "instance": None,
    }
    return node_config(settings, **(values | more))


# --- who may come in -------------------------------------------------------------------------------------------------


def test_rules_of_who_may_come_in_are_read_in_their_standard_form() -> None:
    assert settings_of(allow=["ANY  icmp", "any 58"]).allow == ("any icmp",)
    assert node(settings_of(allow="none")).allow == ("none",)
    assert node(Settings()).allow == ()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "would let everybody in"),
        ([5], "is no list of rules"),
        (["any tpc"], "test.toml: allow: 'tpc' is no protocol"),
    ],
)
def test_list_of_rules_that_does_not_say_who_may_come_in_is_refused(given: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        settings_of(allow=given)


# --- values of a file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "port"),
    [
        (9652, 9652),
        ("9652", 9652),
        ("+9652", 9652),
        (9651.9, 9652),
        (9651.5, 9652),
        (9651.4, 9651),
        (True, 1),
        ("true", 1),
        ("FALSE", 0),
        (-0.4, 0),
        (65535, 65535),
    ],
)
def test_number_is_converted_as_in_the_reference(given: Any, port: int) -> None:
    assert settings_of(tcp_listen_port=given).tcp_listen_port == port


@pytest.mark.parametrize(
    "given",
    [65536, -1, "x", "0x10", "9651.0", "", "+", "9" * 30, [9651], {}, float("inf"), float("nan"), 65535.5, -0.6],
)
def test_number_that_is_none_is_refused_by_key(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^test\.toml: tcp_listen_port: "):
        settings_of(tcp_listen_port=given)


@pytest.mark.parametrize("given", [True, "yes", "On", "TRUE", "1", 1, 2, 0.5, -1])
def test_words_and_numbers_mean_true(given: Any) -> None:
    assert settings_of(no_tun=given).no_tun is True


@pytest.mark.parametrize("given", [False, "no", "OFF", "false", "0", 0, 0.0])
def test_words_and_numbers_mean_false(given: Any) -> None:
    assert settings_of(no_tun=given).no_tun is False


@pytest.mark.parametrize("given", ["y", "maybe", "", [], {}])
def test_boolean_that_is_none_is_refused_by_key(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^test\.toml: no_tun: .* no boolean"):
        settings_of(no_tun=given)


@pytest.mark.parametrize(("given", "name"), [("tun0", "tun0"), (5, "5"), (5.5, "5.5")])
def test_text_may_be_a_number(given: Any, name: str) -> None:
    assert settings_of(tun_name=given).tun_name == name


@pytest.mark.parametrize("given", [True, ["x"], {}])
def test_text_that_is_none_is_refused_by_key(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^test\.toml: tun_name: .* no text"):
        settings_of(tun_name=given)


def test_peers_are_one_endpoint_or_a_list_and_each_counts_once() -> None:
    assert settings_of(peers=PEER).peers == (PEER,)
    assert settings_of(peers=["TCP://192.0.2.1:9651", PEER, "quic://[2001:0db8::1]:1"]).peers == (
        PEER,
        "quic://[2001:db8::1]:1",
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [([1], "no list of endpoints"), (1, "no list of endpoints"), (["foo"], "missing leading protocol identifier")],
)
def test_peers_that_are_none_are_refused_by_key(given: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"^test\.toml: peers: .*{reason}"):
        settings_of(peers=given)


def test_interfaces_are_a_list_of_names() -> None:
    assert settings_of(peer_discovery_interfaces=["eth0", 1]).peer_discovery_interfaces == ("eth0", "1")
    with pytest.raises(ConfigError, match="peer_discovery_interfaces: 'eth0' is no list"):
        settings_of(peer_discovery_interfaces="eth0")


@pytest.mark.parametrize("given", ["foo", "localhost:1", "", 8989])
def test_address_that_is_none_is_refused_by_key(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^test\.toml: api_addr: invalid socket address syntax in"):
        settings_of(api_addr=given)


def test_long_values_are_cut_in_errors() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(no_tun=["x" * 1000])
    assert len(str(caught.value)) < 200


def test_unknown_keys_are_named() -> None:
    found = parse_settings({"foo": 1, "section": {"peers": 1}, "tun_name": "x"}, "test.toml")
    assert found == FileSettings(Settings(tun_name="x"), ("foo", "section"))


# --- the file itself --------------------------------------------------------------------------------------------------


def test_file_is_toml_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text('peers = ["tcp://192.0.2.1:9651"]\nfirewall_mark = 0x10\n')
    assert read_config_file(path, may_be_missing=False).settings == Settings(peers=(PEER,), firewall_mark=16)


def test_default_file_may_be_missing_and_may_lie_where_nobody_may_look(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "absent", tmp_path / "file" / "below"):
        assert read_config_file(path, may_be_missing=True) == FileSettings(Settings())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"peers = [\n", "not TOML"),
        (b"peers = []\npeers = []\n", "not TOML"),
        (b"metrics_api_address = 0.0.0.0:9999\n", "not TOML"),
        (b"\xff", "not UTF-8 at byte 0"),
    ],
)
def test_broken_file_is_one_line_with_its_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config_file(path, may_be_missing=True)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_named_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot read configuration file"):
        read_config_file(tmp_path / name, may_be_missing=False)


# --- options over file over defaults ----------------------------------------------------------------------------------


def test_option_wins_even_if_it_equals_the_default() -> None:
    merged = Settings(tcp_listen_port=9651, peers=(PEER,)).over(Settings(tcp_listen_port=1, peers=("tcp://[::1]:1",)))
    assert merged == Settings(tcp_listen_port=9651, peers=(PEER,))


def test_file_counts_where_no_option_is_given() -> None:
    assert Settings().over(Settings(tun_name="x", no_tun=True)) == Settings(tun_name="x", no_tun=True)


def test_flag_counts_if_either_sets_it() -> None:
    assert Settings(no_tun=True).over(Settings(no_tun=False)).no_tun
    assert not Settings().over(Settings()).no_tun


def test_node_without_settings_has_the_defaults_of_the_reference() -> None:
    made = node(Settings())
    assert made.peers == ()
    assert (made.tcp_listen_port, made.quic_listen_port, made.peer_discovery_port) == (9651, 9651, 9650)
    assert (made.api_addr, made.jsonrpc_addr) == (("127.0.0.1", 8989), ("127.0.0.1", 8990))
    assert (made.tun, made.tun_name) == (True, "mycelium")
    assert (made.quic, made.discovery, made.update_workers, made.firewall_mark) == (True, True, 1, None)


def test_every_setting_reaches_the_node() -> None:
    made = node(
        Settings(
            peers=(PEER,),
            tcp_listen_port=1,
            quic_listen_port=2,
            peer_discovery_port=3,
            disable_quic=True,
            disable_peer_discovery=True,
            peer_discovery_interfaces=("eth0",),
            api_addr=SocketAddress.parse("[fe80::1%3]:4"),
            api_body_limit=1 << 30,
            jsonrpc_addr=SocketAddress.parse("127.0.0.2:5"),
            metrics_api_address=SocketAddress.parse("[::1]:7"),
            no_tun=True,
            tun_name="much-too-long-name",
            firewall_mark=6,
            update_workers=255,
            vsock_listen_port=7,
            unix_listen="/run/a.sock",
            network_name="garden",
            network_key_file="/etc/garden",
        ),
        instance="second",
        log_level="debug",
        log_format="plain",
        make_key_folder=True,
    )
    assert made == NodeConfig(
        key_file=Path("key"),
        make_key_folder=True,
        peers=(PEER,),
        tcp_listen_port=1,
        tun=False,
        tun_name="much-too-long-n",
        api_addr=("fe80::1%3", 4),
        firewall_mark=6,
        log_level="debug",
        log_format="plain",
        instance="second",
        quic=False,
        quic_listen_port=2,
        discovery=False,
        peer_discovery_port=3,
        peer_discovery_interfaces=("eth0",),
        api_body_limit=1 << 30,
        jsonrpc_addr=("127.0.0.2", 5),
        metrics_api_address=("::1", 7),
        update_workers=255,
        vsock_listen_port=7,
        unix_listen="/run/a.sock",
        network=PrivateNetwork("garden", Path("/etc/garden")),
    )


@pytest.mark.parametrize(
    "settings",
    [
        Settings(cdn_cache="x"),
        Settings(enable_dns=True),
    ],
)
def test_setting_that_asks_for_a_missing_part_is_refused_by_name(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"^--[a-z-]+: this version has no "):
        node(settings)


def test_all_missing_parts_are_named_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        node(Settings(cdn_cache="x", enable_dns=True))
    assert str(caught.value).startswith("--cdn-cache, --enable-dns: this version has no CDN and no DNS forwarder;")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(network_name="garden"), "network_name without network_key_file"),
        (Settings(network_key_file="key"), "network_key_file without network_name"),
        (Settings(network_name="g", network_key_file="key"), "network name must be between 2 and 64 characters"),
        (Settings(network_name="ä" * 33, network_key_file="key"), "it has 66"),
    ],
)
def test_half_a_private_network_is_no_public_one(settings: Settings, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        node(settings)


def test_settings_without_effect_get_a_remark_each() -> None:
    found = remarks(Settings(quic_listen_port=0, peer_discovery_port=3, update_workers=2, tcp_listen_port=5))
    assert [(remark.level, remark.text.split()[0]) for remark in found] == [("info", "--update-workers")]


def test_interfaces_to_look_on_without_discovery_get_a_warning() -> None:
    (found,) = remarks(Settings(disable_peer_discovery=True, peer_discovery_interfaces=("eth0",)))
    assert (found.level, found.text.split()[0]) == ("warning", "--peer-discovery-interface")


def test_peers_that_never_connect_get_a_warning_each() -> None:
    peers = (PEER, "quic://192.0.2.1:1", "tls://192.0.2.1:2", "vsock://3:4")
    found = remarks(Settings(peers=peers, disable_quic=True))
    assert [(remark.level, remark.text.split()[1]) for remark in found] == [
        ("warning", "quic://192.0.2.1:1"),
        ("warning", "tls://192.0.2.1:2"),
    ]
    assert len(remarks(Settings(peers=peers))) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"peers": ("TCP://192.0.2.1:9651",)},
        {"tcp_listen_port": 65536},
        {"quic_listen_port": -1},
        {"firewall_mark": 1 << 32},
        {"update_workers": 0},
        {"update_workers": 256},
        {"log_level": "trace"},
        {"log_format": "json"},
        {"tun_name": ""},
    ],
)
def test_node_config_checks_itself(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        NodeConfig(key_file=Path("key"), make_key_folder=False, **wrong)


# --- log level --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("silent", "debug", "directives", "expected"),
    [
        (False, False, "", "info"),
        (False, True, "", "debug"),
        (True, True, "", "error"),
        (True, False, "info", "info"),
        (False, False, "off", "error"),
        (False, False, "WARN", "warning"),
        (False, False, "trace", "debug"),
        (False, False, "warn,mycelium::router=debug", "warning"),
        (False, False, "mycelium=warn,mycelium_metrics=info", "info"),
        (False, False, "foo", "error"),
        (False, False, "septate", "debug"),
        (False, False, "hyper=debug", "error"),
        (False, False, " , ", "error"),
    ],
)
def test_log_level_follows_options_and_rust_log(silent: bool, debug: bool, directives: str, expected: str) -> None:
    assert log_level(silent=silent, debug=debug, directives=directives) == expected


def test_malformed_rust_log_is_an_error() -> None:
    with pytest.raises(ConfigError, match="RUST_LOG: 'mycelium=nope' has no level"):
        log_level(silent=False, debug=False, directives="mycelium=nope")


# --- places -----------------------------------------------------------------------------------------------------------


def test_files_lie_where_the_reference_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_key_file({}) == Path("/home/someone/.local/share/mycelium/priv_key.bin")
    assert default_config_file({}) == Path("/home/someone/.config/mycelium/mycelium.toml")
    assert default_key_file({"XDG_DATA_HOME": "/data"}) == Path("/data/mycelium/priv_key.bin")
    assert default_config_file({"XDG_CONFIG_HOME": "/etc"}) == Path("/etc/mycelium/mycelium.toml")


def test_relative_xdg_folder_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_config_file({"XDG_CONFIG_HOME": "etc"}) == Path("/home/someone/.config/mycelium/mycelium.toml")


def test_version_is_that_of_the_package() -> None:
    packaging = configparser.ConfigParser()
    packaging.read(Path(__file__).parents[2] / "setup.cfg")
    assert packaging["metadata"]["version"] == septate.__version__


def test_log_levels_go_from_quiet_to_talkative() -> None:
    assert config.LOG_LEVELS == ("error", "warning", "info", "debug")
