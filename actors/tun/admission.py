"""The gate of the tun actor: the inbound allow-list, where its rules come from, and who asks for it.

Rules are those of the configuration and what was added and removed since the node's start: a memory file tells the
second to a successor, shared memory tells it the flows of the host. While there is no rule nothing of this is in the
way of a packet.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgpack

from actors.runtime.actor import Runtime
from actors.runtime.memory import MemoryFile
from protocol.admission.flows import FLOWS_BYTES, FlowTable
from protocol.admission.gate import Gate, RuleExists, TooManyRules
from protocol.admission.rules import Rule, RuleError
from protocol.frames import AllowedList, AllowedRow, Answer, AskAllowed, ChangeAllowed, Outcome

EXPIRE_SECONDS: Final = 5.0
COMPACT_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """What the gate is given at birth."""

    rules: tuple[str, ...]
    """From the command line or the configuration; empty lets everybody in."""
    memory: int
    """Descriptor of the memory file: rules added and removed since the node's start."""
    flows: int
    """Descriptor of `FLOWS_BYTES` of shared memory: the host's flows."""


class Admission:
    """Owns the gate; `on_change(gate)` hears of it when it comes into force, and None when the last rule went."""

    def __init__(self, runtime: Runtime, config: AdmissionConfig, on_change: Callable[[Gate | None], None]) -> None:
        self._runtime = runtime
        self._memory = MemoryFile(config.memory)
        self._on_change = on_change
        self._configured = {Rule.parse(text): None for text in config.rules}
        now = runtime.loop.now()
        flows = FlowTable(memoryview(mmap.mmap(config.flows, FLOWS_BYTES, mmap.MAP_SHARED)), now)
        self._gate = Gate(flows, runtime.counters)
        for rule in self._remembered():
            self._gate.add(rule, now, configured=rule in self._configured, running=False)
        runtime.on(AskAllowed, self._on_ask)
        runtime.on(ChangeAllowed, self._on_change_allowed)
        runtime.gauges.queue("own_flows", lambda: self._gate.own_flows)
        runtime.loop.every(EXPIRE_SECONDS, self._expire)
        self._apply()

    def forget_routes(self) -> None:
        """The table changed: an address may have another key now."""
        if self._gate.active:
            self._gate.forget_decisions()

    def _remembered(self) -> list[Rule]:
        rules = dict(self._configured)
        for record in self._memory.replay():
            added, text = msgpack.unpackb(record)
            if added:
                rules[Rule.parse(text)] = None
            else:
                rules.pop(Rule.parse(text), None)
        return list(rules)

    def _remember(self, added: bool, rule: Rule) -> None:
        self._memory.append([msgpack.packb((added, str(rule)))])
        if self._memory.size > COMPACT_BYTES:
            present = {passage.rule: None for passage in self._gate.passages}
            gone = [(False, str(rule)) for rule in self._configured if rule not in present]
            come = [(True, str(rule)) for rule in present if rule not in self._configured]
            self._memory.rewrite(msgpack.packb(change) for change in (*gone, *come))

    def _apply(self) -> None:
        self._on_change(self._gate if self._gate.active else None)

    def _expire(self) -> None:
        if self._gate.active:
            self._gate.expire(self._runtime.loop.now())

    # --- questions and orders ---------------------------------------------------------------------------------------

    def _on_ask(self, sender: bytes, message: AskAllowed) -> None:
        now = self._runtime.loop.now()
        rows = tuple(
            AllowedRow(
                rule=str(passage.rule),
                configured=passage.configured,
                packets=passage.packets,
                octets=passage.octets,
                idle=now - passage.last if passage.packets else None,
            )
            for passage in self._gate.passages
        )
        refused = self._runtime.counters["dropped.not_allowed"]
        self._runtime.send(sender, AllowedList(message.token, rows, self._gate.own_flows, refused))

    def _on_change_allowed(self, sender: bytes, message: ChangeAllowed) -> None:
        outcome, reason = self._change(message.add, message.rule)
        self._runtime.send(sender, Answer(message.token, outcome, reason))

    def _change(self, add: bool, text: str) -> tuple[Outcome, str]:
        try:
            rule = Rule.parse(text)
            if add:
                self._gate.add(rule, self._runtime.loop.now(), configured=False)
            else:
                self._gate.remove(rule)
        except RuleExists as error:
            return Outcome.EXISTS, str(error)
        except KeyError:
            return Outcome.MISSING, f"there is no rule {str(rule)!r}"
        except (RuleError, TooManyRules) as error:
            return Outcome.REFUSED, str(error)
        self._remember(add, rule)
        self._apply()
        self._runtime.log.info("the allow-list changed", rule=str(rule), change="added" if add else "removed")
        return Outcome.DONE, ""
