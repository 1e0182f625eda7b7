"""The serial console: what guests write, what GetConsoleOutput shows of it, and when.

In-process unless a test says so; tests/sandbox/test_conformance.py has what EC2 documents.
"""

import base64
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from spotlib.sandbox import catalogue
from spotlib.sandbox.console_script import Facts, writes, written
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.market import Market
from spotlib.sandbox.numbers import PROFILES
from spotlib.sandbox.world import Fate, Forms, Guests, World

LINE = """\
synchronised=$(timeout 2 timedatectl show -p NTPSynchronized --value)
uptime=$(cut -d ' ' -f 1 /proc/uptime)
now=$(date -u +%s.%N)
boot=$(cat /proc/sys/kernel/random/boot_id)
imds=http://169.254.169.254/latest
token=$(curl -s -m 1 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $imds/api/token)
document=$(curl -s -H "X-aws-ec2-metadata-token: $token" $imds/dynamic/instance-identity/document)
pending=$(echo "$document" | sed -n 's/.*"pendingTime" *: *"\\([^"]*\\)".*/\\1/p')
echo "here $uptime $now $boot ${pending:--} ${synchronised:--}" > /dev/console
"""
SCRIPT = f"#!/bin/sh\nshutdown -h +15\n{LINE}"
FATE = Fate(evaluate_s=0.0, in_flight_s=1.0, boot_s=5.0, ok_s=60.0, shutdown_s=10.0)
HERE = re.compile(r"here (\S+) (\S+) (\S+) (\S+) (\S+)\r\n")


def encoded(script: str) -> str:
    return base64.b64encode(script.encode()).decode()


def launched(make_account, script=SCRIPT, *, kind="t4g.nano", image=None, fate=FATE, **settings):
    """An account in which one instance with this user data was launched a moment ago."""
    account = make_account(script=lambda _: fate, **settings)
    architectures = catalogue.instance_type(kind).architectures
    given = {"InstanceType": kind, "UserData": encoded(script)}
    given["ImageId"] = image or account.image(architectures[-1])
    account.request(launch=given)
    account.world.advance(2.0)
    [there] = account.ec2.describe_instances()["Reservations"]
    account.instance = there["Instances"][0]["InstanceId"]
    return account


def answer(account, *, latest=True):
    return account.ec2.get_console_output(InstanceId=account.instance, Latest=latest)


def output(account, *, latest=True):
    return answer(account, latest=latest).get("Output", "")


def happened(account):
    [truth] = account.world.truth()
    return truth["happened_s"]


def stamp(account):
    """The values in the line of the user data."""
    [found] = HERE.findall(output(account))
    uptime, clock, boot_id, pending, synchronised = found
    return float(uptime), float(clock), boot_id, pending, synchronised


def refusal(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"]


# What the guest writes.


def test_the_user_data_write_the_values_of_their_guest_after_its_boot(make_account):
    account = launched(make_account)
    account.world.advance(90.0)
    uptime_s, clock_s, boot_id, pending, synchronised = stamp(account)
    moments, world = happened(account), account.world
    [there] = account.ec2.describe_instances()["Reservations"]
    began = datetime.fromisoformat(pending)
    assert began == there["Instances"][0]["LaunchTime"]
    usable_at = world.utc(moments["usable"])
    assert began <= usable_at - timedelta(seconds=uptime_s - 0.01)  # the kernel started later
    assert moments["usable"] >= moments["running"] + world.market.numbers.guest_boot_s
    assert abs(clock_s - world.posix(moments["usable"])) < 20.0
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", boot_id)
    assert synchronised in ("yes", "no")

    lines = output(account).split("\r\n")
    place = next(place for place, line in enumerate(lines) if "here" in line)
    assert place > 5
    assert lines[0].startswith("[    0.000000] Linux version")
    assert any("running 'modules:final'" in line for line in lines[:place])
    finished = [line for line in lines[place:] if "finished at" in line]
    [said] = [re.search(r"Datasource DataSourceEc2\.  Up (.*) seconds$", line) for line in finished]
    assert 0.0 < float(said[1]) - uptime_s < 1.0


def test_guests_differ_and_the_same_seed_has_the_same_guests(make_account):
    def stamps(seed):
        account = make_account(seed=seed, script=lambda _: FATE)
        ids = account.request(3, {"UserData": encoded(SCRIPT)})
        account.world.advance(90.0)
        found = []
        for each in account.instances(ids):
            account.instance = each["InstanceId"]
            found.append(stamp(account))
        return found

    first = stamps(1)
    assert first == stamps(1)
    assert len({each[2] for each in first}) == len({each[0] for each in first}) == 3
    assert not {each[2] for each in first} & {each[2] for each in stamps(2)}


def test_what_each_guest_says_of_itself_agrees_with_the_truth(account):
    """Of fifty guests of the market, so that no bracket made of their values excludes the truth."""
    world, ids = account.world, account.request(50, {"UserData": encoded(SCRIPT)})
    world.advance(120.0)
    usable_s = {each["instance_id"]: each["happened_s"]["usable"] for each in world.truth()}
    synchronised = set()
    for each in account.instances(ids):
        account.instance = each["InstanceId"]
        uptime_s, clock_s, _, pending, said = stamp(account)
        truth = world.posix(usable_s[account.instance])
        assert datetime.fromisoformat(pending).timestamp() + uptime_s <= truth
        assert abs(clock_s - truth) < (1.01 if said == "yes" else 20.0)
        synchronised.add(said)
    assert synchronised == {"yes", "no"}


@pytest.mark.parametrize("method", ["run_instances", "fleet"])
def test_every_way_of_launching_runs_the_user_data(make_account, method):
    account = make_account(script=lambda _: FATE)
    if method == "run_instances":
        [account.instance] = account.run(UserData=SCRIPT)  # botocore encodes it
    else:
        fleet = account.to_fleet(account.template(UserData=encoded(SCRIPT)))
        [shown] = account.ec2.create_fleet(**fleet)["Instances"]
        [account.instance] = shown["InstanceIds"]
    account.world.advance(90.0)
    assert stamp(account)[3] != "-"


def test_a_line_on_the_console_changes_nothing_else_in_a_world(make_account):
    def course(script, reads):
        account = make_account()
        account.request(5, {"UserData": encoded(script)})
        account.world.advance(2000.0 if not reads else 100.0)
        if reads:
            for each in account.ec2.describe_instances()["Reservations"]:
                name = each["Instances"][0]["InstanceId"]
                account.ec2.get_console_output(InstanceId=name, Latest=True)
            account.world.advance(2000.0 - account.world.now_s)
        return [
            {**each, "happened_s": {k: v for k, v in each["happened_s"].items() if k != "usable"}}
            for each in account.world.truth()
        ]

    plain = course("#!/bin/sh\nshutdown -h +15\n", False)
    assert [each["state"] for each in plain] == ["closed"] * 5
    with_line = course(SCRIPT, True)
    for each in (*plain, *with_line):
        del each["seen_s"]
    assert with_line == plain


@pytest.mark.parametrize("off_s", [3600.0, -3600.0, 0.5])
def test_a_clock_is_off_until_it_is_synchronised(make_account, off_s):
    """A small error is made up for slowly, as chrony does; a large one goes at once."""

    def clock_off_s(after_s):
        guests = Guests(clock_off_s=off_s, synchronised_s=after_s)
        account = launched(make_account, guests=guests)
        account.world.advance(90.0)
        _, clock_s, _, _, synchronised = stamp(account)
        return synchronised, clock_s - account.world.posix(happened(account)["usable"])

    assert clock_off_s(float("inf")) == ("no", pytest.approx(off_s, abs=1e-5))
    assert clock_off_s(0.0) == ("yes", pytest.approx(0.0, abs=0.01))
    just_now = clock_off_s(14.0)  # the kernel starts near running, the user data run 15 s later
    assert just_now[0] == "yes"
    assert just_now[1] == pytest.approx(0.4 if off_s == 0.5 else 0.0, abs=0.3)
    assert (abs(just_now[1]) > 0.01) is (off_s == 0.5)


def test_without_a_metadata_service_there_is_no_pending_time(make_account):
    account = launched(make_account, guests=Guests(metadata=False))
    account.world.advance(90.0)
    assert stamp(account)[3] == "-"


def test_only_scripts_are_run(make_account):
    account = launched(make_account, SCRIPT.replace("#!", " #!"))
    account.world.advance(1200.0)
    assert "here" not in output(account)
    assert "finished at" in output(account)
    assert account.world.leftovers()["instances"] == [account.instance]
    assert "usable" not in happened(account)


def test_what_a_script_prints_reaches_the_console_through_cloud_init(make_account):
    account = launched(make_account, "#!/bin/bash -x\necho printed\n")
    account.world.advance(90.0)
    assert re.search(r"\[ +\d+\.\d{6}\] cloud-init\[1561\]: printed\r\n", output(account))


def image_of_windows():
    images = catalogue.images("us-east-1").values()
    return next(
        each["ImageId"]
        for each in images
        if each.get("Platform") == "windows" and each["Architecture"] == "x86_64"
    )


def test_windows_runs_no_script_and_writes_no_console(make_account):
    account = launched(make_account, kind="t3.nano", image=image_of_windows())
    account.world.advance(1200.0)
    assert output(account) == output(account, latest=False) == ""
    assert account.world.leftovers()["instances"] == [account.instance]  # no switch either


def test_an_image_without_cloud_init_boots_and_runs_no_script(make_account):
    image = make_account().image("arm64")
    account = launched(make_account, guests=Guests(without_cloud_init=(image,)))
    account.world.advance(1200.0)
    assert "Linux version" in output(account)
    assert "here" not in output(account)
    assert "loud-init" not in output(account)
    assert account.world.leftovers()["instances"] == [account.instance]


def test_an_instance_that_ends_before_its_user_data_run_never_writes_them(make_account):
    account = launched(make_account)
    account.world.advance(10.0)
    account.ec2.terminate_instances(InstanceIds=[account.instance])
    account.world.advance(100.0)
    assert "usable" not in happened(account)
    whole = output(account)
    assert "Linux version" in whole
    assert "here" not in whole
    assert "finished at" not in whole
    assert whole.endswith("reboot: Power down\r\n")


# What EC2 shows, and when.


def test_the_latest_output_shows_a_line_within_seconds_and_says_when(make_account):
    account = launched(make_account)
    assert output(account) == ""  # it is pending
    assert "Output" not in answer(account)
    account.until(lambda: "here" in output(account))
    [truth] = account.world.truth()
    usable_s = truth["happened_s"]["usable"]
    assert 0.0 < truth["seen_s"]["usable"] - usable_s < 30.0
    assert "usable" not in truth["shown_s"]
    updated = answer(account)["Timestamp"]
    assert account.world.utc(usable_s - 1.0) < updated <= account.world.utc()
    assert updated.microsecond == 0


def test_the_latest_output_never_loses_a_line_it_has_shown(make_account):
    account, before = launched(make_account), ""
    for _ in range(60):
        shown = output(account)
        assert shown.startswith(before)
        before = shown
        account.world.advance(0.7)
    assert "finished at" in before


def test_without_latest_the_output_comes_minutes_late_and_stays_as_it_was_posted(make_account):
    guests = Guests(chatter_per_s=0.1)
    account = launched(make_account, SCRIPT.replace("+15", "+60"), guests=guests)
    running_s = happened(account).get("running", account.world.now_s + 4.0)
    account.until(lambda: bool(output(account, latest=False)), within_s=1300.0)
    assert 119.0 <= account.world.now_s - running_s <= 1210.0
    posted = answer(account, latest=False)
    assert "here" in posted["Output"]
    account.world.advance(600.0)
    later = answer(account, latest=False)
    assert (later["Output"], later["Timestamp"]) == (posted["Output"], posted["Timestamp"])
    assert len(output(account)) > len(posted["Output"])


def test_the_end_is_posted_too_and_stays_about_an_hour(make_account):
    account = launched(make_account)
    account.world.advance(60.0)
    account.ec2.terminate_instances(InstanceIds=[account.instance])
    assert output(account, latest=False) == ""
    account.world.advance(120.0)
    assert HERE.search(output(account, latest=False))
    account.world.advance(3300.0)
    assert HERE.search(output(account, latest=False))
    account.world.advance(300.0)
    call = account.ec2.get_console_output
    assert refusal(call, InstanceId=account.instance) == "InvalidInstanceID.NotFound"


@pytest.mark.parametrize("form", ["kept", "absent"])
def test_after_the_end_the_latest_output_is_kept_or_absent(make_account, form):
    account = launched(make_account, forms=Forms(ended_console=form))
    account.world.advance(60.0)
    account.ec2.terminate_instances(InstanceIds=[account.instance])
    account.world.advance(120.0)
    assert bool(HERE.search(output(account))) is (form == "kept")
    assert HERE.search(output(account, latest=False))


def test_a_stopped_instance_has_posted_its_output(make_account):
    account = launched(make_account, forms=Forms(guest_shutdown="stop"))
    account.world.advance(1100.0)
    [there] = account.ec2.describe_instances()["Reservations"]
    assert there["Instances"][0]["State"]["Name"] == "stopped"
    posted = output(account, latest=False)
    assert posted.endswith("reboot: Power down\r\n")
    account.ec2.terminate_instances(InstanceIds=[account.instance])
    account.world.advance(120.0)
    assert output(account) == output(account, latest=False) == posted


@pytest.mark.parametrize("kind", ["c4.large", "m4.large"])
def test_only_types_on_nitro_have_a_latest_output(make_account, kind):
    account = launched(make_account, kind=kind)
    account.world.advance(1300.0)
    call, given = account.ec2.get_console_output, {"InstanceId": account.instance, "Latest": True}
    with pytest.raises(ClientError) as caught:
        call(**given)
    words = "This instance type does not support retrieving the latest console logs"
    assert caught.value.response["Error"]["Code"] == "UnsupportedOperation"
    assert caught.value.response["Error"]["Message"] == words
    assert refusal(call, DryRun=True, **given) == "UnsupportedOperation"
    assert HERE.search(output(account, latest=False))


def test_only_the_last_64_kb_are_there(make_account):
    account = launched(make_account, guests=Guests(chatter_per_s=1.0))
    account.world.advance(60.0)
    whole = output(account)
    assert HERE.search(whole)
    assert len(whole) < 65536
    account.world.advance(800.0)
    cut = output(account)
    assert len(cut) == 65536
    assert not HERE.search(cut)
    assert "Linux version" not in cut


def test_some_instances_show_nothing_if_so_ordered(make_account):
    account = make_account(guests=Guests(silent_share=0.5), script=lambda _: FATE)
    ids = account.request(20, {"UserData": encoded(SCRIPT)})
    account.world.advance(90.0)
    shown = []
    for each in account.instances(ids):
        account.instance = each["InstanceId"]
        shown.append(bool(output(account)))
    assert 4 <= sum(shown) <= 16
    assert all("usable" in each["happened_s"] for each in account.world.truth())


def test_an_unknown_instance_a_missing_id_and_a_dry_run(make_account):
    account = launched(make_account)
    call = account.ec2.get_console_output
    assert refusal(call, InstanceId="i-0123456789abcdef0") == "InvalidInstanceID.NotFound"
    assert refusal(call, InstanceId="i-1") == "InvalidInstanceID.Malformed"
    assert refusal(call, InstanceId="") == "MissingParameter"
    assert refusal(call, InstanceId=account.instance, DryRun=True) == "DryRunOperation"


def test_permission_throttling_and_faults(make_account):
    account = launched(make_account, throttled=True)
    call, given = account.ec2.get_console_output, {"InstanceId": account.instance}
    codes = []
    account.world.faults.append(Fault(kind="slow", action="GetConsoleOutput", nth=1, seconds=99.0))
    with pytest.raises(ReadTimeoutError):
        call(**given)
    account.world.faults[:] = [Fault(kind="internal_error", action="GetConsoleOutput", nth=1)]
    assert refusal(call, **given) == "InternalError"
    assert call(**given)["InstanceId"] == account.instance
    for _ in range(80):
        try:
            call(**given)
        except ClientError as error:
            codes.append(error.response["Error"]["Code"])
    assert set(codes) == {"RequestLimitExceeded"}
    assert account.ec2.describe_instances()["Reservations"]  # it has a bucket of its own
    account.world.advance(60.0)
    account.world.denied.add("ec2:GetConsoleOutput")
    assert refusal(call, **given) == "UnauthorizedOperation"


def test_how_long_guests_take_can_differ(make_account):
    numbers = replace(PROFILES["calm"], guest_boot_sigma=0.4)
    account = make_account(market=Market(numbers=numbers), script=lambda _: FATE)
    account.request(40, {"UserData": encoded(SCRIPT)})
    account.world.advance(2000.0)
    took_s = [
        each["happened_s"]["usable"] - each["happened_s"]["running"]
        for each in account.world.truth()
    ]
    assert min(took_s) < 11.0
    assert max(took_s) > 20.0
    switched_s = [
        each["happened_s"]["shutting-down"] - each["happened_s"]["usable"] - 900.0
        for each in account.world.truth()
    ]
    assert all(-10.0 < each_s <= 0.0 for each_s in switched_s)  # the switch is set before the line


def test_guests_that_differ_make_another_world():
    same, other = World(1, guests=Guests()), World(1, guests=Guests(without_cloud_init=("ami-1",)))
    assert World(1).world_id == same.world_id != other.world_id


@pytest.mark.parametrize(
    "wrong",
    [
        {"silent_share": 1.5},
        {"chatter_per_s": -1.0},
        {"clock_off_s": float("nan")},
        {"synchronised_s": -1.0},
    ],
)
def test_guests_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Guests(**wrong)


# What is read of a script.

FACTS = Facts(
    uptime_s=12.349,
    posix_s=datetime(2024, 9, 1, 0, 0, 20, 250000, tzinfo=UTC).timestamp(),
    synchronised=True,
    boot_id="8f0f5a3e-0b1c-4d2e-9f3a-112233445566",
    document='{"instanceId": "i-1", "pendingTime": "2024-09-01T00:00:01Z"}',
)


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("echo a  b > /dev/console", "a b"),
        ("echo 'a  b;c' \"d e\" >/dev/console 2>&1", "a  b;c d e"),
        ("A=1 B=two\necho $A-${B} ${C:-none} $C >> /dev/console", "1-two none"),
        ("echo $(cat /proc/uptime) > /dev/console", "12.34 12.34"),
        ("echo `awk '{print $1}' /proc/uptime` > /dev/console", "12.34"),
        ('echo "$(cut -d" " -f1 < /proc/uptime) s" > /dev/console', "12.34 s"),
        ("echo $(date -u +%s.%N) > /dev/console", "1725148820.250000000"),
        ("echo \"$(date -u '+%F %T.%3N')\" > /dev/console", "2024-09-01 00:00:20.250"),
        ('echo "$(date)" > /dev/console', "Sun Sep  1 00:00:20 UTC 2024"),
        ("echo $(timedatectl show -p NTPSynchronized) > /dev/console", "NTPSynchronized=yes"),
        (
            "id=$(curl -s http://169.254.169.254/latest/meta-data/instance-id || echo none)\n"
            "echo $id > /dev/console",
            "i-1",
        ),
        ("x=$(curl -s http://example.com || echo none); echo $x >/dev/console", "none"),
        ("true && echo a > /dev/console || echo b > /dev/console", "a"),
        ("# echo no > /dev/console\necho a \\\n  b > /dev/console # c", "a b"),
        ("echo \\$A '$A' > /dev/console", "$A $A"),
    ],
)
def test_a_script_writes_what_a_shell_would(script, line):
    assert written(f"#!/bin/sh\n{script}\n".encode(), FACTS) == [(line, True)]


@pytest.mark.parametrize("first", ["#!/bin/sh", "#!/bin/bash -xe", "#! /usr/bin/env bash"])
def test_only_scripts_for_a_shell_are_read(first):
    assert writes(f"{first}\necho a\n".encode())
    assert not writes(b"#!/usr/bin/env python3\nprint('echo a')\n")
    assert not writes(f"{first}\nshutdown -h +15\n".encode())


def test_output_to_a_file_is_not_on_the_console():
    assert written(b"#!/bin/sh\necho a > /tmp/a\necho b >> /var/log/b\n", FACTS) == []


@pytest.mark.parametrize("part", ["$(a)", "$(", "`", '"$(a', "'", "${a:-", "((", "\\"])
def test_a_script_that_nobody_could_run_is_read_quickly(part):
    began_s = time.monotonic()
    written(b"#!/bin/sh\necho " + b'"' + part.encode() * 1000, FACTS)
    assert time.monotonic() - began_s < 2.0
