"""The program `septate` itself: options of a node, and running one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from protocol.callers import prefix_text
from protocol.logins import without_secret
from protocol.mycelium.endpoint import MAX_PORT, MAX_U32, Endpoint, SocketAddress
from protocol.targets import Target
from septate import __version__, config
from septate.cli.actors import actors
from septate.cli.allow import allow
from septate.cli.invocation import Invocation, file_options, pass_invocation
from septate.cli.keys import generate_keys, inspect
from septate.cli.messages import message
from septate.cli.outbox import cancel, list_messages, status
from septate.cli.parsing import Group, Number, OnceOption, Parsed, RepeatedOption, spread
from septate.cli.peers import peers
from septate.cli.proxy import proxy
from septate.cli.routes import routes
from septate.cli.stats import stats
from septate.cli.tap import tap

_F = TypeVar("_F", bound=Callable[..., Any])
_ADDRESS = Parsed("ip:port", SocketAddress.parse, "127.0.0.1:8989 or [::1]:8989")
_ENDPOINT = Parsed("endpoint", lambda text: str(Endpoint.parse(text)), "tcp://192.0.2.10:9651")
_TARGET = Parsed("endpoint", lambda text: Target.parse(text).spelled(), "tcp://peer.example.org:9651")
_PREFIX = Parsed("prefix", prefix_text, "192.0.2.0/24")
_FILE = click.Path()
_FOLDER = click.Path(file_okay=False)


def _rule(text: str) -> str:
    # Imported here: keys of rules need libraries that most commands can do without.
    from protocol.admission.rules import Rule

    return str(Rule.parse(text))


class _Program(Group):
    """The outermost command, whose `--peers` takes several words."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """From the last of the declarations below to the first, as help and manual show them."""
        *declared, help_option = super().get_params(ctx)
        return [*reversed(declared), help_option]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """click's own, after `--peers A B` became something it knows."""
        return super().parse_args(ctx, spread(args, "--peers"))


def _switch(name: str, text: str) -> Callable[[_F], _F]:
    return click.option(name, cls=OnceOption, is_flag=True, help=text)


def _value(*names: str, kind: click.ParamType[Any], text: str) -> Callable[[_F], _F]:
    return click.option(*names, cls=OnceOption, type=kind, help=text)


@click.group(
    "septate",
    cls=_Program,
    invoke_without_command=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "-V", "--version", prog_name="septate", message="%(prog)s %(version)s")
@_value("--instance", kind=click.STRING, text="Name of this node among those on the machine.")
@_switch("--enable-dns", "Enable the DNS forwarder (not in this version).")
@_value("--vsock-listen-port", kind=Number(0, MAX_U32), text="Port for vsock connections of peers.")
@_value("--network-key-file", kind=_FILE, text="Key of a private network: a file of 32 bytes.")
@_value("--network-name", kind=click.STRING, text="Name of a private network: only peers with its key are let in.")
@_value("--unix-listen", kind=_FILE, text="Unix socket for connections of peers on this machine.")
@click.option(
    "--deny-peer",
    "deny_peers",
    cls=RepeatedOption,
    type=_PREFIX,
    metavar="PREFIX",
    help="Take no connections from this prefix; may be given again.",
)
@click.option(
    "--allow-peer",
    "allow_peers",
    cls=RepeatedOption,
    type=_PREFIX,
    metavar="PREFIX",
    help="Take connections from this prefix only; may be given again.",
)
@click.option(
    "--named-peer",
    "named_peers",
    cls=RepeatedOption,
    type=_TARGET,
    metavar="ENDPOINT",
    help="A peer by host name, or behind a proxy: socks://[USER@]PROXY:PORT/HOST:PORT; may be given again.",
)
@click.option(
    "--allow",
    cls=RepeatedOption,
    type=Parsed("rule", _rule, "'5ea::/16 tcp/22'"),
    metavar="RULE",
    help="Let only this in from the overlay, such as 'any icmp' or '5ea::/16 tcp/22'; may be given again.",
)
@_value("--cdn-cache", kind=_FOLDER, text="Enable the CDN with this cache directory (not in this version).")
@_value("--message-dir", kind=_FOLDER, text="Folder for the database of messages.")
@_value("--topic-config", kind=_FILE, text="Rules about topics of messages: who may send, what is forwarded.")
@_value("--update-workers", kind=Number(1, config.MAX_UPDATE_WORKERS), text="Accepted for compatibility. [1]")
@_value("--firewall-mark", kind=Number(0, MAX_U32), text="Linux firewall mark (SO_MARK) of sockets towards peers.")
@_value("--metrics-api-address", kind=_ADDRESS, text="Address of Prometheus metrics; none without it.")
@_value("--tun-name", kind=click.STRING, text="Name of the TUN interface. [mycelium]")
@_switch("--no-tun", "Run without a TUN interface: route for others, take no part.")
@_value("--jsonrpc-addr", kind=_ADDRESS, text="Address of the JSON-RPC API. [127.0.0.1:8990]")
@_value(
    "--api-body-limit",
    kind=Number(config.MIN_BODY_LIMIT, config.MAX_BODY_LIMIT),
    text="Most bytes of a request to the HTTP API. [2097152]",
)
@_value("--api-addr", kind=_ADDRESS, text="Address of the HTTP API, to serve or to talk to. [127.0.0.1:8989]")
@click.option(
    "--peer-discovery-interface",
    "peer_discovery_interfaces",
    cls=RepeatedOption,
    type=click.STRING,
    help="Look for neighbours on this interface only; may be given again.",
)
@_switch("--disable-peer-discovery", "Do not look for neighbours on the local network.")
@_value("--peer-discovery-port", kind=Number(0, MAX_PORT), text="UDP port of peer discovery. [9650]")
@_value("-q", "--quic-listen-port", kind=Number(0, MAX_PORT), text="UDP port for QUIC connections. [9651]")
@_switch("--disable-quic", "Neither listen nor connect over QUIC.")
@_value("-t", "--tcp-listen-port", kind=Number(0, MAX_PORT), text="TCP port for peers to connect to. [9651]")
@click.option(
    "--peers",
    cls=RepeatedOption,
    type=_ENDPOINT,
    metavar="ENDPOINT...",
    help="Peers to connect to, as proto://address:port; takes all words up to the next option.",
)
@_value("--log-format", kind=click.Choice(config.LOG_FORMATS), text="Format of log lines. [compact]")
@_switch("--silent", "Log errors only.")
@click.option("-d", "--debug", cls=OnceOption, is_flag=True, help="Log details; does nothing with --silent.")
@file_options
@pass_invocation
@click.pass_context
def septate(ctx: click.Context, invocation: Invocation, /, **options: Any) -> None:
    """Run a node of the Mycelium overlay network, or talk to one that runs."""
    invocation.silent = options.pop("silent")
    invocation.debug = options.pop("debug")
    invocation.log_format = options.pop("log_format") or "compact"
    invocation.instance = options.pop("instance")
    if (options["network_name"] is None) != (options["network_key_file"] is None):
        raise click.UsageError("--network-name and --network-key-file require each other.", ctx)
    if options["peers"] is not None:
        options["peers"] = config.endpoints(options["peers"])
    invocation.options = config.Settings(**options)
    if ctx.invoked_subcommand is None:
        sys.exit(_run_node(invocation))


def _run_node(invocation: Invocation) -> int:
    settings = invocation.settings()
    node = config.node_config(
        settings,
        key_file=invocation.key_path(),
        make_key_folder=invocation.key_file is None,
        log_level=invocation.log_level(),
        log_format=invocation.log_format,
        instance=invocation.instance,
    )
    for remark in config.remarks(settings):
        invocation.log(remark.level, remark.text)
    if any("://" in word and "@" in word for word in sys.argv):
        # What may be a password at a proxy is nothing for `ps`.
        import setproctitle

        setproctitle.setproctitle(" ".join(map(without_secret, sys.argv)))
    import supervisor

    return supervisor.run(node)


for _command in (list_messages, status, cancel):
    message.add_command(_command)
for _command in (inspect, generate_keys, message, peers, routes, proxy, stats, allow, actors, tap):
    septate.add_command(_command)
