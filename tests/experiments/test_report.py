"""report.py, its page, figures/runs.py and figures/readme.py; the figures have own tests."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import tiny
from PIL import Image
from read_run import read_run
from tiny_run import make_run

import experiments.figures.sections
import prepare_data
import report
import train_carb
import train_warmup
from experiments.figures.commands import obstacle
from experiments.figures.page import Report, table_html, write_markdown, write_page
from experiments.figures.readme import fill_readme
from experiments.figures.runs import read_inputs, run_of
from experiments.figures.sections import SECTIONS
from experiments.figures.style import Figure, Gallery, Missing, markdown, save_data
from utils.config import load_config, save_config
from utils.safe.errors import InputError

BAD = "<script>alert(1)</script> & `**|"


# --- folders


def make_stage(folder: Path, steps: range, script: str = "train_warmup.py", **changes) -> Path:
    """A run folder as train_*.py leaves it, with a score of each."""
    folder.mkdir(parents=True)
    values = load_config("configs/tiny_cpu.yaml").to_dict() | changes
    (folder / "config.yaml").write_text(json.dumps(values))
    save_config(load_config(folder / "config.yaml"), folder / "config.yaml")
    lines = [json.dumps({"step": step, "loss": 1 / step}) for step in steps]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "command.txt").write_text(f"# twice\n/somewhere/{script} --config x\n")
    (folder / "eval_val").mkdir()
    (folder / "eval_val/metrics.json").write_text(json.dumps({"miou": 0.5}))
    return folder


def make_suite(folder: Path, **rows: tuple[str, dict]) -> Path:
    """ablation.json with rows name=(stage, settings) of seeds 1 and 2, without run folders."""
    folder.mkdir(parents=True)
    one = {"seeds": {"1": {}, "2": {}}, "mean": {}, "std": {}, "metrics": {"1": {}, "2": {}}}
    content = {
        "suite": "suite.yaml",
        "config": "demo/config.yaml",
        "split": "val",
        "rows": {n: {"stage": s, "settings": v} | one for n, (s, v) in rows.items()},
    }
    (folder / "ablation.json").write_text(json.dumps(content))
    return folder


def test_runs_and_suites_are_read_in_their_order(tmp_path):
    make_stage(tmp_path / "a/warmup", range(10, 50, 10))
    make_stage(tmp_path / "a/carb", range(30, 60, 10), "train_carb.py")
    make_stage(tmp_path / "plain", range(1, 3))
    make_stage(tmp_path / "b/sup", range(1, 3), "baselines/supervised.py")
    make_stage(tmp_path / "c/sup", range(1, 3), "train_carb.py")
    make_suite(tmp_path / "suite", Base=("warmup", {}))
    names = ["plain", "suite", "a", "b/sup", "c/sup"]
    runs, suites = read_inputs([str(tmp_path / name) for name in names])
    labels = ["plain", "a", str(tmp_path / "b/sup"), str(tmp_path / "c/sup")]  # two are called sup
    assert [run.label for run in runs] == labels
    assert [list(run.stages) for run in runs] == [
        ["warmup"],
        ["warmup", "carb"],
        ["supervised"],
        ["carb"],
    ]
    assert runs[1].last.folder == tmp_path / "a/carb"
    assert [line["step"] for line in runs[1].log] == [10, 20, 30, 40, 50]
    assert runs[1].last.scores == {"val": {"miou": 0.5}}
    assert [suite.label for suite in suites] == ["suite"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", None, "was not written by train_"),
        ("metrics.jsonl", b'{"step": 1}\n{"step": 2 "x"}\n', "metrics.jsonl: expected one JSON"),
        ("metrics.jsonl", b'{"loss": 1}\n', "expected 'step', a whole number"),
        ("metrics.jsonl", b"\xff\xfe}\n", "metrics.jsonl: expected one JSON"),
        ("eval_val/metrics.json", b"[1", "metrics.json can't be read"),
        ("../suite/ablation.json", b'{"rows": {"Base": {"stage": "carb"}}}', "and 'rows' with"),
    ],
)
def test_damaged_folders_are_named(tmp_path, file, content, message):
    folder = make_stage(tmp_path / "run", range(1, 3))
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.unlink() if content is None else path.write_bytes(content)
    named = path.parent if path.name == "ablation.json" else folder
    with pytest.raises(InputError, match=re.escape(message)):
        read_inputs([str(named)])


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    folder = make_stage(tmp_path / "run", range(1, 4))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    runs, _ = read_inputs([str(folder)])
    assert [line["step"] for line in runs[0].log] == [1, 2, 3]


ROWS = {
    "Base": ("warmup", {"views": "base"}),
    "Dual": ("warmup", {"views": "dual"}),
    "Fixed": ("carb", {"views": "dual", "region_weight": 1.0}),
    "Base + CARB": ("carb", {"views": "base"}),
    "Dual + CARB": ("carb", {"views": "dual"}),
}


@pytest.mark.parametrize(
    ("folders", "label", "stages"),
    [
        ([], None, {}),
        (["base_1"], "Base, seed 1", {"warmup": "base_1"}),
        (["base_2", "fixed_2"], "Fixed, seed 2", {"carb": "fixed_2"}),
        (
            ["base_2", "dual_2", "fixed_2", "base_carb_1"],
            "Fixed, seed 2",
            {"carb": "fixed_2", "warmup": "dual_2"},
        ),
        (
            ["base_1", "dual_1", "fixed_1", "base_carb_1", "dual_carb_2", "dual_2"],
            "Dual + CARB, seed 2",
            {"carb": "dual_carb_2", "warmup": "dual_2"},
        ),
        (
            ["base-start_1", "fixed-start_1", "dual_carb_1"],
            "Dual + CARB, seed 1",
            {"carb": "dual_carb_1", "warmup": "fixed-start_1"},
        ),
    ],
)
def test_the_run_that_stands_for_a_suite(tmp_path, folders, label, stages):
    suite = make_suite(tmp_path / "suite", **ROWS)
    for name in folders:
        views = "base" if name.startswith("base") else "dual"
        weight = 1.0 if name.startswith("fixed") else "adaptive"
        make_stage(
            suite / name, range(1, 3), views=views, region_weight=weight, carb="carb" in name
        )
    run = run_of(read_inputs([str(suite)])[1][0])
    assert (run.label if run else None) == label
    found = {name: stage.folder.name for name, stage in run.stages.items()} if run else {}
    assert found == stages


# --- page


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str, attribute: str) -> list[str]:
        return [a[attribute] or "" for t, a in self.elements if t == tag and attribute in a]


def make_figure(out: Path, name: str = "fig5", svg: str = "<svg/>", **changes) -> Figure:
    image = out / "figures" / f"{name}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20), "red").save(image)
    image.with_suffix(".svg").write_text(svg)
    data = save_data(out / "figures", name, {"step": [1, 2]})
    figure = Figure(name, f"Fig. 5: {name}", "What is seen.", (image,), data)
    return figure._replace(**changes)


def make_report(*figures: Figure, failed: tuple[str, ...] = ()) -> Report:
    return Report("a run", "about it", "python report.py a", list(figures), frozenset(failed))


def test_the_page_needs_no_other_file(tmp_path):
    small, large = make_figure(tmp_path), make_figure(tmp_path, "fig6 a", svg="x" * 500_000)
    path = write_page(make_report(small, large), tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    kinds, data = zip(*(s.split(";base64,") for s in page.all("img", "src")), strict=True)
    assert kinds == ("data:image/svg+xml", "data:image/png")
    assert base64.b64decode(data[0]) == b"<svg/>"
    assert base64.b64decode(data[1]) == large.images[0].read_bytes()
    assert page.all("img", "width") == ["30", "30"] and page.all("img", "height") == ["20", "20"]
    assert page.all("img", "alt")[0] == "Fig. 5: fig5. What is seen."
    assert not page.all("script", "src")
    assert all(link.startswith("data:") for link in page.all("link", "href"))
    links = page.all("a", "href")
    beside = [link for link in links if not link.startswith(("#", "https://arxiv.org/"))]
    assert all((tmp_path / unquote(link)).is_file() for link in beside)
    assert [Path(link).suffix for link in beside] == 2 * [".png", ".png", ".svg", ".json"]
    targets = set(page.all("section", "id"))
    assert {link[1:] for link in links if link.startswith("#")} == targets == {"fig5", "fig6_a"}


def test_text_is_shown_as_it_is(tmp_path):
    table = markdown(["class", "IoU"], [[BAD.replace("|", "\\|"), "1.0"]])
    bad = Figure(BAD, BAD, BAD, (), None, (table,), (Missing(BAD, BAD),))
    failed = Figure("f", BAD, BAD)
    shown = Report(BAD, BAD, BAD, [bad, failed], frozenset(["f"]))
    text = write_page(shown, tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 1 and tags.count("style") == 1
    # Title twice, about, footer; contents, heading, caption, command, what; failed; list at the end
    assert page.text.count(BAD) >= 4 + 5 + 3 + 1
    assert "$" not in text.replace(BAD, "")
    lines = write_markdown(shown, tmp_path).read_text(encoding="utf-8").splitlines()
    fenced = False
    for line in lines:
        fenced ^= line.startswith("```")
        assert fenced or "<script" not in line.replace("\\<", "")


def test_tables_are_tables():
    rows = [["Base", "3", "38.5 ± 0.3", "-"], ["**Dual**", "", "**+40.4**", "not run"]]
    text = markdown(["row", "seeds", "mIoU", "paper"], rows) + "\n\n`w` is *fixed* & **bold**"
    found = re.findall(r"<(t[hd])( class=.number.)?>(.*?)</t[hd]>", table_html(text))
    assert [bool(number) for _, number, _ in found] == 3 * [False, True, True, True]
    assert [tag for tag, _, _ in found] == 4 * ["th"] + 8 * ["td"]
    assert [Page(cell).text for _, _, cell in found[4:]] == [
        *("Base", "3", "38.5 ± 0.3", "-"),
        *("Dual", "", "+40.4", "not run"),
    ]
    assert "<b>+40.4</b>" in found[10][2]
    assert "<code>w</code> is *fixed* &amp; <b>bold</b>" in table_html(text)


def test_what_is_missing_comes_with_its_command_and_once_more_at_the_end(tmp_path):
    masks = Missing("masks of val", "python gen_clip_masks.py --split val")
    score = Missing("their score", masks.command)
    train = Missing("a run", "python train_carb.py  --set 'a=b c'")
    evaluations = [f"python eval.py {k}" for k in range(4)]
    figures = [
        Figure("a", "A", "", missing=(masks, score, Missing("the paper gives none"))),
        Figure("b", "B", "", missing=(train, masks)),
        Figure("c", "C", "", missing=tuple(Missing("scores", line) for line in evaluations)),
    ]
    figures = [figure._replace(tables=("| a |\n|---|\n| 1 |",)) for figure in figures]
    text = write_page(make_report(*figures), tmp_path).read_text(encoding="utf-8")
    codes = [Page(code).text for code in re.findall(r'"command"><code>(.*?)</code>', text, re.S)]
    each = [masks.command, train.command, *evaluations]
    assert codes == [masks.command, train.command, masks.command, *evaluations, *each]
    assert "masks of val; their score" in text and "the paper gives none" in text
    opened = [" open" in d for d in re.findall(r"<details([^>]*)>", text)]
    assert opened == [True, True, True, False]  # that of the contents first
    assert [f"<summary>{n} command" in text for n in (1, 2, 4)] == [True, True, True]

    lines = write_markdown(make_report(*figures), tmp_path).read_text(encoding="utf-8")
    assert re.findall(r"```bash\n(.*)\n```", lines)[:-1] == codes[: -len(each)]


def test_what_no_run_has_is_one_line_with_its_cost_below_the_rest(tmp_path):
    masks = Missing("masks", "python gen_clip_masks.py")
    paper = Figure("t1", "Table 1", "", (), None, ("| a |\n|---|\n| 1 |",), (masks,), folded=True)
    other = Figure("f6", "Fig. 6", "", missing=(masks, Missing("rows", "bash x.sh")))
    speed = make_figure(tmp_path, "speed", folded=True)
    shown = make_report(make_figure(tmp_path), speed, paper, other)
    costs = {
        masks.command: "about 2 min: 30 images",
        "bash x.sh": "hours each on a GPU: 3 trainings",
    }
    shown = shown._replace(costs=costs)
    text = write_page(shown, tmp_path).read_text(encoding="utf-8")
    heading = text.index("Parts of the paper that are not in these runs")
    places = [text.index(f'<section id="{name}"') for name in ("fig5", "speed", "t1", "f6")]
    assert places == sorted(places) and places[1] < heading < places[2]
    sections = re.findall(r"<section .*?</section>", text, re.S)
    assert [re.match(r"<section id=.*?><details><summary>", s) is not None for s in sections] == [
        *(False, True, True, True, False)
    ]
    spans = re.findall(r"</h2><span>(.*?)</span></summary>", text)
    assert spans == ["", "1 command missing, about 2 min", "2 commands missing"]
    assert text.count("hours each on a GPU: 3 trainings") == 2  # there, and in the list of commands
    lines = write_markdown(shown, tmp_path).read_text(encoding="utf-8")
    assert lines.count("<details><summary>") == lines.count("</details>") == 2
    assert "## Table 1" not in lines and "*Missing:* masks (about 2 min: 30 images)" in lines


def test_galleries_are_laid_out_by_the_page(tmp_path):
    gallery = Gallery([["data:image/png;base64,AA"] * 2] * 3, ["image", BAD], ["a", "b", "c"], [])
    gallery = gallery._replace(legend=[("road", (1, 2, 3))])
    figure = make_figure(tmp_path, galleries=(gallery,))
    page = Page(write_page(make_report(figure), tmp_path).read_text(encoding="utf-8"))
    assert page.all("img", "alt")[:2] == ["image, a", f"{BAD}, a"]
    assert page.all("i", "style") == ["background: rgb(1, 2, 3)"] and "road" in page.text
    assert [tag for tag, _ in page.elements].count("figcaption") == 6
    images = [link for link in page.all("a", "href") if link.endswith(".png")]
    assert len(images) == 6 + 1 and len(set(images)) == 1  # and below, as a file


def test_a_chart_has_a_drawing_for_phones(tmp_path):
    figure = make_figure(tmp_path)
    (tmp_path / "figures/fig5_narrow.svg").write_text("<svg>narrow</svg>")
    page = Page(write_page(make_report(figure), tmp_path).read_text(encoding="utf-8"))
    [source] = page.all("source", "srcset")
    assert base64.b64decode(source.split(",")[1]) == b"<svg>narrow</svg>"
    assert page.all("img", "class") == ["chart"]
    assert "narrow" not in "".join(page.all("a", "href"))


def test_the_markdown_holds_what_the_page_does(tmp_path):
    figure = make_figure(tmp_path, "fig 5", tables=(markdown(["a_b"], [["*1*"]]),))
    failed = Figure("bad", "Tables: not drawn", "x.json can't be read")
    path = write_markdown(make_report(figure, failed, failed=("bad",)), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# CARB: a run\n\nabout it\n")
    assert "| a_b |\n| --- |\n| *1* |" in text
    assert "**Not drawn:** x.json can't be read" in text
    links = re.findall(r"\]\((.*?)\)", text)
    assert links == [f"figures/fig%205.{suffix}" for suffix in ("png", "png", "svg", "json")]


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path):
    figure = make_figure(tmp_path)
    before = write_page(make_report(figure), tmp_path).read_bytes()
    with pytest.raises(FileNotFoundError):
        gone = make_figure(tmp_path, "fig6", images=(tmp_path / "gone.png",))
        write_page(make_report(figure, gone), tmp_path)
    assert (tmp_path / "index.html").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


# --- report.py


@pytest.fixture
def parts(monkeypatch) -> dict[str, list]:
    """Every part draws one figure of its name; gives the arguments each was called with."""
    calls: dict[str, list] = {}

    def replace(name: str) -> None:
        def draw(*arguments) -> list[Figure]:
            calls.setdefault(name, []).append(arguments)
            return [make_figure(arguments[-1].parent, name)]

        monkeypatch.setattr(getattr(experiments.figures.sections, name), "draw", draw)

    for name in SECTIONS:
        replace(name)
    monkeypatch.setattr(report.tables, "readme_tables", lambda runs, suites: {"demo": "| a |"})
    return calls


@pytest.fixture
def run(tmp_path) -> str:
    make_stage(tmp_path / "run/warmup", range(1, 3))
    make_stage(tmp_path / "run/carb", range(2, 4), "train_carb.py")
    return str(tmp_path / "run")


def test_all_parts_in_order_and_what_they_are_given(tmp_path, parts, run, capsys):
    other = str(make_stage(tmp_path / "other", range(1, 3)))
    suite = str(make_suite(tmp_path / "suite", **ROWS))
    out = tmp_path / "out"
    report.main([run, suite, other, "--out", str(out), "--images", "2", "--split", "test"])
    assert list(parts) == list(SECTIONS)
    runs, suites = read_inputs([run, suite, other])
    figures, config = out / "figures", str(tmp_path / "run/carb/config.yaml")
    assert {name: calls[0] for name, calls in parts.items()} == {
        "summary": (runs, "test", figures),
        "statistics": ([config], figures),
        "scales": (runs[0], "test", 2, figures),
        "regions": (runs[0], 2, figures),
        "curves": (runs, suites, figures),
        "rare_classes": (suites, figures),
        "class_curves": (suites, figures),
        "sweeps": (suites, figures),
        "teachers": (suites, 2, figures),
        "points": (runs, suites, 2, figures),
        "cams": (suites, 2, figures),
        "qualitative": (runs, "test", 2, figures),
        "classes": (runs, "test", figures),
        "tables": (runs, suites, figures),
    }
    said = capsys.readouterr().out.splitlines()
    assert said[:-1] == [f"Fig. 5: {name}" for name in SECTIONS]
    assert said[-1] == f"{out / 'index.html'}: {len(SECTIONS)} figures drawn, 0 commands missing"
    assert Page((out / "index.html").read_text()).all("section", "id") == list(SECTIONS)
    assert (out / "report.md").read_text().count("\n## ") == len(SECTIONS)


def test_a_suite_file_stands_for_its_folder(tmp_path, parts, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        report.main(["suites/rows.yaml"])
    command = "python -m experiments.ablation suites/rows.yaml --out runs/rows"
    assert str(refused.value).endswith(f"or make them: {command}")
    make_suite(tmp_path / "runs/rows", **ROWS)
    report.main(["suites/rows.yaml"])
    assert [suite.label for suite in parts["tables"][-1][1]] == ["rows"]


def test_images_of_a_suite_are_those_of_its_run(tmp_path, parts, capsys):
    suite = make_suite(tmp_path / "suite", **ROWS)
    report.main([str(suite), "--out", str(tmp_path / "empty")])  # ablation.json alone
    assert list(parts) == [
        *(
            "curves",
            "teachers",
            "points",
            "cams",
            "rare_classes",
            "class_curves",
            "sweeps",
            "tables",
        )
    ]
    page = Page((tmp_path / "empty/index.html").read_text())
    assert page.text.count(f"python -m experiments.ablation suite.yaml --out {suite}") == 2
    assert "8 figures drawn, 1 command missing" in capsys.readouterr().out

    make_stage(suite / "dual_carb_2", range(1, 3), "train_carb.py", val_split="held_out")
    report.main([str(suite), "--out", str(tmp_path / "out"), "--data", "a.yaml", "b.json"])
    drawn, split = parts["scales"][0][:2]
    assert (drawn.label, split) == ("Dual + CARB, seed 2", "held_out")
    assert parts["curves"][-1][0] == parts["tables"][-1][0] == []  # they take the suite's rows
    assert parts["statistics"][-1][0] == ["a.yaml", "b.json"]
    report.main([str(suite), "--out", str(tmp_path / "out"), "--images", "val_1", "val_2"])
    assert parts["qualitative"][-1][2] == ["val_1", "val_2"]
    assert parts["regions"][-1][1] == 2  # which are training images


def test_runs_and_suites_together_are_shown_in_their_order(tmp_path, parts, run):
    """Of a data set's suites the first: of a sweep's rows nobody asked for images."""
    sweep = make_suite(tmp_path / "sweep", **ROWS)
    suite = make_suite(tmp_path / "suite", **ROWS)
    other = make_suite(tmp_path / "other", **ROWS)
    for one, data in ((suite, "data/a"), (sweep, "data/a"), (other, "data/b")):
        make_stage(one / "dual_carb_1", range(1, 3), "train_carb.py", data_root=data)
    inputs = [str(folder) for folder in (suite, run, sweep, other)]
    report.main([*inputs, "--out", str(tmp_path / "out")])
    shown = [found.folder for found in parts["qualitative"][0][0]]
    assert shown == [suite / "dual_carb_1", Path(run), other / "dual_carb_1"]
    assert parts["scales"][0][0].folder == suite / "dual_carb_1"
    assert [found.folder for found in parts["curves"][0][0]] == [Path(run)]
    (suite / "dual_carb_1/metrics.jsonl").write_text("{}}\n")
    with pytest.raises(InputError, match=r"images: .*dual_carb_1/metrics\.jsonl: expected"):
        report.main([*inputs, "--out", str(tmp_path / "out")])
    assert [found.folder for found in parts["qualitative"][-1][0]] == [Path(run)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("x.json can't be read"), "classes: x.json can't be read"),
        (FileNotFoundError(2, "No such file", "gone.png"), "classes: [Errno 2] No such file"),
        (KeyError("miou"), "classes: KeyError: 'miou'"),
    ],
)
def test_a_part_that_fails_does_not_lose_the_others(
    tmp_path, parts, run, monkeypatch, capsys, error, message
):
    def draw(*arguments):
        raise error

    monkeypatch.setattr(experiments.figures.sections.classes, "draw", draw)
    with pytest.raises(InputError, match=r"1 part failed:\n  classes: "):
        report.main([run, "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert f"{len(SECTIONS) - 1} figures drawn, 0 commands missing" in said.out
    assert ("Traceback" in said.err) == isinstance(error, KeyError)
    page = Page((tmp_path / "out/index.html").read_text())
    assert page.all("section", "id") == list(SECTIONS)
    assert message in page.text
    assert message.split(": ", 1)[1][:7] in (tmp_path / "out/report.md").read_text()


def test_a_damaged_run_of_a_suite_costs_the_images_only(tmp_path, parts, capsys):
    suite = make_suite(tmp_path / "suite", **ROWS)
    (make_stage(suite / "dual_carb_1", range(1, 3)) / "metrics.jsonl").write_text("{x}\n")
    with pytest.raises(InputError, match=r"images: .*dual_carb_1/metrics.jsonl: expected one"):
        report.main([str(suite), "--out", str(tmp_path / "out"), "--data", "a.yaml"])
    assert list(parts) == [
        "curves",
        "teachers",
        "points",
        "cams",
        "statistics",
        "rare_classes",
        "class_curves",
        "sweeps",
        "tables",
    ]
    assert "9 figures drawn, 0 commands missing" in capsys.readouterr().out


def test_only_what_is_asked_for(tmp_path, parts, run, monkeypatch):
    def no_matplotlib():
        raise InputError("figures need matplotlib: pip install matplotlib")

    monkeypatch.setattr(report, "plotting", no_matplotlib)
    with pytest.raises(InputError, match="pip install matplotlib"):
        report.main([run, "--out", str(tmp_path / "out"), "--only", "tables", "curves"])
    assert not (tmp_path / "out").exists()
    report.main([run, "--out", str(tmp_path / "out"), "--only", "tables"])  # draws nothing
    assert list(parts) == ["tables"]
    for wrong in (["--only", "fig9"], ["--images", "0"]):
        with pytest.raises(SystemExit):
            report.main([run, *wrong])


def test_make_runs_masks_and_evaluations_once_each_and_draws_again(
    tmp_path, parts, run, monkeypatch, capfd
):
    """The scripts are small ones here: they make a file of their first argument's name."""
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    script = "import pathlib, sys\nprint('in the child')\npathlib.Path(sys.argv[1]).touch()\n"
    for name in ("gen_clip_masks.py", "eval.py", "train_carb.py"):
        (tmp_path / name).write_text(script)
    masks, scores = "python gen_clip_masks.py 'some masks'", "python eval.py scores"

    def draw(*arguments):  # scores are asked for when the masks are there
        wanted = {"some masks": masks, "scores": scores, "run": "python train_carb.py run"}
        missing = [Missing(n, c) for n, c in wanted.items() if not (tmp_path / n).exists()]
        if not (tmp_path / "some masks").exists():
            missing = missing[:1]
        return [Figure("scales", "Fig. 3", "", missing=(*missing, *missing))]

    monkeypatch.setattr(experiments.figures.sections.scales, "draw", draw)
    (tmp_path / "run").rename(tmp_path / "trained")
    arguments = ["trained", "--out", "out", "--only", "scales", "tables", "--make"]
    report.main(arguments)
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("$")] == [f"$ {masks}", f"$ {scores}"]
    assert lines.count("in the child") == 2 and len(parts["tables"]) == 3
    assert lines[-1] == "out/index.html: 1 figure drawn, 1 command missing"
    assert not (tmp_path / "run").exists()  # a training

    (tmp_path / "scores").unlink()
    (tmp_path / "eval.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(InputError, match="exit status 3: python eval.py scores"):
        report.main(arguments)
    assert "python eval.py scores" in (tmp_path / "out/report.md").read_text()


# --- README

README = "# A\n\nText naming `<!-- report:x -->`.\n<!-- report:a -->\nold\n<!-- /report:a -->\nend"
TABLES = {"a": "| new |\n|---|\n", "b": "| b |"}


def test_readme_tables_stand_between_their_markers(tmp_path):
    path = tmp_path / "README.md"
    for newline in ("\n", "\r\n"):
        both = README + "\n<!-- report:b --> \n<!-- /report:b -->\n"
        path.write_bytes(both.replace("\n", newline).encode())
        assert fill_readme(path, TABLES) == (["a", "b"], [])
        expected = README.replace("old", "\n| new |\n|---|\n")
        expected += "\n<!-- report:b --> \n\n| b |\n\n<!-- /report:b -->\n"
        assert path.read_bytes() == expected.replace("\n", newline).encode()
        changed = path.stat()
        fill_readme(path, TABLES)
        assert path.stat() == changed  # not even touched


def test_tables_of_other_runs_stay_in_a_readme(tmp_path):
    path = tmp_path / "README.md"
    other = "\n<!-- report:c -->\nof another run\n<!-- /report:c -->\n"
    path.write_text(other + README)
    assert fill_readme(path, TABLES) == (["a"], ["c"])
    assert path.read_text() == other + README.replace("old", "\n| new |\n|---|\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (README.replace("report:a", "report:c"), "expected lines <!-- report:NAME"),
        (README.replace("<!-- /report:a -->", ""), "<!-- report:a --> is not closed"),
        (README.replace("/report:a", "/report:b"), "<!-- /report:b --> has no"),
        (README.replace("old", "<!-- report:b -->"), "<!-- report:a --> is not closed"),
        (README + "\n<!-- /report:a -->\n", "<!-- /report:a --> has no"),
        ("# A\n", "expected lines <!-- report:NAME"),
    ],
)
def test_a_wrong_marker_changes_nothing(tmp_path, text, message):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        fill_readme(path, TABLES)
    assert path.read_text() == text


def test_the_page_is_there_when_the_readme_fails(tmp_path, parts, run, capsys):
    path = tmp_path / "README.md"
    path.write_text(README.replace("report:a", "report:demo"))
    report.main([run, "--out", str(tmp_path / "out"), "--readme", str(path)])
    assert "<!-- report:demo -->\n\n| a |\n\n<!-- /report:demo -->" in path.read_text()
    assert f"{path}: demo" in capsys.readouterr().out
    path.unlink()
    with pytest.raises(InputError, match="--readme: no file at"):
        report.main([run, "--out", str(tmp_path / "new"), "--readme", str(path)])
    assert (tmp_path / "new/index.html").is_file()


# --- the real figures


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN/{warmup,carb} of 8 steps on generated Cityscapes with a random CLIP; nothing scored."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.make_cityscapes(folder / "data")
    tiny.make_clip(folder / "clip.pt")
    config = str(tiny.make_config(folder, views="dual", log_every=1))
    root, labels = str(folder / "data"), str(folder / "image_labels.json")
    prepare_data.main(["cityscapes", "--root", root, "--out", labels, "--splits", "train", "val"])
    common, run = ["--config", config, "--device", "cpu"], folder / "run"
    train_warmup.main([*common, "--run-dir", str(run / "warmup")])
    init = str(run / "warmup/last.pt")
    train_carb.main([*common, "--init", init, "--run-dir", str(run / "carb")])
    return run


def test_a_fresh_run_says_what_is_missing_and_how_to_make_it(trained, tmp_path, capsys):
    report.main([str(trained), "--out", str(tmp_path), "--images", "2"])
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    names = page.all("section", "id")
    for start in ("fig1", "fig3", "fig4", "fig5", "fig6", "fig7", "table1", "table4"):
        assert [name for name in names if name.startswith(start)], f"{start} is not in {names}"
    assert len(set(names)) == len(names)
    assert "Not drawn" not in text
    for code in re.findall(r'"command"><code>(.*?)</code>', text, re.S):
        line = Page(code).text
        script = next(word for word in line.split() if word.endswith((".py", ".sh")) or "." in word)
        found = script if "/" in script or script.endswith((".py", ".sh")) else None
        found = found or f"{script.replace('.', '/')}.py"
        assert Path(found).is_file(), line
    drawn, missing = re.findall(r"(\d+) figures drawn, (\d+) comm", capsys.readouterr().out)[0]
    here, absent = text.split('<h2 class="part">')
    sections = re.findall(r"<section .*?</section>", here, re.S)
    assert int(drawn) == len([s for s in sections if "<img " in s or "<table" in s])
    left = absent[absent.index('id="commands-left"') :]
    assert int(missing) == left.count('class="command"') == left.count('class="time"')
    assert names[0] == "summary" and "0 as warm-up" not in text


@pytest.mark.slow
def test_make_leaves_only_trainings(trained, tmp_path, capsys):
    report.main([str(trained), "--out", str(tmp_path), "--images", "2", "--make"])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    left = re.findall(r"```bash\n(.*)\n```", text)[:-1]
    assert left and not [command for command in left if command.startswith(report.MAKEABLE)]
    scores = json.loads((trained / "carb/eval_val/metrics.json").read_text())
    figures = (tmp_path / "figures").glob("*.png")
    assert {"fig3_scales", "fig7_qualitative", "failures", "confusion", "class_iou"} <= {
        path.stem for path in figures
    }
    drawn = json.loads((tmp_path / "figures/class_iou.json").read_text())
    found = {line["class"]: line["iou"]["run: CARB"] for line in drawn["classes"]}
    assert found == {name: scores["classes"][name]["iou"] for name in found} and found


def test_commands_that_the_data_cannot_serve_are_left_out(tmp_path) -> None:
    run = read_run(make_run(tmp_path))
    masks = f"python gen_clip_masks.py --config {run.last.folder / 'config.yaml'} --split train"
    assert obstacle(masks) == obstacle(f"{masks} --score") == ""
    shutil.rmtree(tmp_path / "data/masks")
    assert obstacle(f"{masks} --score") == "'train' has no ground truth"
    (tmp_path / "data/image_labels.json").write_text('{"t0": [0, 1]}')
    assert obstacle(masks) == "5 images of 'train' have no image-level labels"
    assert obstacle("python eval.py --ckpt x.pt") == ""
