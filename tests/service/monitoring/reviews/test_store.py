"""The store of verdicts: what it keeps, finds, counts and deletes."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.errors import InputError
from service.monitoring.reviews.database import MIGRATIONS
from service.monitoring.reviews.images import KeptImages
from service.monitoring.reviews.rates import review_rates
from service.monitoring.reviews.store import Decision, Selection, Source, Store, StoredVerdict

VERDICT = StoredVerdict(
    time=1000.0, request="r", place=0, model="m", version="v", key="k", session=None, label=3, class_name="cat",
    score=0.5, p_value=0.01, flagged=True, main_component="energy", components='{"energy": 0.5}', sampled=False,
    image=None, image_bytes=0,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "verdicts.sqlite"


def test_rows_are_selected_newest_first_by_every_filter(path: Path) -> None:
    rows = [
        VERDICT,
        VERDICT._replace(class_name="dog", key=None),
        VERDICT._replace(model="other", session="s"),
        VERDICT._replace(flagged=False, sampled=True),
        VERDICT._replace(flagged=False),
    ]
    with Store(path) as store:
        store.add(rows, [{"event": "start", "model": None}])
        assert store.count() == 5
        ids = [row["id"] for row in store.select(Selection())]
        assert ids == [3, 2, 1]
        assert [row["id"] for row in store.select(Selection(limit=1, before=3))] == [2]
        for selection, expected in (
            (Selection(model="other"), [3]),
            (Selection(class_name="dog"), [2]),
            (Selection(key="k"), [3, 1]),
            (Selection(session="s"), [3]),
            (Selection(sample=True), [4]),
        ):
            assert [row["id"] for row in store.select(selection)] == expected, selection
        store.review(3, "false_alarm", source="reviewer", label="a dog")
        store.review(2, "correct_flag", source="client", label="a cat")
        assert [row["id"] for row in store.select(Selection(unreviewed=True))] == [2, 1]
        row = store.get(3)
        assert row is not None
        assert (row["decision"], row["decision_label"], row["components"]) == ("false_alarm", "a dog", {"energy": 0.5})
        assert store.select(Selection(before=3))[0]["client_label"] == "a cat"
        assert store.get(6) is None
        assert [event["kind"] for event in store.events()] == ["start"]


def test_a_request_is_found_by_its_key_only_and_the_newest_first(path: Path) -> None:
    with Store(path) as store:
        store.add([VERDICT, VERDICT, VERDICT._replace(key=None), VERDICT._replace(place=1)])
        assert store.find("r", 0, key="k") == 2
        assert store.find("r", 0, key=None) == 3
        assert store.find("r", 1, key="k") == 4
        assert store.find("r", 1, key=None) is None
        assert store.find("x", 0, key="k") is None


@pytest.mark.parametrize(
    ("flagged", "decision"),
    [(True, "missed"), (True, "correct_pass"), (False, "false_alarm"), (False, "correct_flag")],
)
def test_a_decision_must_fit_the_flag(path: Path, flagged: bool, decision: Decision) -> None:
    with Store(path) as store:
        store.add([VERDICT._replace(flagged=flagged)])
        with pytest.raises(InputError, match="expected"):
            store.review(1, decision, source="reviewer")


def test_a_repeated_review_changes_nothing_and_another_decision_replaces_it(path: Path) -> None:
    with Store(path) as store, sqlite3.connect(path) as other:
        store.add([VERDICT])
        times = []
        for decision, label in (
            ("false_alarm", None), ("false_alarm", None), ("false_alarm", "a dog"), ("correct_flag", None),
        ):  # fmt: skip
            store.review(1, decision, source="client", label=label)  # type: ignore[arg-type]
            times.append(other.execute("SELECT time FROM reviews").fetchall())
        assert times[0] == times[1]
        assert len({time for [[time]] in times}) == 3
        assert [row["client_decision"] for row in store.select(Selection())] == ["correct_flag"]
    other.close()


def test_precision_and_missed_images_have_intervals_and_count_reviewers_only(path: Path) -> None:
    decisions: list[tuple[StoredVerdict, Decision, Source]] = [
        (VERDICT, "correct_flag", "reviewer"),
        (VERDICT, "false_alarm", "reviewer"),
        (VERDICT._replace(class_name="dog", time=1e6), "correct_flag", "reviewer"),
        (VERDICT, "correct_flag", "client"),
        (VERDICT._replace(flagged=False, sampled=True), "missed", "reviewer"),
        (VERDICT._replace(flagged=False, sampled=True), "correct_pass", "reviewer"),
        (VERDICT._replace(flagged=False), "missed", "reviewer"),  # not in the sample: no share can be stated
    ]
    with Store(path) as store:
        store.add([verdict for verdict, _, _ in decisions])
        for number, (_, decision, source) in enumerate(decisions, 1):
            store.review(number, decision, source=source)
        figures = review_rates(store.review_counts())["m"]
    assert {name: (rate["hits"], rate["count"]) for name, rate in figures["precision"].items()} == {
        "all": (2, 3), "class:cat": (1, 2), "class:dog": (1, 1), "component:energy": (2, 3),
    }  # fmt: skip
    assert figures["precision"]["all"]["low"] == pytest.approx(0.0943, abs=1e-4)  # Clopper-Pearson of 2 in 3
    assert figures["precision"]["all"]["high"] == pytest.approx(0.9916, abs=1e-4)
    assert (figures["missed"]["hits"], figures["missed"]["count"]) == (1, 2)
    assert [(day["day"], day["precision"]["count"]) for day in figures["days"]] == [
        ("1970-01-01", 2), ("1970-01-12", 1),
    ]  # fmt: skip
    assert figures["clients"] == {"correct_flag": 1}
    assert review_rates([]) == {}


def test_old_rows_go_with_their_reviews_and_the_rest_by_size(path: Path) -> None:
    with Store(path) as store:
        store.add([VERDICT._replace(time=float(number), image=f"{number}", image_bytes=10) for number in range(5000)])
        store.review(1, "false_alarm", source="reviewer")
        limits = {"max_bytes": 1 << 30, "max_image_bytes": 1 << 30}
        assert store.prune(before=100.0, **limits) == [f"{number}" for number in range(100)]
        assert store.count() == 4900
        assert store.review_counts() == []
        # The oldest images go, and their rows remain.
        assert store.prune(before=0.0, max_bytes=1 << 30, max_image_bytes=48_000) == [f"{n}" for n in range(100, 200)]
        assert store.count() == 4900
        assert sum(store.kept_images().values()) == 48_000
        size = store.used_bytes
        store.prune(before=0.0, max_bytes=store.used_bytes - 1, max_image_bytes=1 << 30)
        assert 2000 < store.count() < 4900
        store.prune(before=1e9, **limits)
        assert store.count() == 0
        store.add([VERDICT])
        assert store.select(Selection())[0]["id"] == 5001  # an id never names another image
    assert path.stat().st_size < size / 2


def test_the_store_is_for_one_process_and_for_its_owner(path: Path) -> None:
    with Store(path) as store:
        store.add([VERDICT])
        with pytest.raises(InputError, match=r"another process uses the store .*verdicts\.sqlite"):
            Store(path)
        with Store(path, read_only=True) as reader:
            assert reader.count() == 1
            assert reader.identity == store.identity > 0
            with pytest.raises(sqlite3.OperationalError):
                reader.add([VERDICT])
        files = sorted(path.parent.iterdir())
        assert len(files) == 4  # with -wal, -shm and .lock
        assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in files if file.suffix != ".lock"} == {0}
    with Store(path) as store:
        assert store.count() == 1


def test_files_that_are_no_store_are_refused(path: Path) -> None:
    with pytest.raises(InputError, match="there is no store"):
        Store(path, read_only=True)
    path.parent.mkdir()
    path.write_text("text" * 1000)
    with pytest.raises(InputError, match="cannot open the store"):
        Store(path)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (a)")
    other.close()
    with pytest.raises(InputError, match="another database"):
        Store(path)
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 1")
    other.close()
    with pytest.raises(InputError, match="another database"):
        Store(path, read_only=True)
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    other.close()
    with pytest.raises(InputError, match="update Plumbline"):
        Store(path)
    path.unlink()
    Store(path).close()  # the lock of a refused file is free


def test_a_store_of_the_first_version_keeps_its_rows(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as old:
        old.executescript(f"{MIGRATIONS[0]}; PRAGMA user_version = 1")
        columns = VERDICT._fields[:-2]
        old.execute(f"INSERT INTO verdicts ({', '.join(columns)}) VALUES ({', '.join('?' * 17)})", VERDICT[:-2])
    old.close()
    with pytest.raises(InputError, match="earlier version 1"):
        Store(path, read_only=True)
    with Store(path) as store:
        store.add([VERDICT._replace(main_part="outlier", part_p_values='{"outlier": 0.01}')])
        parts = [(row["main_part"], row["part_p_values"], row["components"]) for row in store.select(Selection())]
    assert parts == [("outlier", {"outlier": 0.01}, {"energy": 0.5}), (None, {}, {"energy": 0.5})]


def test_a_full_disk_costs_the_rows_of_its_time_only(path: Path) -> None:
    with Store(path) as store:
        store.add([VERDICT])
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            store.add([VERDICT] * 1000)
        store._connection.execute("PRAGMA max_page_count = 1000000")
        store.add([VERDICT])
        assert store.count() == 2


def test_committed_rows_survive_a_kill(path: Path) -> None:
    script = (
        "import os, sys; from tests.service.monitoring.reviews.test_store import VERDICT; from pathlib import Path\n"
        "from service.monitoring.reviews.store import Store\n"
        "store = Store(Path(sys.argv[1])); store.add([VERDICT] * 300); print('written', flush=True)\n"
        f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "written\n"), done.stderr
    with Store(path) as store:
        assert store.count() == 300


def test_images_are_exact_private_and_deleted(tmp_path: Path, rng: np.random.Generator) -> None:
    images, others = (KeptImages(tmp_path / "kept", store) for store in (1, 2))
    pixels = rng.integers(0, 256, (3, 5, 7), dtype=np.uint8)
    name, size = images.write(pixels)
    assert np.array_equal(images.pixels(name), pixels)  # type: ignore[arg-type]
    content = images.read(name)
    assert content is not None
    assert len(content) == size == os.stat(images.folder / name).st_size  # noqa: PTH116
    assert stat.S_IMODE(images.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((images.folder / name).stat().st_mode) == 0o600
    (images.folder / "notes.txt").write_text("mine")
    images.delete_others([name])
    assert images.read(name) == content
    other, _ = others.write(pixels)
    damaged, _ = others.write(pixels)
    (images.folder / damaged).write_bytes(content[: len(content) // 2])
    assert others.pixels(damaged) is None
    images.delete_others([])  # those of another store stay
    assert others.read(other) is not None
    assert images.read(name) is images.pixels(name) is None
    assert (images.folder / "notes.txt").exists()


@pytest.mark.parametrize(
    ("times", "left"),
    [
        ((500.0, 2000.0, 10.0, 2100.0), 3),  # the clock was at 10 for a while
        ((9e9, 9e9, 500.0, 2000.0), 1),  # it was ahead of time
        ((9e9, 500.0), 0),
        ((2000.0, 2100.0), 2),
    ],
)
def test_a_clock_that_was_wrong_costs_no_rows_and_keeps_none_for_ever(
    path: Path, times: tuple[float, ...], left: int
) -> None:
    with Store(path) as store:
        store.add([VERDICT._replace(time=time) for time in times])
        store.prune(before=1000.0, max_bytes=1 << 30, max_image_bytes=1 << 30)
        assert store.count() == left


def test_events_have_the_age_of_verdicts(path: Path) -> None:
    with Store(path) as store:
        store.add([], [{"event": "start"}])
        store.prune(before=1000.0, max_bytes=1 << 30, max_image_bytes=1 << 30)
        assert len(store.events()) == 1
        store.prune(before=9e9, max_bytes=1 << 30, max_image_bytes=1 << 30)
        assert store.events() == []


def test_a_verdict_that_is_deleted_meanwhile_has_no_review(path: Path) -> None:
    with Store(path) as store, pytest.raises(InputError, match="deleted"):
        store.review(1, "false_alarm", source="client")


@pytest.mark.parametrize("name", ["../verdicts.sqlite", "/etc/passwd", "", "notes.txt"])
def test_names_of_a_forged_store_lead_to_no_other_file(tmp_path: Path, name: str) -> None:
    images = KeptImages(tmp_path / "kept", 1)
    (images.folder / "notes.txt").write_text("mine")
    for use in (images.read, images.pixels, lambda each: images.delete([each])):
        with pytest.raises(InputError, match="damaged"):
            use(name)
    assert (images.folder / "notes.txt").exists()
