"""A management program: drives a machine by its QMP socket.

vmm_qmp.py WORK QMP-SOCKET SCSI-SOCKET, where WORK is "all", every command but quit, or "quit".
"""

import asyncio
import os
import sys

from qemu.qmp import ConnectError, ExecuteError, QMPClient

# Seconds until an event must have come, and until the machine must listen.
LIMIT = 60


class Machine:
    """A machine, and which commands it was given."""

    def __init__(self):
        self.qmp = QMPClient("machine")
        # The client's own.
        self.executed = {"qmp_capabilities"}

    async def connect(self, socket):
        for _ in range(LIMIT * 10):
            try:
                return await self.qmp.connect(socket)
            except ConnectError:
                await asyncio.sleep(0.1)
        raise TimeoutError(socket)

    async def execute(self, name, arguments=None):
        self.executed.add(name)
        return await self.qmp.execute(name, arguments)

    async def refuses(self, name, arguments, words):
        """The error's class, of one whose description has these words."""
        try:
            answer = await self.execute(name, arguments)
        except ExecuteError as error:
            assert words in str(error), f"{name} {arguments}: {error}"
            return error.error.error.class_
        raise AssertionError(f"{name} {arguments}: {answer}")

    async def event(self, name):
        """The data of the next event, which must have this name."""
        event = await asyncio.wait_for(self.qmp.events.get(), LIMIT)
        assert event["event"] == name, f"{name} was expected: {event}"
        assert event["timestamp"]["seconds"] > 0, event
        return event.get("data")

    async def ids(self):
        """The ids of devices on its bus."""
        (bus,) = await self.execute("query-pci")
        return [device["qdev_id"] for device in bus["devices"]]


async def states(machine):
    async def status():
        return await machine.execute("query-status")

    assert await status() == {"status": "running", "running": True}
    await machine.execute("stop")
    await machine.event("STOP")
    assert await status() == {"status": "paused", "running": False}
    await machine.execute("cont")
    await machine.event("RESUME")
    assert await status() == {"status": "running", "running": True}


def status(thread, name):
    with open(f"/proc/{thread}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


async def processors(machine):
    cpus = await machine.execute("query-cpus-fast")
    assert [cpu["props"]["core-id"] for cpu in cpus] == [0, 1], cpus
    threads = {cpu["thread-id"] for cpu in cpus}
    assert len(threads) == 2
    for thread in threads:
        # The program's two filters, and one of the processors' own.
        assert status(thread, "Seccomp_filters") == 3
        assert status(status(thread, "Tgid"), "Seccomp_filters") == 2

    models = await machine.execute("query-cpu-definitions")
    models = {model["name"]: model for model in models}
    for name in ["Haswell", "Haswell-noTSX", "Opteron_G4", "Opteron_G5", "Opteron_G5-v1", "host"]:
        assert all(isinstance(lack, str) for lack in models[name]["unavailable-features"]), name
    assert models["host"]["unavailable-features"] == []
    assert models["Opteron_G5"]["alias-of"] == "Opteron_G5-v2"

    for kind in ["static", "full"]:
        wanted = {"type": kind, "model": {"name": "Haswell", "props": {"hle": False}}}
        model = (await machine.execute("query-cpu-model-expansion", wanted))["model"]
        assert model["props"]["hle"] is False, model
        if kind == "full":
            assert "avx2" in model["props"], model
    wanted = {"type": "full", "model": {"name": "Hasswell"}}
    await machine.refuses("query-cpu-model-expansion", wanted, "Hasswell")


async def statistics(machine):
    schemas = await machine.execute("query-stats-schemas")
    for target in ["vm", "vcpu"]:
        (schema,) = [schema for schema in schemas if schema["target"] == target]
        names = {one["name"] for one in schema["stats"]}
        answers = await machine.execute("query-stats", {"target": target})
        assert len(answers) == {"vm": 1, "vcpu": 2}[target]
        assert all({one["name"] for one in answer["stats"]} == names for answer in answers)

    first = answers[0]["qom-path"]
    providers = [{"provider": "kvm", "names": ["exits"]}]
    wanted = {"target": "vcpu", "vcpus": [first], "providers": providers}
    (answer,) = await machine.execute("query-stats", wanted)
    assert answer["qom-path"] == first
    (exits,) = answer["stats"]
    assert exits["name"] == "exits" and exits["value"] > 0, exits


async def devices(machine, socket):
    before = await machine.ids()
    disk = {"driver": "vhost-user-scsi-pci", "id": "disk1", "socket": socket}
    await machine.execute("device_add", disk)
    assert await machine.ids() == before + ["disk1"]

    await machine.refuses("device_add", disk, "disk1")
    await machine.refuses("device_add", disk | {"id": "a", "socket": "/nowhere"}, "/nowhere")
    await machine.refuses("device_add", disk | {"id": "a", "driver": "e1000"}, "e1000")
    kind = await machine.refuses("device_del", {"id": "other"}, "other")
    assert kind == "DeviceNotFound", kind

    # This guest does not let it go before a reset.
    await machine.execute("device_del", {"id": "disk1"})
    assert "disk1" in await machine.ids()
    await machine.execute("system_reset")
    happened = [await machine.qmp.events.get(), await machine.qmp.events.get()]
    happened = {event["event"]: event.get("data") for event in happened}
    assert happened["RESET"] == {"guest": False, "reason": "host-qmp-system-reset"}, happened
    assert happened["DEVICE_DELETED"]["device"] == "disk1", happened
    assert await machine.ids() == before


async def every_command(machine, socket):
    version = await machine.execute("query-version")
    assert set(version) == {"qemu", "package"}, version
    await states(machine)
    await processors(machine)
    await statistics(machine)
    await devices(machine, socket)
    await machine.refuses("no-such-command", None, "no-such-command")
    machine.executed.remove("no-such-command")

    commands = await machine.execute("query-commands")
    await machine.execute("system_powerdown")
    await machine.event("POWERDOWN")
    assert await machine.event("SHUTDOWN") == {"guest": True, "reason": "guest-shutdown"}
    left = {command["name"] for command in commands} - machine.executed
    assert left == {"quit"}, f"never executed: {left}"


async def quit_it(machine, _socket):
    await machine.execute("quit")
    assert await machine.event("SHUTDOWN") == {"guest": False, "reason": "host-qmp-quit"}


async def main(work, qmp_socket, scsi_socket):
    machine = Machine()
    await machine.connect(qmp_socket)
    try:
        await {"all": every_command, "quit": quit_it}[work](machine, scsi_socket)
    finally:
        await machine.qmp.disconnect()


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 5 * LIMIT))
