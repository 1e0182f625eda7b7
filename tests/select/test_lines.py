"""Only lines that the snapshot before does not have are read as csv, with the same numbers."""

import random
from collections import Counter
from datetime import datetime, timedelta

import pytest
from conftest import CHAOS
from test_damaged_archives import counted, counted_plainly, plain_csv_rows

from spotlib.select.archive import csv_rows, day, lines
from spotlib.select.archive.counts import read_counts
from spotlib.select.archive.lines import lines_of, places_of
from spotlib.select.archive.schema import ArchiveError

HEADERS = [
    "Time,InstanceType,Region,AZ,SPS,IF,OndemandPrice,SpotPrice,Savings",
    "InstanceType,AZ,SpotPrice,Region,SPS,OndemandPrice,IF,Savings",
    "SpotPrice,Savings,SPS,AZ,Region,InstanceType,IF,time",
    "InstanceType,Region,time,AZ,SPS,IF",
]
MORNING = datetime(2024, 8, 1)  # noqa: DTZ001 - as it is written in most archives


def csv_of(header, rows, at):
    """The rows, each with its own time if it has one."""
    lines = (",".join({"time": str(at), **row}[name] for name in names(header)) for row in rows)
    return "".join(f"{line}\n" for line in (header, *lines))


def names(header):
    return header.lower().split(",")


def new_row(rng):
    return {
        "instancetype": f"t{rng.randrange(30)}.nano",
        **{"region": rng.choice(["sa-east-1", "us-east-1"]), "az": rng.choice(["z1", "z22", ""])},
        **{"sps": rng.choice(["1", "2", "3", ""]), "if": rng.choice(["2.5", "-1", "3.0"])},
        **{"ondemandprice": "0.0052", "spotprice": rng.choice(["0.02", "1"]), "savings": "59"},
    }


def edited(rng, rows):
    """What happens to a listing in ten minutes: at times nothing, at times very much."""
    rows = [dict(row) for row in rows]
    for _ in range(rng.choice([0, 1, 1, 2, 5, 40])):
        place, kind = rng.randrange(len(rows)), rng.randrange(7)
        if kind == 0:
            rows.insert(place, new_row(rng))
        elif kind == 1 and len(rows) > 1:
            del rows[place]
        elif kind == 2:
            rows.insert(place, rows[rng.randrange(len(rows))])
        elif kind == 3:
            rows.insert(place, rows.pop())
        else:
            name = rng.choice(["sps", "if", "spotprice", "instancetype"])
            rows[place] = {**rows[place], name: new_row(rng)[name]}
    return rng.sample(rows, len(rows)) if rng.random() < 0.05 else rows


def odd(rng, text, at):
    """The same rows in another form of csv, or with another time of the same ten minutes."""
    lines = text.split("\n")
    place = rng.randrange(1, len(lines) - 1)
    kind = rng.randrange(30)
    if kind == 0:
        lines[place] = lines[place].replace(
            str(at), str(at + timedelta(minutes=rng.choice([1, 11])))
        )
    elif kind == 1:
        lines.insert(place, "")
    elif kind == 2:
        lines[place] = ",".join(f'"{cell}"' for cell in lines[place].split(","))
    elif kind == 3:
        return "\r\n".join(lines)
    elif kind == 4:
        return text.removesuffix("\n")
    elif kind == 5:
        lines[place] = lines[place].replace(str(at), "")
    elif kind == 6:
        lines[0] = lines[0].upper()
    elif kind == 7:
        return text.replace(str(at), f"{at}+00:00")
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(200 if CHAOS else 10))
def test_successive_snapshots_with_any_edits_are_counted_as_each_by_itself(
    seed, tmp_path, monkeypatch
):
    rng = random.Random(seed)
    monkeypatch.setattr(lines, "_AT_ONCE", rng.choice([1, 6, 30, 4096]))
    header, rows = rng.choice(HEADERS), [new_row(rng) for _ in range(rng.choice([1, 20, 90]))]
    folder, expected = tmp_path / "2024-08" / "01", Counter()
    folder.mkdir(parents=True)
    for slot in range(12):
        at = MORNING + timedelta(minutes=10 * slot)
        text = odd(rng, csv_of(header, rows, at), at).encode()
        path = folder / f"{at:%H-%M-%S}.csv"
        path.write_bytes(text)
        try:
            read_counts(path, cache=None)
        except ArchiveError:
            pass
        else:
            expected += counted_plainly(plain_csv_rows(text))
        rows = edited(rng, rows)

    if not expected:  # no row names a zone
        with pytest.raises(ArchiveError, match="no pool that could be read"):
            read_counts(tmp_path, cache=None, skip_bad_files=True)
        return
    reading = read_counts(tmp_path, cache=None, skip_bad_files=True)

    assert counted(reading) == expected, f"seed {seed}"


@pytest.mark.parametrize("header", HEADERS[:3])
def test_a_line_is_read_again_only_if_more_than_its_time_differs(header, tmp_path, monkeypatch):
    rng = random.Random(7)
    rows = [{**new_row(rng), "instancetype": f"t{number}.nano"} for number in range(300)]
    monkeypatch.setattr(lines, "_AT_ONCE", 50)
    read = []
    monkeypatch.setattr(day, "batches_of", lambda *given: read.append(given[0]) or batches(*given))
    batches = csv_rows.batches_of
    changed = [*rows[:20], {**rows[20], "if": "1.5"}, *rows[21:70], new_row(rng), *rows[70:200]]
    changed += rows[203:]
    texts = [
        csv_of(header, listed, MORNING + timedelta(minutes=10 * slot))
        for slot, listed in enumerate([rows, rows, changed, changed])
    ]

    read_counts(written(tmp_path, texts), cache=None)

    whole, edits = read
    assert whole.count(b"\n") == 301
    assert edits.count(b"\n") == 3


def written(folder, texts):
    """One snapshot every ten minutes."""
    for slot, content in enumerate(texts):
        path = folder / "2024-08" / "01" / f"00-{slot}0-00.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.mark.parametrize("wrong", ["all rows", "a new row", "a row of which there was one"])
def test_the_time_of_each_row_is_verified_also_of_those_that_are_not_read_as_csv(wrong, tmp_path):
    row, other = (f"t{number}.nano,sa-east-1,z1,3,2.5,1,1,1" for number in range(2))
    header, before, now = HEADERS[0], "2024-08-01 00:00:00", "2024-08-01 00:10:00"
    never = "2024-08-02 00:10:00"
    rows = {
        "all rows": f"{never},{row}\n{never},{other}\n",
        "a new row": f"{now},{row}\n{never},{other}0\n",
        "a row of which there was one": f"{now},{row}\n{never},{other}\n",
    }[wrong]
    written(tmp_path, [f"{header}\n{before},{row}\n{before},{other}\n", f"{header}\n{rows}"])

    with pytest.raises(ArchiveError, match="holds rows of 2024-08-02 00:10:00, but its path says"):
        read_counts(tmp_path, cache=None)


def test_a_row_without_a_time_is_not_taken_for_the_one_before(tmp_path):
    """Where other rows have the digit of their time that changes, this one has its SPS."""
    rows = [[f"2024-08-01 00:{ten}0:00,t2.nano,r,z,2,2.5", f",t11.nano,r,z,{sps},2.5"]
            for ten, sps in ((0, 3), (1, 1))]  # fmt: skip
    header = "Time,InstanceType,Region,AZ,SPS,IF"

    counts = read_counts(
        written(tmp_path, ["\n".join([header, *each, ""]) for each in rows]), cache=None
    ).counts

    assert counts[counts["instance_type"] == "t11.nano"]["sps"].tolist() == [1, 3]


def text(*rows, header="Time,InstanceType,SPS", time="00:10"):
    return "\n".join([header, *(f"{time},{row}" for row in rows), ""]).encode()


def test_lines_that_differ_in_their_time_alone_are_found_in_their_new_places():
    before = lines_of(text("a,1", "b,2", "c,3"))
    for ours, places in [
        (text("a,1", "b,3", "c,3", time="00:20"), [0, -1, 2]),
        (text("b,2", "c,3", time="12:45"), [1, 2]),
        (text("c,3", "d,1", "e,1"), [2, -1, -1]),
        (text("a,1", time="00:100"), [-1]),
        (text("a,1", header="Time,Region,SPS"), [-1]),
    ]:
        assert places_of(lines_of(ours), before).tolist() == places


def test_a_line_shorter_than_a_time_changes_nothing_beside_it():
    last = "InstanceType,SPS,Time"
    before = lines_of(f"{last}\na,1,00:10\nb,2,00:10\nc,3,00:10\n".encode())

    ours = lines_of(f"{last}\na,1,00:20\nb\nc,3,00:20\n".encode())

    assert places_of(ours, before).tolist() == [0, -1, 2]


@pytest.mark.parametrize(
    "odd",
    [
        *(b"Time,SPS\n", b"Time,SPS\n1,2\n3,4", b"Time,SPS\n1,2\n\n", b"Time,SPS\n\n1,2\n", b""),
        *(b'Time,SPS\n"1",2\n', b"Time,SPS\r\n1,2\r\n", b"AZ,Time,SPS\nz,1,2\n"),
        b"Time,SPS\n" + (1 << 21) * b"1,2\n",
    ],
)
def test_a_text_whose_rows_may_not_be_its_lines_is_read_whole(odd):
    assert lines_of(odd) is None
