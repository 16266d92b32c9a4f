"""utils/overlap.py: order, limits, errors, early ends; the files of predict.py stay the same."""

import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import make_run

import predict
from utils import visualize
from utils.overlap import ahead, writing
from utils.safe.errors import InputError


def test_items_come_in_order_and_few_are_made_ahead() -> None:
    made: list[int] = []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    for i, item in enumerate(ahead(items(), 3)):
        assert item == i and len(made) <= i + 1 + 3  # the item itself and three more
    assert made == [*range(20)]
    assert [*ahead([])] == [] and [*ahead("abc", 1)] == ["a", "b", "c"]


def test_another_thread_makes_the_items() -> None:
    def items():
        yield threading.get_ident()

    assert [*ahead(items())] != [threading.get_ident()]


def test_an_error_comes_where_its_item_would_have() -> None:
    def items():
        yield from range(4)
        raise InputError("no fifth")

    found = []
    with pytest.raises(InputError, match="no fifth"):
        found.extend(ahead(items(), 3))
    assert found == [0, 1, 2, 3]


def test_after_an_early_end_nothing_more_is_made() -> None:
    made, closed = [], threading.Event()

    def items():
        try:
            for i in range(100):
                made.append(i)
                yield i
        finally:
            closed.set()

    source = items()
    coming = ahead(source)
    assert next(coming) == 0
    coming.close()
    count = len(made)
    assert count <= 4 and threading.active_count() < 50
    source.close()  # not running any more, else this were an error
    assert closed.is_set() and len(made) == count


def test_calls_run_in_order_and_few_wait() -> None:
    done, release, begun = [], threading.Event(), threading.Event()

    def slow(i: int) -> None:
        begun.set()
        release.wait(10)
        done.append(i)

    with writing(size=2) as later:
        later(slow, 0)
        later(slow, 1)
        begun.wait(10)
        assert done == []
        blocked = threading.Timer(0.05, release.set)  # the third call waits for the first
        blocked.start()
        later(slow, 2)
        assert done[0] == 0
        for i in range(3, 10):
            later(slow, i)
    assert done == [*range(10)]


def test_an_error_of_a_writer_is_raised_and_the_rest_left_out() -> None:
    done = []

    def write(i: int) -> None:
        if i == 2:
            raise OSError("disk full")
        done.append(i)

    with pytest.raises(OSError, match="disk full"), writing() as later:
        for i in range(100):
            later(write, i)
    assert done[:2] == [0, 1] and len(done) < 6
    with pytest.raises(OSError, match="disk full"), writing() as later:
        later(write, 2)  # the last one: at the end of the context


def test_an_error_of_the_loop_ends_the_writer() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), writing(size=8) as later:
        for i in range(4):
            later(done.append, i)
        raise KeyboardInterrupt
    assert done == [*range(len(done))]


# ---------------------------------------------------------------- predict.py


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def predicted(run: Path, out: Path, *arguments: str) -> dict[str, bytes]:
    ckpt = str(run / "warmup/warmup.pt")
    source = str(run.parent / "data/images/train")
    predict.main([source, "--ckpt", ckpt, "--device", "cpu", "--out", str(out), *arguments])
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_files_and_their_order_are_those_without_overlap(run, tmp_path, monkeypatch) -> None:
    written: list[str] = []
    save, read = visualize.save_image, []

    def recorded(path: Path, *arguments, **options) -> None:
        written.append(Path(path).name)
        save(path, *arguments, **options)

    decode = predict.EvaluationSet.__getitem__
    monkeypatch.setattr(
        predict.EvaluationSet, "__getitem__", lambda data, i: (read.append(i), decode(data, i))[1]
    )
    monkeypatch.setattr(visualize, "save_image", recorded)
    overlapped, order = predicted(run, tmp_path / "overlapped"), [*written]
    assert read == [*range(6)]  # each once
    assert order == [f"t{i}{end}.png" for i in range(6) for end in ("", "_overlay")]

    @contextmanager
    def at_once():
        yield lambda function, *arguments: function(*arguments)

    monkeypatch.setattr(predict, "ahead", iter)
    monkeypatch.setattr(predict, "writing", at_once)
    written.clear()
    assert predicted(run, tmp_path / "plain") == overlapped
    assert written == order


def test_a_writer_that_fails_ends_the_script(run, tmp_path, monkeypatch) -> None:
    def fail(*_) -> None:
        raise OSError(28, "No space left on device", "t1.png")

    monkeypatch.setattr(predict, "save_overlay", fail)
    with pytest.raises(OSError, match="No space left"):
        predicted(run, tmp_path / "out")
    assert not (tmp_path / "out/legend.png").exists()


def test_ctrl_c_while_a_file_is_written_leaves_whole_files(run, tmp_path, monkeypatch) -> None:
    save, count = predict.save_mask, []

    def interrupted(*arguments) -> None:
        count.append(1)
        if len(count) == 2:
            os.kill(os.getpid(), signal.SIGINT)  # the main thread gets it, this one goes on
        save(*arguments)

    monkeypatch.setattr(predict, "save_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predicted(run, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert "t1.png" in names and not any("tmp" in name for name in names)
    for name in names:
        assert name == "meta.json" or np.asarray(Image.open(tmp_path / "out" / name)).size
