"""The serial consoles of instances: what guests write, and what EC2 shows of it, and when.

A guest writes from its kernel's start until it shuts down.  GetConsoleOutput shows with Latest all
that is older than the console's lag; without it, what there was at the last post, which comes late
after the boot, and again after the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from math import inf

from spotlib.sandbox import catalogue, network
from spotlib.sandbox.account import Instance
from spotlib.sandbox.console_script import Facts, writes, written
from spotlib.sandbox.guests import Guest, guest_of
from spotlib.sandbox.world import World

MOST_BYTES = 65536  # of a console's output that EC2 keeps: the last ones
_ENDED = ("stopped", "terminated")
_DOWN = ("stopping", "shutting-down")
_FINISH_S = 0.05  # from the last line of the user data to the end of cloud-init
_CLOUD_INIT = "cloud-init[1561]: "
_CHATTER = "systemd[1]: Started session-{number}.scope - A session of the user ec2-user."
# (where in the time from the kernel's start to the user data, what is written)
_BOOT = (
    (0.0, "Linux version 6.1.102-111.187.amzn2023 (a sandbox) #1 SMP PREEMPT_DYNAMIC"),
    (0.0, "Command line: root=/dev/nvme0n1p1 ro console=tty0 console=ttyS0,115200n8"),
    (0.03, "rtc0: setting system clock to {clock:%Y-%m-%dT%H:%M:%S} UTC"),
    (0.15, "systemd[1]: Hostname set to <localhost>."),
    (0.4, "systemd[1]: Reached target sysinit.target - System Initialization."),
)
_STAGES = (
    (0.55, "running 'init' at {date}. Up {uptime_s:.2f} seconds."),
    (0.8, "running 'modules:config' at {date}. Up {uptime_s:.2f} seconds."),
    (0.97, "running 'modules:final' at {date}. Up {uptime_s:.2f} seconds."),
)
_FINISHED = "finished at {date}. Datasource DataSourceEc2.  Up {uptime_s:.2f} seconds"


def guest(world: World, instance: Instance) -> Guest:
    """The guest of an instance that runs, or ran."""
    found = guest_of(instance, world.market.numbers, world.guests)
    if found is None:
        raise ValueError(f"{instance.instance_id} never ran, so it has no guest")
    return found


def has_cloud_init(world: World, instance: Instance) -> bool:
    """Whether the image runs scripts in user data: Windows and some own images do not."""
    image = instance.request.launch.get("ImageId", "")
    return image not in world.guests.without_cloud_init and not _is_windows(instance)


def user_lines(world: World, instance: Instance, at_s: float) -> list[tuple[float, str]]:
    """The lines that the user data write at a moment, as they stand on the console."""
    it = guest(world, instance)
    facts = Facts(
        uptime_s=at_s - it.kernel_s,
        posix_s=world.posix(it.clock_s(at_s)),
        synchronised=at_s >= it.synchronised_s,
        boot_id=it.boot_id,
        document=_document(world, instance) if world.guests.metadata else "",
    )
    return [
        (at_s, line if straight else _stamped(it, at_s, _CLOUD_INIT + line))
        for line, straight in written(instance.request.script, facts)
    ]


def shown(world: World, instance: Instance, *, latest: bool) -> tuple[float, bytes]:
    """(when it was updated, what it is) of the output that GetConsoleOutput shows now."""
    nothing, now_s = (instance.launched_s, b""), world.now_s
    it = guest_of(instance, world.market.numbers, world.guests)
    if it is None or it.silent or _is_windows(instance):
        return nothing
    if latest:
        gone = instance.state in _ENDED and world.forms.ended_console == "absent"
        until_s = -1.0 if gone else now_s - it.lag_s
    else:
        until_s = max((at_s for at_s in _posts(instance, it) if at_s <= now_s), default=-1.0)
    lines = _log(world, instance, it, until_s)
    if not lines:
        return nothing
    text = "".join(text for _, text in lines).encode()[-MOST_BYTES:]
    return (lines[-1][0] + it.lag_s if latest else until_s), text


def _posts(instance: Instance, it: Guest) -> Iterator[float]:
    """When EC2 posts what there is: after the boot, if it still runs then, and after each end."""
    for (at_s, state), (next_s, _) in pairwise([*instance.path, (inf, "")]):
        if state == "running" and at_s + it.post_after_s < next_s:
            yield at_s + it.post_after_s
        elif state in _ENDED:
            yield at_s + it.end_post_after_s


def _log(world: World, instance: Instance, it: Guest, until_s: float) -> list[tuple[float, str]]:
    """(when, what) of what the guest writes until then, in order; it writes until it goes down."""
    down_s = next((at_s for at_s, state in instance.path if state in _DOWN), inf)
    alive_s = min(until_s, down_s)
    lines = [*_boot_lines(world, instance, it), *instance.wrote, *_chatter(world, it, alive_s)]
    lines = [(at_s, text + "\r\n") for at_s, text in lines]
    lines.append((it.prompt_s, f"\r\nAmazon Linux 2023\r\n\r\n{_host(instance)} login: "))
    lines = sorted((line for line in lines if line[0] <= alive_s), key=lambda line: line[0])
    if down_s <= until_s:
        lines.append((down_s, _stamped(it, down_s, "reboot: Power down") + "\r\n"))
    return lines


def _boot_lines(world: World, instance: Instance, it: Guest) -> Iterator[tuple[float, str]]:
    took_s = it.user_data_s - it.kernel_s
    said = [(it.kernel_s + share * took_s, text) for share, text in _BOOT]
    if has_cloud_init(world, instance):
        finished_s = it.line_s if writes(instance.request.script) else it.user_data_s
        stages = [(it.kernel_s + share * took_s, text) for share, text in _STAGES]
        stages.append((finished_s + _FINISH_S, _FINISHED))
        said += [(at_s, f"{_CLOUD_INIT}Cloud-init v. 22.2.2 {text}") for at_s, text in stages]
    for at_s, text in said:
        clock = world.utc(it.clock_s(at_s))
        date = clock.strftime("%a, %d %b %Y %H:%M:%S +0000")
        uptime_s = at_s - it.kernel_s
        yield at_s, _stamped(it, at_s, text.format(clock=clock, date=date, uptime_s=uptime_s))


def _chatter(world: World, it: Guest, until_s: float) -> Iterator[tuple[float, str]]:
    """What services go on writing: only as much as there can be in the last bytes."""
    rate = world.guests.chatter_per_s
    count = int(max(0.0, until_s - it.line_s) * rate)
    for number in range(max(0, count - MOST_BYTES // len(_CHATTER)), count):
        at_s = it.line_s + (number + 1) / rate
        yield at_s, _stamped(it, at_s, _CHATTER.format(number=number))


def _stamped(it: Guest, at_s: float, text: str) -> str:
    """A line with the guest's time, as its kernel writes it."""
    return f"[{at_s - it.kernel_s:12.6f}] {text}"


def _is_windows(instance: Instance) -> bool:
    request = instance.request
    image = catalogue.images(request.pool.region).get(request.launch.get("ImageId", ""), {})
    return image.get("Platform") == "windows"


def _address(instance: Instance) -> str:
    pool = instance.request.pool
    return network.subnets(pool.region)[pool.zone_id].address(instance.number)


def _host(instance: Instance) -> str:
    return f"ip-{_address(instance).replace('.', '-')}"


def _document(world: World, instance: Instance) -> str:
    """The identity document of an instance, as its metadata service gives it."""
    request, pool = instance.request, instance.request.pool
    [zone] = [each.name for each in catalogue.zones(pool.region) if each.zone_id == pool.zone_id]
    kind = catalogue.instance_type(pool.instance_type)
    document = {
        "accountId": world.account_id,
        "architecture": kind.architectures[0] if kind else "",
        "availabilityZone": zone,
        "imageId": request.launch.get("ImageId"),
        "instanceId": instance.instance_id,
        "instanceType": pool.instance_type,
        "pendingTime": f"{world.utc(instance.launched_s):%Y-%m-%dT%H:%M:%SZ}",
        "privateIp": _address(instance),
        "region": pool.region,
        "version": "2017-09-30",
    }
    return json.dumps(document, indent=2)
