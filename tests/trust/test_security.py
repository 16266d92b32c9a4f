"""Nothing that came with data is executed, nothing is written where it should not be."""

import ast
import contextlib
import io
import json
import os
import pickle
import re
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import clip
import conftest
import numpy as np
import pytest
import tiny
import torch
import torchvision
import yaml
from PIL import EpsImagePlugin, Image

import eval as evaluation
import gen_clip_masks
import predict
import prepare_data
import train_carb
import train_warmup
from datasets.cache import _entry, open_cached
from datasets.cityscapes import Cityscapes
from datasets.files import File, read_image, read_mask
from models.backbone_weights import load_backbone_weights
from models.resnet import DEPTHS, ResNet
from utils.safe.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent

# ---------------------------------------------------------------- what no source may say

FOLDERS = ("", "models", "datasets", "utils", "scripts", "baselines", "experiments", "demo")
FOLDERS += ("benchmarks", "tests/fuzz")
SOURCES = [
    path.relative_to(ROOT)
    for folder in FOLDERS
    for path in sorted((ROOT / folder).glob("**/*.py" if folder else "*.py"))
]
TEXTS = [
    path.relative_to(ROOT)
    for pattern in (
        "*.sh",
        "*.txt",
        "*/*.sh",
        "configs/**/*.yaml",
        "datasets/**/*.yaml",
        "experiments/**/*.yaml",
        "demo/**/*.yaml",
        "**/*.html",
    )
    for path in sorted(ROOT.glob(pattern))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]
# What stands in a file or a text is run by these, or they are open to a race.
FORBIDDEN = (
    *("pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "runpy", "importlib"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load"),
    *("yaml.full_load_all", "yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "ctypes"),
    *("torch.jit.load", "torch.hub.load", "torch.package", "os.system", "os.popen", "tarfile"),
    *("tempfile.mktemp", "shutil.unpack_archive", "xml", "lxml", "urllib.request", "requests"),
    *("http.client", "ftplib", "telnetlib"),
)
BUILTINS = {"eval", "exec", "compile", "__import__"}
ALLOWED = {
    "benchmarks/comparators.py": ["importlib.import_module"],  # of the modules it names
    "benchmarks/gpu_check.py": ["importlib.import_module"],  # likewise
    "benchmarks/run.py": ["importlib.import_module"],  # likewise
    "datasets/doctor/official_labels.py": ["pickle", "pickle.Unpickler"],  # its find_class refuses
    "datasets/mask_exports/label_studio.py": [  # writes a file of its own
        "xml.etree.ElementTree",
        *(f"xml.etree.ElementTree.{n}" for n in ("Element", "SubElement", "indent", "tostring")),
    ],
    "models/clip_loading.py": [
        "torch.jit.load",  # after the sha256 is checked
        "http.client.HTTPException",
    ],
    "models/kernels/free_memory.py": ["ctypes", "ctypes.CDLL"],  # for malloc_trim of glibc
    "utils/checkpoint.py": ["importlib.metadata.version"],  # reads a text
    "utils/safe/tar_file.py": [  # reads headers; extracts nothing
        "tarfile",
        *(f"tarfile.{n}" for n in ("BLOCKSIZE", "PAX_FORMAT", "ReadError", "TarError", "TarInfo")),
        "tarfile.open",
    ],
    "utils/safe/xml_file.py": [  # its parser refuses document types
        *("xml.etree", "xml.etree.ElementTree"),
        *(
            f"xml.etree.ElementTree.{n}"
            for n in ("Element", "TreeBuilder", "XMLParser", "ParseError")
        ),
    ],
}


def unsafe_forms(path: Path, text: str) -> list[str]:
    """The unsafe things that a source imports, names or does, each with its line."""
    nodes = list(ast.walk(ast.parse(text)))
    imported: dict[str, str] = {}  # local name -> what it stands for
    named: list[tuple[int, str]] = []
    faults: list[tuple[int, str]] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                imported |= {alias.asname: alias.name} if alias.asname else {top: top}
                named.append((node.lineno, alias.name))
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                named.append((node.lineno, f"{node.module}.{alias.name}"))

    def dotted(node: ast.AST) -> str:
        if isinstance(node, ast.Attribute):
            return f"{dotted(node.value)}.{node.attr}"
        return imported.get(node.id, f"local {node.id}") if isinstance(node, ast.Name) else "?"

    for node in nodes:
        if isinstance(node, ast.Attribute | ast.Name):
            named.append((node.lineno, dotted(node)))
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            faults.append((node.lineno, "except without a type"))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.search(r"http://(?!www\.w3\.org/)", node.value):
                faults.append((node.lineno, f"an address without TLS: {node.value}"))
        elif isinstance(node, ast.Call):
            faults += [(node.lineno, fault) for fault in faults_of_call(path, node, dotted)]
    faults += [
        (line, name)
        for line, name in named
        if any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN)
        and name not in ALLOWED.get(str(path), [])
    ]
    return sorted({f"{path}:{line}: {fault}" for line, fault in faults})


def faults_of_call(path: Path, call: ast.Call, dotted: Callable[[ast.AST], str]) -> list[str]:
    name = dotted(call.func)
    options = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
    formats = path.parts[0] == "datasets" and "formats" not in options
    wrong = {
        f"{name}(...) of a text": name.removeprefix("local ") in BUILTINS,
        "torch.load without weights_only=True": name == "torch.load"
        and options.get("weights_only") is not True,
        "numpy.load without allow_pickle=False": name == "numpy.load"
        and options.get("allow_pickle") is not False,
        "allow_pickle": options.get("allow_pickle", False) is not False
        and name != "numpy.save",  # tests/fuzz writes what must be refused
        "a shell": options.get("shell", False) is not False,
        "an archive is extracted": name.endswith((".extractall", ".extract")),
        "pictures of every format, EPS among them, which is a program": formats
        and name == "PIL.Image.open",
    }
    return [fault for fault, there in wrong.items() if there]


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_source_has_an_unsafe_form(path: Path) -> None:
    assert unsafe_forms(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\npickle.load(f)",
        "from pickle import loads as read\nread(b)",
        "import pickle as p\nclass R(p.Unpickler): pass",
        "import torch\ntorch.load(p)",
        "import torch\ntorch.load(p, weights_only=False)",
        "import torch\ntorch.load(p, weights_only=flag)",
        "from torch import jit\njit.load(p)",
        "import torch.hub\ntorch.hub.load('a', 'b')",
        "import numpy as np\nnp.load(p)",
        "import numpy\nnumpy.load(p, allow_pickle=True)",
        "import yaml\nyaml.load(t, yaml.SafeLoader)",
        "import yaml\nyaml.full_load(t)",
        "from yaml import unsafe_load",
        "eval('1')",
        "exec(text)",
        "x = __import__('os')",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nsubprocess.run('ls', shell=flag)",
        "from xml.etree import ElementTree",
        "import xml.dom.minidom",
        "URL = 'http://example.org/w.pth'",
        "import tempfile\ntempfile.mktemp()",
        "import zipfile\nzipfile.ZipFile(p).extractall(d)",
        "archive.extract(member)",
        "import requests",
        "import importlib\nimportlib.import_module(name)",
        "import numpy as np\nnp.lib.format.read_array(f, allow_pickle=flag)",
        "try:\n    pass\nexcept:\n    pass",
        "from PIL import Image\nImage.open(p)",
    ],
)
def test_each_unsafe_form_is_seen(text: str) -> None:
    assert unsafe_forms(Path("datasets/new.py"), text)


def test_what_looks_like_one_is_let_through() -> None:
    text = (
        "import torch, yaml, numpy as np, eval as evaluation\nmodel.eval()\nevaluation.main([])\n"
        "torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nyaml.safe_load(t)\n"
        "re.compile('x')\nmodel.compile()\nSVG = 'http://www.w3.org/2000/svg'\nsubprocess.run([])\n"
    )
    assert unsafe_forms(Path("models/new.py"), text) == []


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_no_script_or_config_fetches_without_tls_or_runs_what_it_fetched(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not re.search(r"http://(?!www\.w3\.org/)|--trusted-host|--no-check-certificate", text)
    assert not re.search(r"(curl|wget)\b.*\|\s*(ba)?sh|\beval\b\s+[\"$]", text)
    assert not re.search(r"!!python", text)


# ---------------------------------------------------------------- pickles with code in them


class Trap:
    """Makes the folder "executed" when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


def saved(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def as_array(content: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(content, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def as_program(content: object) -> bytes:
    """A TorchScript archive: no pickle that executes, but a program all the same."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    return buffer.getvalue()


FORMS: dict[str, Callable[[object], bytes]] = {
    "zip": saved,
    "old": lambda content: saved(content, _use_new_zipfile_serialization=False),
    "bare": lambda content: pickle.dumps(content, protocol=2),
    "array": as_array,
    "script": as_program,
}
CONFIG = ("--config", "config.yaml", "--device", "cpu")
NEW = (*CONFIG, "--run-dir", "new")
LABELS = ("cityscapes", "--root", "data", "--out", "new.json")
MASKS = (*CONFIG, "--out", "new_masks")
# What reads it: where the file goes, the script, its arguments.
READERS = {
    "eval --ckpt": ("x.pt", evaluation, ("--ckpt", "x.pt")),
    "predict --ckpt": ("x.pt", predict, ("street.png", "--ckpt", "x.pt", "--out", "new")),
    "train_carb --init": ("x.pt", train_carb, (*NEW, "--init", "x.pt")),
    "last.pt of a warm-up": ("run/last.pt", train_warmup, (*CONFIG, "--run-dir", "run")),
    "clip_model": ("clip.pt", gen_clip_masks, MASKS),
    "clip_text": ("text.pt", gen_clip_masks, MASKS),
    "clip_text, rows": ("text.npy", gen_clip_masks, (*MASKS, "--set", "clip_text=text.npy")),
    "a backbone": ("backbone.pth", train_warmup, (*NEW, "--set", "backbone_weights=backbone.pth")),
    "labels.npy": ("labels.npy", prepare_data, (*LABELS, "--import-labels", "labels.npy")),
    "labels.json": ("l.json", prepare_data, (*LABELS, "--labels", "l.json")),
    "labels of a config": ("labels.json", train_warmup, NEW),
    "a stored mask": ("masks/trainburg/trainburg_000000_000019.png", train_warmup, NEW),
    "masks' meta.json": ("new_masks/meta.json", gen_clip_masks, MASKS),
    "a config": ("config.yaml", train_warmup, NEW),
    "a class file": ("classes.yaml", train_warmup, (*NEW, "--set", "class_file=classes.yaml")),
    "prompt templates": ("t.txt", gen_clip_masks, (*MASKS, "--set", "prompt_templates=t.txt")),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, labels, a CLIP, masks, and a run folder without a checkpoint."""
    folder = tmp_path_factory.mktemp("world")
    tiny.make_cityscapes(folder / "data", num_train=2, num_val=1)
    tiny.make_clip(folder / "clip.pt")
    names = {"data_root": "data", "image_labels": "labels.json", "pseudo_masks": "masks"}
    names |= {"clip_model": "clip.pt", "clip_text": "text.pt", "classifier": "conv"}
    names |= {"class_file": str(ROOT / "datasets/classes/cityscapes.yaml"), "views": "base"}
    tiny.make_config(folder, **names, batch_size=2)
    (folder / "run").mkdir()
    (folder / "run/config.yaml").write_bytes((folder / "config.yaml").read_bytes())
    (folder / "run/metrics.jsonl").write_text('{"step": 2}\n')
    images = [f"trainburg/trainburg_00000{i}_000019" for i in range(2)]
    for name in images:
        tiny.save(folder / f"masks/{name}.png", np.zeros(tiny.SIZE, np.uint8))
    (folder / "labels.json").write_text(json.dumps({name: [0] for name in images}))
    tiny.save(folder / "street.png", np.zeros((9, 9, 3), np.uint8))
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reader", READERS)
def test_a_pickle_with_code_is_refused_unread(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, form: str
) -> None:
    check_refused(world, tmp_path, monkeypatch, READERS[reader], form)


def check_refused(world: Path, tmp_path: Path, monkeypatch, reader: tuple, form: str) -> None:
    place, script, arguments = reader
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    content = FORMS[form]({"model": Trap(), "config": {}, "class_names": [], "palette": []})
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: Path("executed").mkdir())
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_bytes(content)
    with pytest.raises(InputError) as refused:
        script.main([*arguments])
    assert not Path("executed").exists()
    assert Path(place).name in str(refused.value)
    advice = "copy|download|save|make|mend|fix|remove|expected|overwrite"
    assert re.search(advice, str(refused.value)), refused.value
    assert "weights_only" not in str(refused.value) and "allow_pickle" not in str(refused.value)


def test_the_traps_are_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for form, load in (
        ("zip", lambda f: torch.load(f, weights_only=False)),
        ("old", lambda f: torch.load(f, weights_only=False)),
        ("bare", pickle.load),
        ("array", lambda f: np.load(f, allow_pickle=True)),
    ):
        load(io.BytesIO(FORMS[form]({"model": Trap()})))
        Path("executed").rmdir()


def test_a_trap_in_the_image_cache_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    tiny.save(Path("a.png"), pixels)
    entry = _entry(Path("cache"), File("a.png"))
    entry.parent.mkdir()
    for form, make in FORMS.items():
        entry.write_bytes(make(Trap()))
        size, read = open_cached(Path("cache"), File("a.png"))
        np.testing.assert_array_equal(read((0, 0, *size)), pixels)
        assert not Path("executed").exists(), form


def test_a_trap_among_the_reference_cases_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(conftest, "GOLDENS", tmp_path)
    np.savez("a.npz", x=np.array(Trap(), dtype=object))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        conftest.load_golden("a.npz")["x"]
    assert not Path("executed").exists()


def test_a_picture_that_is_a_program_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EPS is one: Pillow hands it to Ghostscript, whatever the file is called."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'executed'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / "street.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=r"street\.png"):
            read(File(str(path)))
    assert not (tmp_path / "executed").exists()
    with contextlib.suppress(OSError):
        Image.open(path).load()
    assert (tmp_path / "executed").exists()  # the danger is real


def test_torchscript_is_opened_after_the_hash_or_trust_alone(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """By every script that opens CLIP; models/clip_loading.py has the rest in its own tests."""
    opened: list[str] = []
    monkeypatch.setattr(torch.jit, "load", lambda path, **_: opened.append(path) or 1 / 0)
    program = world / "program.pt"
    program.write_bytes(as_program(None))
    more = ["--set", f"clip_model={program}", "--set", "views=local", "--set", "classifier=text"]
    monkeypatch.chdir(world)
    for script, arguments in ((gen_clip_masks, MASKS), (train_warmup, NEW)):
        with pytest.raises(InputError, match=r"is a program.*--trust-torchscript"):
            script.main([*arguments, *more])
        assert not opened
        with pytest.raises(InputError, match=r"program\.pt.*can't be read"):
            script.main([*arguments, *more, "--trust-torchscript"])
        assert opened.pop() == str(program)
    for script in (gen_clip_masks, train_warmup, train_carb):
        with pytest.raises(SystemExit):
            script.main(["--help"])
        assert "--trust-torchscript" in capsys.readouterr().out


def test_openai_addresses_have_tls_and_a_hash() -> None:
    """OpenAI's loader checks what it downloads against the hash in the address."""
    for address in clip.clip._MODELS.values():
        assert re.fullmatch(r"https://[^/]+/clip/models/[0-9a-f]{64}/[\w-]+\.pt", address)


# ---------------------------------------------------------------- downloads


@pytest.mark.parametrize(
    "source, message",
    [
        ("http://a.org/w-12345678.pth", "not an https:// address"),
        ("http://a.org/w.pth#sha256=12345678", "not an https:// address"),
        ("ftp://a.org/w-12345678.pth", "not an https:// address"),
        ("file:///etc/w-12345678.pth", "not an https:// address"),
        ("HTTPS://a.org/w-12345678.pth", "not an https:// address"),
        ("https://a.org/w.pth", "the hash of .* is unknown.*#sha256=HASH"),
        ("https://a.org/w-1234567.pth", "the hash of .* is unknown"),
        ("https://a.org/w.pth#sha256=1", "'backbone_weights' must end in"),
        ("https://a.org/#sha256=12345678", "does not end in the name of a file"),
        ("https://a.org/..#sha256=12345678", "does not end in the name of a file"),
        ("https://a.org/..\\..\\w.pth#sha256=12345678", "does not end in the name of a file"),
        ("https://a.org/.bashrc#sha256=12345678", "does not end in the name of a file"),
        ("https://a.org/x/..?w.pth#sha256=12345678", "does not end in the name of a file"),
        ("https://a.org/w-deadbeef.pth", "sha256 is .* expected deadbeef"),
        ("https://a.org/w.pth#sha256=deadbeef", "sha256 is .* expected deadbeef"),
    ],
)
def test_downloads_are_by_https_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    fetched = []

    def fetch(url: str, path: str) -> None:
        fetched.append(path)
        Path(path).write_bytes(b"other weights")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(InputError, match=message):
        load_backbone_weights(ResNet(18, 4), source)
    assert all(Path(path).parent == tmp_path / "checkpoints" for path in fetched)
    assert bool(fetched) == ("sha256 is" in message or source.endswith("=1"))


def test_imagenet_weights_of_torchvision_have_tls_and_a_hash() -> None:
    for depth in DEPTHS:
        address = torchvision.models.get_model_weights(f"resnet{depth}").IMAGENET1K_V1.url
        assert re.fullmatch(
            r"https://download\.pytorch\.org/models/[\w]+-[0-9a-f]{8}\.pth", address
        )


def test_the_addresses_of_the_configs_are_checked() -> None:
    for path in ROOT.glob("configs/**/*.yaml"):
        values = yaml.safe_load(path.read_text())
        if "://" in str(values.get("backbone_weights")):
            assert values["backbone_weights"].startswith("https://")
            assert re.search("(-|#sha256=)[0-9a-f]{8,64}([.]|$)", values["backbone_weights"])


# ---------------------------------------------------------------- names that lead elsewhere


@pytest.mark.parametrize(
    "name",
    [
        "../../escaped",
        "a/../../../escaped",
        "/tmp/escaped",
        "//escaped",
        "..\\..\\escaped",
        "a\\b",
        "C:/escaped",
        "C:escaped",
        "a/./../../escaped",
        "./escaped",
    ],
)
def test_members_of_a_zip_stay_where_they_are_put(tmp_path: Path, name: str) -> None:
    """An image's name becomes that of its mask, prediction and picture."""
    picture = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(picture, "PNG")
    with zipfile.ZipFile(tmp_path / "leftImg8bit_trainvaltest.zip", "w") as archive:
        member = zipfile.ZipInfo("x")
        member.filename = f"leftImg8bit/train/{name}_leftImg8bit.png"  # as it is, backslashes too
        archive.writestr(member, picture.getvalue())
    with pytest.raises(InputError, match=r"leftImg8bit_trainvaltest\.zip.*leaves its folder"):
        Cityscapes(tmp_path).images("train")


def test_a_link_in_a_zip_is_no_picture(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(secret)
    with zipfile.ZipFile(tmp_path / "leftImg8bit_trainvaltest.zip", "w") as archive:
        link = zipfile.ZipInfo("leftImg8bit/train/a/a_leftImg8bit.png")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(secret))
    (file,) = Cityscapes(tmp_path).images("train").values()
    with pytest.raises(InputError, match=r"a_leftImg8bit\.png.*(no|not an) image"):
        read_image(file)
